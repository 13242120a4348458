# Runs while the guest's folder ($1) is made: a machine that boots to a login prompt on ttyS0, lets
# root in without a password, and obeys the power button.
set -e
root=$1
echo debian > "$root/etc/hostname"
echo '127.0.0.1 localhost debian' > "$root/etc/hosts"
echo '/dev/vda / ext4 rw,noatime 0 1' > "$root/etc/fstab"
chroot "$root" passwd --quiet --delete root
chroot "$root" systemctl --quiet enable serial-getty@ttyS0.service
chroot "$root" systemctl --quiet mask getty@tty1.service systemd-timesyncd.service \
    fstrim.timer e2scrub_all.timer e2scrub_reap.service systemd-pstore.service \
    proc-sys-fs-binfmt_misc.automount
rm -f "$root/etc/machine-id"
: > "$root/etc/machine-id"
