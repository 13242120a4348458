//! Firmware under our `vmm` on this machine's KVM: stock SeaBIOS up to a boot sector and beyond, and a
//! tiny BIOS for what resets must restore.

use std::fs;
use std::io::Write;
use std::path::Path;

use tests::machine::{Builder, Disk, Machine, SEABIOS};
use tests::{boot_sector, have_kvm, skip_unless, tiny_bios};
use vmm_api::console::Attach;
use vmm_api::control::Request;
use vmm_api::end::EndReason;

const NO_KVM: &str = "/dev/kvm cannot be opened";
const NO_FIRMWARE: &str = "SeaBIOS (package seabios) is not installed";

fn have_firmware() -> bool {
    Path::new(SEABIOS).exists()
}

/// Waits for a text; what the firmware did is told when it does not come.
#[track_caller]
fn expect(machine: &mut Machine, text: &str) {
    if let Err(error) = machine.serial.expect(text) {
        let messages = machine.firmware_messages();
        panic!("{error}\nthe firmware:\n{messages}\n{}", machine.story());
    }
}

/// Saves the machine and ends its process.
fn save(machine: &mut Machine, state: &Path) {
    let saved = machine.save(state);
    saved.unwrap_or_else(|error| panic!("{error}\n{}", machine.log()));
    machine.request(Request::Quit).unwrap();
    machine.wait().unwrap();
    assert_eq!(machine.end().map(|end| end.reason), Some(EndReason::Saved));
}

/// Presses a key on the serial console; the boot sector ends the guest.
fn quit(machine: &mut Machine) {
    let attach = Attach {
        write: true,
        force: false,
    };
    let (_, mut line) = machine.console(attach).unwrap();
    line.write_all(b"q").unwrap();
    machine.expect_pass();
}

#[test]
fn the_disk_that_comes_first_in_the_order_is_booted_and_booted_again() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    skip_unless!(have_firmware(), "{NO_FIRMWARE}");
    let folder = tempfile::tempdir().unwrap();
    let disk = |letter| Disk::raw(boot_sector::disk(folder.path(), letter).unwrap());
    // A copy, since it will be another one when the state comes back; with space in front, as images
    // have that are larger than a BIOS.
    let rom = folder.path().join("bios.bin");
    let mut image = vec![0xff; 512 << 10];
    image.extend(fs::read(SEABIOS).unwrap());
    fs::write(&rom, image).unwrap();
    let builder = Builder::firmware(&rom)
        .cpus(2)
        .disk(disk('A').adjust(|blk| blk.boot_index = Some(7)))
        .disk(disk('B').adjust(|blk| blk.boot_index = Some(3)));
    let states = [0, 1].map(|number| folder.path().join(format!("state{number}")));
    let mut machine = builder.start().unwrap();
    expect(&mut machine, "SeaBIOS (version");
    // In the middle of the firmware, of which another version is installed meanwhile: the guest goes
    // on with its own, also after a reset.
    save(&mut machine, &states[0]);
    fs::write(&rom, vec![0; 128 << 10]).unwrap();
    let mut machine = builder.clone().restore(&states[0]).start().unwrap();
    expect(&mut machine, "boot sector B");
    expect(&mut machine, "reboots");
    // By a triple fault, which starts the firmware from the beginning.
    expect(&mut machine, "SeaBIOS (version");
    expect(&mut machine, "boot sector B");
    expect(&mut machine, "came back");
    expect(&mut machine, "tick");

    save(&mut machine, &states[1]);
    let mut machine = builder.restore(&states[1]).start().unwrap();
    expect(&mut machine, "tick");
    machine.request(Request::Reset).unwrap();
    expect(&mut machine, "SeaBIOS (version");
    expect(&mut machine, "came back");
    expect(&mut machine, "tick");
    quit(&mut machine);
}

/// One report of the tiny BIOS: its letter and its bytes.
#[track_caller]
fn report(machine: &mut Machine, letter: u8) -> Vec<String> {
    expect(machine, &format!("{} ", char::from(letter)));
    let line = machine.expect("\n");
    let bytes: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    assert_eq!(bytes.len(), tiny_bios::FIELDS.len(), "{line}");
    bytes
}

/// Port 0xcf9, which is the ACPI reset register, in both of its ways, the keyboard controller, port 0x92,
/// a triple fault, and at last the operator's.
#[test]
fn every_reset_starts_the_firmware_from_power_on_state() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let rom = tiny_bios::image(folder.path()).unwrap();
    let disk = boot_sector::disk(folder.path(), 'A').unwrap();
    let builder =
        Builder::firmware(&rom).disk(Disk::raw(disk).adjust(|blk| blk.boot_index = Some(1)));
    let mut machine = builder.start().unwrap();
    let power_on = report(&mut machine, b'A');
    // The BIOS in RAM as in its image, no ECAM, no BAR, no driver, fw_cfg's signature.
    for (field, byte) in [
        (1, "5a"),
        (4, "51"),
        (6, "00"),
        (7, "00"),
        (8, "00"),
        (9, "00"),
    ] {
        assert_eq!(power_on[field], byte, "{}", tiny_bios::FIELDS[field]);
    }
    for stage in 0..6 {
        if stage > 0 {
            let fresh = report(&mut machine, b'A' + stage);
            for ((fresh, power_on), what) in fresh.iter().zip(&power_on).zip(tiny_bios::FIELDS) {
                assert_eq!(fresh, power_on, "{what} after the reset of stage {stage}");
            }
        }
        let dirty = report(&mut machine, b'a' + stage);
        for (number, what) in tiny_bios::FIELDS.iter().enumerate() {
            let same = dirty[number] == power_on[number];
            assert_eq!(same, number >= tiny_bios::DIRTY, "{what}: {dirty:?}");
        }
    }
    // The ECAM is where the IOAPIC is, which was there before: so it is after a restore as well.
    expect(&mut machine, "...");
    let state = folder.path().join("state");
    save(&mut machine, &state);
    let mut machine = builder.restore(&state).start().unwrap();
    expect(&mut machine, "...");
    machine.request(Request::Reset).unwrap();
    assert_eq!(report(&mut machine, b'G'), power_on);
    expect(&mut machine, "...");
    quit(&mut machine);
}

#[test]
fn a_disk_outside_the_order_is_not_booted() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    skip_unless!(have_firmware(), "{NO_FIRMWARE}");
    let folder = tempfile::tempdir().unwrap();
    let bootable = boot_sector::disk(folder.path(), 'A').unwrap();
    let empty = folder.path().join("empty.raw");
    fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let mut machine = Builder::firmware(Path::new(SEABIOS))
        .disk(Disk::raw(bootable))
        .disk(Disk::raw(empty).adjust(|blk| blk.boot_index = Some(1)))
        .start()
        .unwrap();
    expect(&mut machine, "No bootable device");
    let said = machine.serial.so_far();
    assert!(!said.contains("boot sector"), "{said}");
}

#[test]
fn a_file_that_is_no_firmware_is_refused_by_name() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let rom = folder.path().join("odd.bin");
    fs::write(&rom, vec![0; 100]).unwrap();
    let mut machine = Builder::firmware(&rom).start().unwrap();
    assert_ne!(machine.wait().unwrap(), 0);
    let end = machine.end().unwrap();
    assert_eq!(end.reason, EndReason::Failed);
    assert!(
        end.detail.contains("odd.bin") && end.detail.contains("100 bytes"),
        "{}",
        end.detail
    );
}
