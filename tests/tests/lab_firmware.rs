//! Guests without a kernel of the host's: SeaBIOS, GRUB and a stock Debian kernel from the guest's own
//! medium, as a person starts them. Run in the lab (`cargo xtask test --only-lab`).
//!
//! A whole Debian on a disk with a boot loader takes minutes: `cargo xtask test --only-lab --scenario
//! debian_boots_from_its_own --all`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::console::Console;
use tests::linux::until;
use tests::skip_unless;
use tests::world::World;

/// What GRUB says before it loads the kernel.
const HELLO: &str = "GRUB is here";

/// What a screen shows, of the bytes that the BIOS sends for it: it moves the cursor where it likes.
fn plain(said: &str) -> String {
    let mut parts = said.split("\x1b[");
    let mut shown = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        shown.push_str(end.and_then(|end| part.get(end + 1..)).unwrap_or_default());
    }
    shown
}

/// Waits until a guest says that it is up, and wants that it came there through BIOS and boot loader.
#[track_caller]
fn boots(console: &mut Console, prompt: &str) {
    let shown = plain(&console.wait_for(prompt));
    for stage in ["SeaBIOS (version", HELLO] {
        assert!(shown.contains(stage), "{stage}: {shown}");
    }
}

fn lab(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A folder's `/boot` with a kernel, its RAM disk, and GRUB's word on how to start them. GRUB speaks to
/// the BIOS only, as on any disk that was installed without a thought of serial lines.
fn fill_boot(boot: &Path, kernel: &Path, initrd: &Path, cmdline: &str) {
    fs::create_dir_all(boot.join("grub")).expect("a folder");
    fs::copy(kernel, boot.join("vmlinuz")).expect("a kernel");
    fs::copy(initrd, boot.join("initrd")).expect("a RAM disk");
    let config = format!(
        "set timeout=0\necho '{HELLO}'\nlinux /boot/vmlinuz console=ttyS0 quiet panic=-1 {cmdline}\n\
         initrd /boot/initrd\nboot\n"
    );
    fs::write(boot.join("grub/grub.cfg"), config).expect("a configuration");
}

fn domain(name: &str, memory: u32, os: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    {os}
  </os>
  <features><acpi/><apic/></features>
  <devices>
{devices}    <serial type='pty'/>
    <console type='pty'/>
  </devices>
</domain>
"
    )
}

fn disk(device: &str, file: &Path, target: &str) -> String {
    format!(
        "    <disk type='file' device='{device}'><driver name='qemu' type='raw'/>\
         <source file='{}'/><target dev='{target}' bus='virtio'/></disk>\n",
        file.display()
    )
}

/// A CD-ROM image as distributions ship them, which also boots as a hard disk, behind a disk that has
/// nothing to boot: only the order leads to it.
#[test]
fn grub_on_a_cdrom_image_boots_a_stock_kernel_and_reboots() {
    let (Some(kernel), Some(initrd)) = (lab("LAB_KERNEL"), lab("LAB_INITRD")) else {
        return skip();
    };
    let world = World::new();
    let (tree, iso) = (world.path("tree"), world.path("boot.iso"));
    fill_boot(&tree.join("boot"), &kernel, &initrd, "nokaslr");
    run("grub-mkrescue", &["-o", text(&iso), text(&tree)]);
    let os = "<boot dev='cdrom'/>\n    <boot dev='hd'/>";
    let devices = disk("disk", &world.path("disk.raw"), "vda") + &disk("cdrom", &iso, "vdb");
    world.define_xml(&domain("grub", 256, os, &devices));
    world.ok(&["start", "grub"]);
    let mut console = Console::open(&world, "grub");
    boots(&mut console, "GUEST-READY");
    console.wait_for("guest# ");
    assert!(
        console
            .shell("cat /proc/cmdline")
            .contains("BOOT_IMAGE=/boot/vmlinuz")
    );
    // The firmware's tables, and the medium that is read-only.
    assert!(console.shell("dmesg | grep -c 'DMI: '").contains('1'));
    assert_eq!(console.shell("cat /sys/block/vdb/ro"), "1");
    assert_eq!(
        console.shell("dmesg | grep -ciE 'ACPI (bios )?error' || true"),
        "0"
    );

    // The guest's own reset goes through the BIOS again.
    console.send("reboot -f");
    boots(&mut console, "GUEST-READY");
    console.wait_for("guest# ");
    console.send("poweroff -f");
    until("the guest does not power off", || {
        world.ok(&["domstate", "grub"]).contains("shut off")
    });
    let reason = world.ok(&["domstate", "grub", "--reason"]);
    assert!(reason.contains("shut off (shutdown)"), "{reason}");
}

