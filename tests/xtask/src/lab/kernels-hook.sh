# Runs while the folder of the lab host ($1) is made, after a line that sets `wanted`: words NAME=PACKAGE. For each,
# the kernel that the package (a metapackage) stands for is unpacked below kernels/NAME of the folder.
set -e
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
for word in $wanted; do
    target=$root/kernels/${word%%=*}
    package=$(apt-cache depends "${word#*=}" |
        awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
    if [ -z "$package" ]; then
        echo "no ${word#*=} to be had"
        continue
    fi
    mkdir -p "$target/usr"
    (cd "$target" && apt-get download -q "$package")
    dpkg-deb --extract "$target"/*.deb "$target/tree"
    mv "$target/tree/lib" "$target/usr/lib"
    mv "$target/tree/boot"/vmlinuz-* "$target/kernel"
    rm -r "$target"/*.deb "$target/tree"
    # As in the lab host's root, where lib is a link.
    ln -s usr/lib "$target/lib"
    chroot "$root" depmod --basedir "/kernels/${word%%=*}" "$(ls "$target/usr/lib/modules")"
done
