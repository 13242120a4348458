use super::*;
use crate::boot::Span;
use crate::boot::testing::{GIB, Given, MIB};
use std::process::Command;

fn tables(given: &Given) -> Vec<u8> {
    build(&given.board()).expect("a machine that can be described")
}

fn at(image: &[u8], address: u64, len: usize) -> &[u8] {
    let start = usize::try_from(address - layout::ACPI.base).expect("inside the area");
    &image[start..start + len]
}

fn u32_at(image: &[u8], address: u64) -> u32 {
    u32::from_le_bytes(at(image, address, 4).try_into().expect("4 bytes"))
}

fn u64_at(image: &[u8], address: u64) -> u64 {
    u64::from_le_bytes(at(image, address, 8).try_into().expect("8 bytes"))
}

/// All tables with a header, as a kernel finds them from the RSDP on.
fn walk(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let base = layout::ACPI.base;
    assert_eq!(at(image, base, 8), b"RSD PTR ");
    assert_eq!(checksum(at(image, base, 20)), 0, "RSDP, first 20 bytes");
    assert_eq!(checksum(at(image, base, 36)), 0, "RSDP, all");
    let xsdt = u64_at(image, base + 24);
    let count = (u64::from(u32_at(image, xsdt + 4)) - 36) / 8;
    let mut places = vec![xsdt];
    places.extend((0..count).map(|slot| u64_at(image, xsdt + 36 + slot * 8)));
    let fadt = places[1];
    let dsdt = u64_at(image, fadt + 140);
    assert_eq!(
        u64::from(u32_at(image, fadt + 40)),
        dsdt,
        "both DSDT fields"
    );
    places.push(dsdt);
    places
        .into_iter()
        .map(|place| {
            let len = u32_at(image, place + 4) as usize;
            let table = at(image, place, len).to_vec();
            let name = String::from_utf8(table[..4].to_vec()).expect("a signature");
            assert_eq!(checksum(&table), 0, "{name}");
            (name, table)
        })
        .collect()
}

fn machines() -> Vec<(&'static str, Given)> {
    let small = Given::kernel(b"");
    let mut hotplug = Given::kernel(b"");
    hotplug.apic_ids = (0..8).collect();
    hotplug.present = 2;
    hotplug.serial_ports = vec![0, 1, 2, 3];
    let mut bare = Given::kernel(b"");
    bare.serial_ports = vec![];
    bare.mmio64 = None;
    bare.last_bus = 0;
    let mut large = Given::kernel(b"");
    large.apic_ids = (0..254).collect();
    large.present = 254;
    large.last_bus = 255;
    large.ram = vec![Span::new(0, 2 * GIB), Span::new(4 * GIB, 510 * GIB)];
    vec![
        ("small", small),
        ("hotplug", hotplug),
        ("bare", bare),
        ("large", large),
    ]
}

#[test]
fn every_table_is_found_from_the_rsdp_with_a_right_checksum() {
    for (name, given) in machines() {
        let found: Vec<String> = walk(&tables(&given))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(found, ["XSDT", "FACP", "APIC", "MCFG", "DSDT"], "{name}");
    }
}

/// The fingerprints of machine version vm-q35-1. A change here changes what guests of a released
/// version see: make a new machine version instead.
#[test]
fn the_bytes_of_a_machine_version_never_change() {
    let found: Vec<String> = machines()
        .iter()
        .map(|(name, given)| {
            let bytes = tables(given);
            format!("{name} {} {:08x}", bytes.len(), crc32c::crc32c(&bytes))
        })
        .collect();
    assert_eq!(
        found,
        [
            "small 3004 76017dc6",
            "hotplug 3196 25fd9e0a",
            "bare 2876 9cb24510",
            "large 5052 1de70efe"
        ]
    );
}

#[test]
fn the_fadt_names_the_power_management_block() {
    let image = tables(&Given::kernel(b""));
    let fadt = walk(&image).swap_remove(1).1;
    let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!(fadt.len(), 276);
    assert_eq!(word(36) % 64, 0, "FACS is aligned");
    assert_eq!(at(&image, u64::from(word(36)), 4), b"FACS");
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI");
    // ACPI 6.3 table 5-33: the blocks, their lengths, and the same as generic addresses.
    assert_eq!(
        (word(56), word(64), word(76), word(80)),
        (0x600, 0x604, 0x608, 0x620)
    );
    assert_eq!(fadt[88..94], [4, 2, 0, 4, 16, 0]);
    for (extended, block, bits) in [
        (148, 0x600u64, 32u8),
        (172, 0x604, 16),
        (208, 0x608, 32),
        (220, 0x620, 128),
        (116, 0xcf9, 8),
    ] {
        assert_eq!(
            (fadt[extended], fadt[extended + 1]),
            (1, bits),
            "{block:#x}"
        );
        assert_eq!(fadt[extended + 4..extended + 12], block.to_le_bytes());
    }
    assert_eq!(fadt[128], 6, "reset value");
    let flags = word(112);
    assert_eq!(flags & (1 << 20), 0, "not hardware-reduced");
    assert_eq!(flags & (1 << 4), 0, "the power button is fixed hardware");
    assert_ne!(flags & (1 << 10), 0, "the reset register is supported");
}

