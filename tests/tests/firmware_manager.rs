//! A domain without `<kernel>`, as a person has it: the real `vm`, the real `vmm` and stock SeaBIOS on
//! this machine's KVM, up to a boot sector.

use std::path::Path;
use tests::console::Console;
use tests::machine::SEABIOS;
use tests::world::World;
use tests::{boot_sector, skip_unless};

#[test]
fn the_disk_that_the_definition_puts_first_is_booted_and_shows_on_the_console() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    skip_unless!(Path::new(SEABIOS).exists(), "SeaBIOS is not installed");
    let world = World::new();
    let disk = |letter: char, target: &str, order: u32| {
        let folder = world.path("");
        let image = boot_sector::disk(&folder, letter).expect("a disk");
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
             <source file='{}'/><target dev='{target}' bus='virtio'/><boot order='{order}'/></disk>\n",
            image.display()
        )
    };
    let disks = disk('A', "vda", 2) + &disk('B', "vdb", 1);
    world.define_xml(&format!(
        "<domain type='kvm'>\n<name>plain</name>\n<memory unit='MiB'>64</memory>\n<vcpu>1</vcpu>\n\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\n<devices>\n{disks}\
         <serial type='pty'/>\n</devices>\n</domain>\n"
    ));
    world.ok(&["start", "plain"]);
    let process = world.pid("plain");
    let mut console = Console::open(&world, "plain");
    console.wait_for("SeaBIOS (version");
    console.wait_for("boot sector B\n");
    // By its own triple fault, which starts the firmware again in the same process.
    console.wait_for("reboots\n");
    console.wait_for("SeaBIOS (version");
    console.wait_for("came back\n");
    console.wait_for("tick\n");
    assert_eq!(world.pid("plain"), process);
    world.ok(&["destroy", "plain"]);
    assert!(world.ok(&["domstate", "plain"]).contains("shut off"));
}
