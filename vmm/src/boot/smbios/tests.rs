use super::*;
use crate::boot::Span;
use crate::boot::testing::{GIB, Given, MIB};
use proptest::prelude::*;
use vmm_api::spec::CpuTopology;

/// One structure as a reader sees it.
#[derive(Debug)]
struct Structure {
    kind: u8,
    handle: u16,
    bytes: Vec<u8>,
    texts: Vec<String>,
}

impl Structure {
    fn text(&self, at: usize) -> &str {
        match self.bytes[at] {
            0 => "",
            number => &self.texts[usize::from(number) - 1],
        }
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().expect("2 bytes"))
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    fn qword(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"))
    }
}

/// Walks the structures as DSP0134 §6.1 says, from the entry point on.
fn walk(image: &[u8]) -> Vec<Structure> {
    assert_eq!(&image[..5], b"_SM3_");
    assert_eq!(checksum(&image[..24]), 0);
    let len = u32::from_le_bytes(image[12..16].try_into().expect("4 bytes")) as usize;
    let address = u64::from_le_bytes(image[16..24].try_into().expect("8 bytes"));
    let start = usize::try_from(address - layout::SMBIOS.base).expect("in the area");
    let mut rest = &image[start..start + len];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let formatted = usize::from(rest[1]);
        let mut structure = Structure {
            kind: rest[0],
            handle: u16::from_le_bytes([rest[2], rest[3]]),
            bytes: rest[..formatted].to_vec(),
            texts: Vec::new(),
        };
        rest = &rest[formatted..];
        if rest[0] == 0 {
            rest = &rest[1..];
        }
        while rest[0] != 0 {
            let end = rest.iter().position(|byte| *byte == 0).expect("a zero");
            structure
                .texts
                .push(String::from_utf8(rest[..end].to_vec()).expect("UTF-8"));
            rest = &rest[end + 1..];
        }
        rest = &rest[1..];
        found.push(structure);
    }
    found
}

fn of_kind(found: &[Structure], kind: u8) -> Vec<&Structure> {
    found.iter().filter(|one| one.kind == kind).collect()
}

#[test]
fn the_system_has_the_uuid_and_the_names_given() {
    let given = Given::kernel(b"");
    let mut input = given.board();
    input.system.manufacturer = Some("Acme");
    input.system.serial = Some("S-1");
    input.system.family = Some("");
    let found = walk(&build(&input).expect("room"));
    let system = of_kind(&found, 1)[0];
    assert_eq!(system.text(4), "Acme");
    assert_eq!(system.text(5), "Virtual Machine (Q35)");
    assert_eq!(system.text(6), "vm-q35-1");
    assert_eq!(system.text(7), "S-1");
    assert_eq!(system.text(26), "");
    // 00112233-4455-6677-8899-aabbccddeeff: the first three fields are swapped.
    assert_eq!(
        system.bytes[8..24],
        [
            0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
            0xee, 0xff
        ]
    );
}

#[test]
fn formatted_parts_have_the_lengths_of_version_3() {
    let found = walk(&build(&Given::kernel(b"").board()).expect("room"));
    let lengths: Vec<(u8, usize)> = found
        .iter()
        .map(|one| (one.kind, one.bytes.len()))
        .collect();
    assert_eq!(
        lengths,
        [
            (0, 0x18),
            (1, 0x1b),
            (3, 0x16),
            (4, 0x30),
            (16, 0x17),
            (17, 0x28),
            (19, 0x1f),
            (32, 0x0b),
            (127, 4)
        ]
    );
}

#[test]
fn sockets_follow_the_topology() {
    let mut given = Given::kernel(b"");
    given.apic_ids = (0..16).collect();
    given.present = 5;
    given.topology = Some(CpuTopology {
        sockets: 4,
        dies: 1,
        cores: 2,
        threads: 2,
    });
    let found = walk(&build(&given.board()).expect("room"));
    let sockets: Vec<(u8, u8, u8)> = of_kind(&found, 4)
        .iter()
        .map(|one| (one.bytes[0x18], one.bytes[0x23], one.bytes[0x25]))
        .collect();
    assert_eq!(sockets, [(0x41, 2, 4), (0x41, 2, 4), (0, 2, 4), (0, 2, 4)]);
}

