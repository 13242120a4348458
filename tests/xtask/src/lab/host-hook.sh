# Runs while the folder of the lab host ($1) is made. First the newest cloud kernel of the release, without the
set -e
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends linux-image-cloud-amd64 |
    awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
fetch=$root/fetched-kernel
mkdir "$fetch"
(cd "$fetch" && apt-get download -q "$package")
dpkg-deb --extract "$fetch"/*.deb "$fetch/tree"
version=$(ls "$fetch/tree/lib/modules")
mkdir -p "$root/usr/lib/modules"
mv "$fetch/tree/lib/modules/$version" "$root/usr/lib/modules/"
mv "$fetch/tree/boot/vmlinuz-$version" "$root/kernel"
rm -r "$fetch"
chroot "$root" depmod "$version"
mkdir -p "$root/lab/shared" "$root/lab/run"
# Lab hosts know each other: one key for all, and connections that are opened once.
mkdir -p -m 700 "$root/root/.ssh"
chroot "$root" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp "$root/root/.ssh/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
cat > "$root/root/.ssh/config" << 'END'
Host *
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    ControlMaster auto
    ControlPath /run/ssh-to-%h
    ControlPersist 3600
END
{ echo 127.0.0.1 localhost; for n in 1 2 3 4 5 6 7 8 9; do echo "10.77.0.$n kvm0$n"; done; } > "$root/etc/hosts"
ln -s /lab/run/bin/vm /lab/run/bin/vmm "$root/usr/local/bin/"
# Where a run asks for a host with systemd: nothing that only costs time there.
chroot "$root" systemctl --quiet mask nfs-server.service nfs-mountd.service nfs-idmapd.service \
    nfsdcld.service nfs-blkmap.service rpc-statd-notify.service rpc-statd.service rpcbind.service \
    rpcbind.socket nfs-client.target fstrim.timer e2scrub_all.timer e2scrub_reap.service \
    systemd-pstore.service proc-sys-fs-binfmt_misc.automount getty@tty1.service nftables.service \
    dpkg-db-backup.timer apt-daily.timer apt-daily-upgrade.timer
