#!/bin/busybox sh
# First program of a guest: loads what virtio devices need. With root=DEVICE on the command line it
# goes on to that disk's own init; without, it is a shell on ttyS0.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
read -r up _ < /proc/uptime
echo "GUEST-INIT $up"
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
if $b grep -qs '^0x0380' /sys/bus/pci/devices/*/class; then
    while read -r module; do $b insmod "/modules/$module"; done < /modules/order-screen
fi
root=
init=/sbin/init
read -r line < /proc/cmdline
for word in $line; do
    case $word in
    root=*) root=${word#root=} ;;
    init=*) init=${word#init=} ;;
    esac
done
if [ -n "$root" ]; then
    $b mkdir /new
    tries=0
    until [ -b "$root" ] || [ $tries -ge 1000 ]; do $b usleep 10000; tries=$((tries + 1)); done
    if $b mount -o rw "$root" /new; then
        for tree in proc sys dev; do $b mount -o move /$tree /new/$tree; done
        exec $b switch_root /new "$init"
    fi
    echo "guest: cannot mount $root; here is a shell"
fi
$b --install -s /bin
export PATH=/bin HOME=/root PS1='guest# '
read -r up _ < /proc/uptime
echo "GUEST-READY $up"
cd /root
while :; do setsid cttyhack sh < /dev/ttyS0 > /dev/ttyS0 2>&1; done