#[test]
fn the_largest_machine_has_room() {
    let mut given = Given::kernel(b"");
    given.apic_ids = (0..254).collect();
    given.present = 254;
    given.ram = vec![Span::new(0, 2 * GIB), Span::new(4 * GIB, 12 << 40)];
    let image = build(&given.board()).expect("room");
    assert_eq!(of_kind(&walk(&image), 4).len(), 254);
    assert!(image.len() < 0x8000, "{}", image.len());
}

/// The fingerprint of machine version vm-q35-1; see the one of the ACPI tables.
#[test]
fn the_bytes_of_a_machine_version_never_change() {
    let bytes = build(&Given::kernel(b"").board()).expect("room");
    assert_eq!((bytes.len(), crc32c::crc32c(&bytes)), (372, 0x8ecb_827a));
}

proptest! {
    #[test]
    fn a_walk_reads_back_what_went_in(
        uuid in any::<u128>(),
        texts in prop::collection::vec(".{0,100}", 4),
        low in 1u64..2048,
        high in 0u64..(20 << 20),
        cpus in 1u32..=254,
    ) {
        let mut given = Given::kernel(b"");
        given.apic_ids = (0..cpus).collect();
        given.present = cpus.div_ceil(2);
        given.ram = vec![Span::new(0, low * MIB)];
        if high > 0 {
            given.ram.push(Span::new(4 * GIB, high * MIB));
        }
        let mut input = given.board();
        input.uuid = uuid::Uuid::from_u128(uuid);
        input.system.manufacturer = Some(&texts[0]);
        input.system.serial = Some(&texts[1]);
        input.system.sku = Some(&texts[2]);
        input.system.family = Some(&texts[3]);
        let found = walk(&build(&input).expect("room"));

        let system = of_kind(&found, 1)[0];
        let read = uuid::Uuid::from_bytes_le(system.bytes[8..24].try_into().expect("16 bytes"));
        prop_assert_eq!(read.as_u128(), uuid);
        for (at, text) in [(7, &texts[1]), (25, &texts[2]), (26, &texts[3])] {
            let kept = system.text(at);
            prop_assert!(kept.len() <= MAX_TEXT);
            prop_assert!(text.trim().starts_with(kept) || text.contains('\0'));
        }
        let handles: std::collections::BTreeSet<u16> =
            found.iter().map(|one| one.handle).collect();
        prop_assert_eq!(handles.len(), found.len());
        prop_assert_eq!(of_kind(&found, 4).len(), cpus as usize);

        let total = (low + high) * MIB;
        let devices = of_kind(&found, 17);
        let sum: u64 = devices
            .iter()
            .map(|one| match one.word(12) {
                0x7fff => u64::from(one.dword(28)) * MIB,
                size => u64::from(size) * MIB,
            })
            .sum();
        prop_assert_eq!(sum, total);
        prop_assert!(devices.len() <= 16);
        let array = of_kind(&found, 16)[0];
        let capacity = match array.dword(7) {
            0x8000_0000 => array.qword(15),
            kib => u64::from(kib) << 10,
        };
        prop_assert_eq!(capacity, total);
        prop_assert_eq!(usize::from(array.word(13)), devices.len());
        let mapped: u64 = of_kind(&found, 19)
            .iter()
            .map(|one| match one.dword(4) {
                u32::MAX => one.qword(23) - one.qword(15) + 1,
                first => (u64::from(one.dword(8)) - u64::from(first) + 1) << 10,
            })
            .sum();
        prop_assert_eq!(mapped, total);
    }
}
