# Init of a lab host: mounts, modules, network, then on the first host the script, on the terminal
# hvc0; its exit status goes to the port lab.status and the machine goes off; meanwhile lab.pulse shows
# that we live. The other hosts wait to be asked over ssh. What the run wants is in /lab/run/settings;
# which host this is, on the command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=linux
. /lab/run/settings
for word in $(cat /proc/cmdline); do
    case $word in lab.host=*) LAB_NUMBER=${word#lab.host=} ;; esac
done
LAB_HOST=kvm0$LAB_NUMBER
hostname "$LAB_HOST"
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/sshd
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug 2> /dev/null
ip link set lo up
modprobe -a kvm-amd tun
[ -c /dev/kvm ] || echo "lab: this lab host has no /dev/kvm" > /dev/console
named_port() {
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name")" = "$1" ] && echo "/dev/$(basename "$(dirname "$name")")"
    done
}
(
    while pulse=$(named_port lab.pulse); [ -z "$pulse" ]; do sleep 1; done
    while echo alive; do sleep 5; done > "$pulse"
) &
# Should nobody watch over us any more, we go by ourselves.
[ "$LAB_LIMIT" -gt 0 ] && (sleep $((LAB_LIMIT + 60)) && busybox poweroff -f) &

export LAB_HOST LAB_KERNEL=/lab/shared/kernel LAB_INITRD=/lab/shared/guest.cpio
for kernel in /lab/shared/kernel-*; do
    [ -f "$kernel" ] || continue
    name=${kernel#*/kernel-}
    word=$(echo "$name" | tr a-z- A-Z_)
    export "LAB_KERNEL_$word=$kernel" "LAB_INITRD_$word=/lab/shared/guest-$name.cpio"
done
export LAB_DISK=/lab/shared/guest.qcow2 LAB_GUEST=/lab/run/test-guest LAB_FILES=/lab/run/files
export VM_TEST_VMM=/lab/run/libexec/vm/vmm VM_TEST_VM=/lab/run/bin/vm VM_TEST_GUEST=$LAB_GUEST
export PATH=/lab/run/bin:$PATH
if [ "$LAB_SYSTEMD" = yes ]; then
    LAB_BOOT=$(($(cat /var/lib/lab-boots 2> /dev/null || echo 0) + 1))
    export LAB_BOOT
    echo "$LAB_BOOT" > /var/lib/lab-boots
fi
export -p > /run/lab-environment

serve_data() {
    modprobe nfsd
    mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /srv/data /var/lib/nfs/v4recovery
    touch /var/lib/nfs/etab /var/lib/nfs/rmtab
    exportfs -o rw,sync,no_root_squash,no_subtree_check,insecure,fsid=0 '*:/srv/data'
    # A dead client's locks are free after these seconds; a real server waits 90.
    echo 10 > /proc/fs/nfsd/nfsv4leasetime
    echo 10 > /proc/fs/nfsd/nfsv4gracetime
    rpc.mountd --no-nfs-version 3
    rpc.nfsd --no-nfs-version 3 --nfs-version 4 --lease-time 10 --grace-time 10 4
    # There is nobody to reclaim anything: opens need not wait.
    echo Y > /proc/fs/nfsd/v4_end_grace
}

if [ "$LAB_HOSTS" -gt 1 ]; then
    modprobe -a virtio_net bridge
    ip link add lan type bridge
    for link in /sys/class/net/eth*; do
        ip link set "$(basename "$link")" up master lan
    done
    ip addr add "10.77.0.$LAB_NUMBER/24" dev lan
    ip link set lan up
    /usr/sbin/sshd
fi > /dev/console 2>&1
if [ "$LAB_NFS" = yes ]; then
    [ "$LAB_NUMBER" = 1 ] && [ "$LAB_HOSTS" -eq 1 ] && ip addr add 10.77.0.1/32 dev lo
    [ "$LAB_NUMBER" = 1 ] && serve_data
    mkdir -p /data
    modprobe nfsv4
    until mount -t nfs4 -o vers=4.2 kvm01:/ /data; do sleep 0.2; done
fi > /dev/console 2>&1
: > /run/lab-ready
if [ "$LAB_NUMBER" != 1 ]; then
    while :; do sleep 1000; done
fi

number=2
while [ "$number" -le "$LAB_HOSTS" ]; do
    until ssh "kvm0$number" test -e /run/lab-ready; do sleep 0.3; done
    number=$((number + 1))
done > /dev/console 2>&1

cat > /run/lab-script.sh << 'END'
. /lab/run/settings
. /run/lab-environment
END
cat >> /run/lab-script.sh << END
port=$(named_port lab.status)
END
cat >> /run/lab-script.sh << 'END'
if [ "$LAB_TERMINAL" = yes ]; then
    stty -F /dev/hvc0 sane rows "$LAB_ROWS" cols "$LAB_COLUMNS"
    export TERM="$LAB_TERM"
    control=--ctty
    input=/dev/hvc0
else
    # Bytes as they are: no carriage returns, no echo.
    stty -F /dev/hvc0 raw -echo
    control=
    input=/dev/null
fi
cd /root
setsid $control --wait bash /lab/run/start < "$input" > /dev/hvc0 2>&1
status=$?
# Where the script asked for a reboot, the next boot runs it again.
[ "$(systemctl is-system-running 2> /dev/null)" = stopping ] && exit
sync
echo "$status" > "$port"
busybox poweroff -f
END
if [ "$LAB_SYSTEMD" = yes ]; then
    units=/run/systemd/system
    mkdir -p $units/multi-user.target.wants
    cat > $units/lab-script.service << 'END'
[Unit]
Description=The script of this run
After=multi-user.target
[Service]
ExecStart=/bin/sh /run/lab-script.sh
# The script's programs may take their time to end; at a reboot nothing waits for them.
KillSignal=SIGKILL
END
    ln -s ../lab-script.service $units/multi-user.target.wants/
    # Both are ours, and without udev their devices never come.
    ln -s /dev/null $units/serial-getty@hvc0.service
    ln -s /dev/null $units/serial-getty@ttyS0.service
    exec /sbin/init
fi
. /run/lab-script.sh
