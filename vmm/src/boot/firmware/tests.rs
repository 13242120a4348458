use super::*;
use crate::boot::testing::{GIB, Given, MIB};
use crate::boot::{BootDevice, BootDeviceKind};
use devices::legacy::fw_cfg::Key;
use std::collections::BTreeMap;
use vmm_api::spec::PciAddress;

fn given() -> Given {
    let mut given = Given::kernel(b"");
    given.fw_cfg = true;
    given
}

fn input<'a>(given: &'a Given, order: &'a [BootDevice]) -> FirmwareInput<'a> {
    FirmwareInput {
        board: given.board(),
        image: 256 << 10,
        menu: None,
        serial: false,
        reboot_timeout: None,
        order,
    }
}

fn files(input: &FirmwareInput<'_>) -> BTreeMap<String, Vec<u8>> {
    let file = |item: Item| match item.key {
        Key::File(name) => Some((name, item.content)),
        Key::Number(_) => None,
    };
    let items = items(input).expect("a machine that can be described");
    items.into_iter().filter_map(file).collect()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).expect("a zero");
    String::from_utf8(bytes[..end].to_vec()).expect("a name")
}

/// Runs the loader's script as firmware does; the address of each file, and RAM from 0 to 1 MiB.
fn place(files: &BTreeMap<String, Vec<u8>>) -> (BTreeMap<String, usize>, Vec<u8>) {
    let mut ram = vec![0; 1 << 20];
    let (mut places, mut next) = (BTreeMap::new(), 0x1_2340);
    let script = &files["etc/table-loader"];
    assert_eq!(script.len() % 128, 0);
    for command in script.chunks(128) {
        let file = text(&command[4..60]);
        match word(command, 0) {
            1 => {
                next = usize::next_multiple_of(next + 1, word(command, 60));
                let bytes = &files[&file];
                ram[next..next + bytes.len()].copy_from_slice(bytes);
                places.insert(file, next);
                next += bytes.len();
            }
            2 => {
                let target = places[&text(&command[60..116])];
                let (offset, len) = (word(command, 116), usize::from(command[120]));
                assert!(offset + len <= files[&file].len());
                let at = places[&file] + offset;
                let mut number = [0; 8];
                number[..len].copy_from_slice(&ram[at..at + len]);
                let moved = usize::from_le_bytes(number) + target;
                ram[at..at + len].copy_from_slice(&moved.to_le_bytes()[..len]);
            }
            3 => {
                let base = places[&file];
                let (at, start, len) = (word(command, 60), word(command, 64), word(command, 68));
                assert!(start + len <= files[&file].len() && at >= start);
                let sum = ram[base + start..][..len].iter();
                let sum = sum.fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                ram[base + at] = ram[base + at].wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    (places, ram)
}

#[test]
fn tables_are_sound_wherever_firmware_puts_them() {
    let given = given();
    let (places, ram) = place(&files(&input(&given, &[])));
    let sum = |at: usize, len: usize| {
        ram[at..at + len]
            .iter()
            .fold(0_u8, |s, b| s.wrapping_add(*b))
    };
    let rsdp = places["etc/acpi/rsdp"];
    assert_eq!(&ram[rsdp..rsdp + 8], b"RSD PTR ");
    assert_eq!((sum(rsdp, 20), sum(rsdp, 36)), (0, 0));
    let xsdt = word(&ram, rsdp + 24);
    let count = (word(&ram, xsdt + 4) - 36) / 8;
    let mut tables = vec![xsdt];
    tables.extend((0..count).map(|entry| word(&ram, xsdt + 36 + entry * 8)));
    let fadt = tables[1];
    let dsdt = word(&ram, fadt + 140);
    assert_eq!(word(&ram, fadt + 40), dsdt);
    assert_eq!(&ram[word(&ram, fadt + 36)..][..4], b"FACS");
    tables.push(dsdt);
    let names: Vec<_> = tables.iter().map(|at| &ram[*at..at + 4]).collect();
    assert_eq!(names, [b"XSDT", b"FACP", b"APIC", b"MCFG", b"DSDT"]);
    for at in tables {
        assert_eq!(sum(at, word(&ram, at + 4)), 0, "{:?}", &ram[at..at + 4]);
    }
    // Linux finds the device itself by this name.
    let dsdt = &ram[dsdt..dsdt + word(&ram, dsdt + 4)];
    assert!(dsdt.windows(8).any(|part| part == b"QEMU0002"));
}

#[test]
fn the_order_is_in_paths_that_firmware_matches() {
    let at = |slot, function| PciAddress {
        bus: 0,
        slot,
        function,
    };
    let order = [
        BootDevice {
            kind: BootDeviceKind::Disk,
            address: at(0, 0),
            port: Some(at(2, 1)),
        },
        BootDevice {
            kind: BootDeviceKind::Network,
            address: at(0x1e, 0),
            port: None,
        },
        BootDevice {
            kind: BootDeviceKind::Disk,
            address: at(3, 4),
            port: None,
        },
    ];
    let given = given();
    let files = files(&input(&given, &order));
    let expected = "/pci@i0cf8/pci-bridge@2,1/scsi@0/disk@0,0\n\
        /pci@i0cf8/ethernet@1e/ethernet-phy@0\n\
        /pci@i0cf8/scsi@3,4/disk@0,0\nHALT\0";
    assert_eq!(files["bootorder"], expected.as_bytes());
    assert!(!self::files(&input(&given, &[])).contains_key("bootorder"));
}

#[test]
fn waits_and_the_console_are_told() {
    let given = given();
    let quiet = files(&input(&given, &[]));
    assert_eq!(quiet["etc/boot-fail-wait"], [0xff; 4]);
    assert!(!quiet.contains_key("etc/boot-menu-wait") && !quiet.contains_key("etc/sercon-port"));
    let told = FirmwareInput {
        menu: Some(3000),
        serial: true,
        reboot_timeout: Some(10),
        ..input(&given, &[])
    };
    let menu = Item::number(0x0e, &[1, 0]);
    assert!(items(&told).expect("a machine").contains(&menu));
    let told = files(&told);
    assert_eq!(told["etc/boot-menu-wait"], 3000_u32.to_le_bytes());
    assert_eq!(told["etc/boot-fail-wait"], 10_u32.to_le_bytes());
    assert_eq!(told["etc/sercon-port"], [0xf8, 3]);
}

#[test]
fn memory_is_told_in_both_ways() {
    let mut given = given();
    given.ram = vec![Span::new(0, 2816 * MIB), Span::new(4 * GIB, 5 * GIB)];
    given.apic_ids = (0..4).collect();
    given.present = 3;
    let cmos: BTreeMap<u8, u8> = cmos(&given.board()).into_iter().collect();
    let size = |low: u8, high: u8| u64::from(cmos[&low]) | u64::from(cmos[&high]) << 8;
    assert_eq!(size(0x15, 0x16), 640);
    assert_eq!(size(0x17, 0x18), 65535);
    assert_eq!(size(0x34, 0x35) * (64 << 10), (2816 - 16) * MIB);
    let high = size(0x5b, 0x5c) | u64::from(cmos[&0x5d]) << 16;
    assert_eq!((high * (64 << 10), cmos[&0x5f]), (5 * GIB, 2));
    let map = &files(&input(&given, &[]))["etc/e820"];
    assert_eq!(map.len(), 3 * 20);
    let entry = |at: usize| {
        let long = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().expect("8 bytes"));
        (long(at), long(at + 8), map[at + 16])
    };
    assert_eq!(entry(20), (4 * GIB, 5 * GIB, 1));
    assert_eq!(entry(40), (0xfffb_c000, 0x4000, 2));
}

#[test]
fn the_shadow_is_the_end_of_the_image() {
    let given = given();
    let memory = given.memory(0xcc);
    let rom: Vec<u8> = (0..256 << 10).map(|at: u32| (at >> 10) as u8).collect();
    assert_eq!(shadow(&memory, &rom).expect("RAM"), Entry::Reset);
    let bytes = crate::boot::testing::bytes(&memory, 0xd_fff0, 0x2_0020);
    assert_eq!(bytes[0xf], 0xcc);
    assert_eq!(bytes[0x10..0x2_0010], rom[128 << 10..]);
    assert_eq!(bytes[0x2_0010], 0xcc);
    // An image of 64 KiB has no more than that.
    shadow(&memory, &[7; 64 << 10]).expect("RAM");
    let bytes = crate::boot::testing::bytes(&memory, 0xe_ffff, 2);
    assert_eq!(bytes, [0xbf, 7]);
}

#[test]
fn smbios_has_the_form_that_every_firmware_knows() {
    let given = given();
    let files = files(&input(&given, &[]));
    let (anchor, tables) = (
        &files["etc/smbios/smbios-anchor"],
        &files["etc/smbios/smbios-tables"],
    );
    assert_eq!(
        (anchor.len(), &anchor[..4], &anchor[16..21]),
        (31, &b"_SM_"[..], &b"_DMI_"[..])
    );
    let half = |at: usize| usize::from(u16::from_le_bytes([anchor[at], anchor[at + 1]]));
    assert_eq!(half(22), tables.len());
    // Walking gives the number and the longest that the entry point promises.
    let (mut at, mut count, mut longest) = (0, 0, 0);
    while at < tables.len() {
        let start = at;
        at += usize::from(tables[at + 1]);
        let end = tables[at..].windows(2).position(|two| two == [0, 0]);
        at += end.expect("an end") + 2;
        count += 1;
        longest = longest.max(at - start);
    }
    assert_eq!((half(28), half(8)), (count, longest));
    assert_eq!(at, tables.len());
    assert_eq!(
        tables[0], 0,
        "firmware makes its own type 0 unless there is one"
    );
}
