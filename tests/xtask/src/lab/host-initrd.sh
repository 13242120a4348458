#!/bin/busybox sh
# First program of a lab host: its disks, then the init that this run brought along.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
$b mkdir /new
tries=0
until [ -b /dev/vdc ] || [ $tries -ge 500 ]; do $b usleep 10000; tries=$((tries + 1)); done
$b mount -t ext4 -o rw,noatime /dev/vda /new &&
    $b mount -t ext4 -o ro /dev/vdb /new/lab/shared &&
    $b mount -t ext4 -o ro /dev/vdc /new/lab/run || {
    echo "lab: the lab host's disks cannot be mounted"
    $b poweroff -f
}
for tree in proc sys dev; do $b mount -o move /$tree /new/$tree; done
exec $b switch_root /new /bin/sh /lab/run/init