/// Makes a disk of a file system: a partition behind GRUB's boot record and core, which is where
/// `grub-install` puts them. That looks for the disk among the host's devices, and this one is a file.
const DISK: &str = r#"
modprobe loop || true
qemu-img convert -O raw "$1" "$2.part"
truncate -s $(($(stat -c %s "$2.part") + 1048576)) "$2"
echo 'start=2048, type=83, bootable' | sfdisk --quiet "$2"
dd if="$2.part" of="$2" bs=1M seek=1 conv=notrunc,sparse status=none
rm "$2.part"
grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$2.core" biosdisk part_msdos ext2 normal linux echo
dd if=/usr/lib/grub/i386-pc/boot.img of="$2" bs=440 count=1 conv=notrunc status=none
dd if="$2.core" of="$2" bs=512 seek=1 conv=notrunc status=none
mkdir "$3"
mount -o loop,offset=1048576 "$2" "$3"
"#;

/// The lab's Debian in a partition of a disk with a boot loader, as an installer leaves it.
fn debian(folder: &Path, lab_disk: &Path, kernel: &Path, initrd: &Path) -> PathBuf {
    let (disk, root) = (folder.join("debian.raw"), folder.join("root"));
    let files = [lab_disk, &disk, &root].map(text);
    run("sh", &[&["-ec", DISK, "sh"][..], &files].concat());
    fill_boot(&root.join("boot"), kernel, initrd, "root=/dev/vda1 rw");
    fs::write(root.join("etc/fstab"), "/dev/vda1 / ext4 rw,noatime 0 1\n").expect("fstab");
    run("umount", &[text(&root)]);
    disk
}

#[test]
#[ignore = "two boots of a whole Debian through its boot loader: minutes under emulation"]
fn debian_boots_from_its_own_disk_reboots_and_obeys_the_power_button() {
    let (Some(kernel), Some(initrd)) = (lab("LAB_KERNEL"), lab("LAB_INITRD")) else {
        return skip();
    };
    let Some(lab_disk) = lab("LAB_DISK") else {
        return skip();
    };
    let world = World::new();
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let disk = self::disk(
        "disk",
        &debian(folder.path(), &lab_disk, &kernel, &initrd),
        "vda",
    );
    world.define_xml(&domain("debian", 512, "", &disk));
    world.ok(&["start", "debian"]);
    let mut console = Console::open(&world, "debian");
    boots(&mut console, "login: ");
    log_in(&mut console);
    assert_eq!(console.shell("findmnt -no SOURCE /"), "/dev/vda1");
    listen(&mut console);
    world.ok(&["reboot", "debian"]);
    boots(&mut console, "login: ");
    log_in(&mut console);
    assert!(
        console
            .shell("systemctl --failed --no-pager")
            .contains("0 loaded units")
    );
    listen(&mut console);
    world.ok(&["shutdown", "debian", "--wait", "240"]);
    assert!(world.ok(&["domstate", "debian"]).contains("shut off"));
}

/// root has no password.
fn log_in(console: &mut Console) {
    console.send("root");
    console.wait_for("# ");
}

/// Waits until the guest minds its power button: a press that nobody listens for is lost.
fn listen(console: &mut Console) {
    console.shell(
        "for i in $(seq 90); do journalctl -b -u systemd-logind | grep -q Watching && break; sleep 1; done",
    );
}

fn skip() {
    skip_unless!(
        false,
        "needs a stock kernel: LAB_KERNEL, LAB_INITRD and LAB_DISK are not set"
    );
}