#[test]
fn the_madt_has_present_and_absent_vcpus() {
    let mut given = Given::kernel(b"");
    given.apic_ids = vec![0, 1, 4, 5];
    given.present = 3;
    let madt = walk(&tables(&given)).swap_remove(2).1;
    let mut found = Vec::new();
    let mut rest = &madt[44..];
    let mut others = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(rest[1]);
        match rest[0] {
            0 => found.push((rest[2], rest[3], rest[4])),
            kind => others.push((kind, len)),
        }
        rest = &rest[len..];
    }
    assert_eq!(found, [(0, 0, 1), (1, 1, 1), (2, 4, 1), (3, 5, 2)]);
    assert_eq!(others, [(1, 12), (2, 10), (2, 10), (4, 6)]);
}

#[test]
fn machines_that_cannot_be_described_are_refused() {
    let mut cases: Vec<(&str, Given)> = Vec::new();
    let mut wide = Given::kernel(b"");
    wide.apic_ids = vec![0, 255];
    cases.push(("APIC ID 255", wide));
    let mut port = Given::kernel(b"");
    port.serial_ports = vec![4];
    cases.push(("serial port 4", port));
    let mut empty = Given::kernel(b"");
    empty.mmio32 = vec![Span::new(0xc000_0000, 0)];
    cases.push(("0xc0000000", empty));
    let mut high = Given::kernel(b"");
    high.mmio32 = vec![Span::new(0xffff_0000, 2 * MIB)];
    cases.push(("0xffff0000", high));
    let mut wrapping = Given::kernel(b"");
    wrapping.mmio64 = Some(Span::new(u64::MAX - 5, 100));
    cases.push(("PCI window", wrapping));
    let mut buses = Given::kernel(b"");
    buses.ecam = Span::new(0xb000_0000, 14 * MIB);
    cases.push(("15 buses", buses));
    for (words, given) in cases {
        let error = build(&given.board()).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// ACPICA's compiler is a second opinion on every byte of AML: it must read all of it, and find
/// nothing to complain about when it compiles what it read.
#[test]
fn iasl_reads_and_recompiles_every_table() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("skipped: iasl (package acpica-tools) is not installed");
        return;
    }
    let mut firmware = Given::kernel(b"");
    firmware.fw_cfg = true;
    firmware.pvpanic = true;
    let all = machines().into_iter().chain([("firmware", firmware)]);
    for (machine, given) in all {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, table) in walk(&tables(&given)) {
            if name == "XSDT" {
                continue; // it needs the tables it points to beside it
            }
            let file = format!("{}.dat", name.to_lowercase());
            std::fs::write(dir.path().join(&file), table).expect("space for it");
            let iasl = |args: &[&str]| {
                let out = Command::new("iasl")
                    .args(args)
                    .current_dir(dir.path())
                    .output()
                    .expect("iasl runs");
                let text = String::from_utf8_lossy(&out.stdout).into_owned()
                    + &String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{machine}: {args:?}: {text}");
                text
            };
            let text = iasl(&["-d", &file]);
            assert!(!text.contains("rror:"), "{machine} {name}: {text}");
            let text = iasl(&["-we", &file.replace(".dat", ".dsl")]);
            assert!(text.contains("0 Errors"), "{machine} {name}: {text}");
            assert!(text.contains("0 Warnings"), "{machine} {name}: {text}");
        }
    }
}

#[test]
fn the_panic_device_is_described_where_there_is_one() {
    let dsdt = |pvpanic| {
        let mut given = Given::kernel(b"");
        given.pvpanic = pvpanic;
        let tables = walk(&tables(&given));
        let (_, dsdt) = tables.into_iter().next_back().expect("a DSDT");
        dsdt
    };
    let holds = |table: &[u8], text: &[u8]| table.windows(text.len()).any(|part| part == text);
    assert!(holds(&dsdt(true), b"QEMU0001") && holds(&dsdt(true), b"PEVT"));
    assert!(!holds(&dsdt(false), b"QEMU0001"));
}
