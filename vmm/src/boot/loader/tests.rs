use super::*;
use crate::boot::memory_map::Kind;
use crate::boot::testing::{GIB, Given, MIB, bytes, file};
use crate::boot::{BootError, load as boot};
use proptest::prelude::*;

/// A kernel file in the making.
#[derive(Debug, Clone)]
struct Elf {
    wide: bool,
    kind: u16,
    machine: u16,
    entry: u64,
    /// Type, virtual, physical address, content, size in memory, alignment.
    segments: Vec<(u32, u64, u64, Vec<u8>, u64, u64)>,
}

const VMLINUX_TEXT: u64 = 0xffff_ffff_8100_0000;

fn note(name: &[u8], kind: u32, desc: &[u8], align: usize) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, desc.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, desc] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(align), 0);
    }
    note
}

impl Elf {
    /// A 64-bit vmlinux at 16 MiB, with a PVH note behind another one.
    fn vmlinux() -> Self {
        let mut notes = note(b"GNU\0", 3, &[7; 20], 4);
        notes.extend(note(b"Xen\0", 18, &0x100_0040u32.to_le_bytes(), 4));
        Self {
            wide: true,
            kind: 2,
            machine: 62,
            entry: 0x100_0000,
            segments: vec![
                (1, VMLINUX_TEXT, 0x100_0000, vec![0x90; 5000], 5000, 4096),
                (
                    1,
                    VMLINUX_TEXT + 0x10_0000,
                    0x110_0000,
                    vec![1; 100],
                    9000,
                    4096,
                ),
                (4, 0, 0, notes, 0, 4),
            ],
        }
    }

    fn without_notes(mut self) -> Self {
        self.segments.retain(|segment| segment.0 != 4);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let (header_len, size) = if self.wide { (64, 56) } else { (52, 32) };
        let word = |value: u64| -> Vec<u8> {
            let bytes = value.to_le_bytes();
            bytes[..if self.wide { 8 } else { 4 }].to_vec()
        };
        let mut file = b"\x7fELF".to_vec();
        file.extend([if self.wide { 2 } else { 1 }, 1, 1, 0]);
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(word(self.entry));
        file.extend(word(header_len as u64));
        file.extend(word(0));
        file.extend(0u32.to_le_bytes());
        for half in [header_len as u16, size, self.segments.len() as u16, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        assert_eq!(file.len(), header_len);
        let mut offset = 4096;
        for (kind, virt, phys, content, memory, align) in &self.segments {
            let sizes = [content.len() as u64, (*memory).max(content.len() as u64)];
            file.extend(kind.to_le_bytes());
            if self.wide {
                file.extend(5u32.to_le_bytes());
            }
            for value in [offset as u64, *virt, *phys, sizes[0], sizes[1]] {
                file.extend(word(value));
            }
            if !self.wide {
                file.extend(5u32.to_le_bytes());
            }
            file.extend(word(*align));
            offset += content.len();
        }
        file.resize(4096, 0);
        for segment in &self.segments {
            file.extend(&segment.3);
        }
        file
    }
}

/// A bzImage of protocol 2.15 whose protected-mode part is `payload`.
fn bzimage(payload: &[u8], change: impl Fn(&mut bzimage::SetupHeader)) -> Vec<u8> {
    use vm_memory::ByteValued;
    let mut header = bzimage::SetupHeader {
        setup_sects: 1,
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x020f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        relocatable_kernel: 1,
        xloadflags: 0x7f,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x40_0000,
        ..Default::default()
    };
    change(&mut header);
    let mut image = vec![0; 0x1f1];
    image.extend(header.as_slice());
    image.resize(1024, 0);
    image[0x201] = 0x6a; // the header ends at 0x26c
    image.extend(payload);
    image
}

fn refused(content: &[u8]) -> String {
    let given = Given::kernel(content);
    boot(&given.memory(0), &given.input())
        .expect_err("it is no kernel")
        .to_string()
}

#[test]
fn a_vmlinux_starts_at_its_pvh_note() {
    let mut given = Given::kernel(&Elf::vmlinux().bytes());
    given.initrd = Some(file(&[3; 10_000]));
    let memory = given.memory(0);
    let entry = boot(&memory, &given.input()).expect("a kernel");
    let Entry::Pvh { entry, start_info } = entry else {
        panic!("{entry:?}");
    };
    assert_eq!(entry, 0x100_0040);
    assert_eq!(bytes(&memory, 0x100_0000, 5000), vec![0x90; 5000]);
    assert_eq!(bytes(&memory, 0x110_0000, 101)[99..], [1, 0]);

    // The initrd ends below the top of RAM, on a page.
    assert_eq!(bytes(&memory, 64 * MIB - 12_288, 10_000), vec![3; 10_000]);

    let info = bytes(&memory, u64::from(start_info), 56);
    let dword = |at: usize| u32::from_le_bytes(info[at..at + 4].try_into().expect("4 bytes"));
    let qword = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!((dword(0), dword(4), dword(12)), (0x336e_c578, 1, 1));
    assert_eq!(bytes(&memory, qword(24), 14), b"console=ttyS0\0");
    assert_eq!(bytes(&memory, qword(32), 8), b"RSD PTR ");
    let module = bytes(&memory, qword(16), 16);
    assert_eq!(module[..8], (64 * MIB - 12_288).to_le_bytes());
    assert_eq!(module[8..], 10_000u64.to_le_bytes());
    let map = bytes(&memory, qword(40), 24 * dword(48) as usize);
    assert_eq!(map[..8], [0; 8]);
    assert_eq!(map[8..16], layout::LOW_RAM_END.to_le_bytes());
    assert_eq!(map[16], 1);
}

#[test]
fn a_32_bit_pvh_kernel_starts_too() {
    let kernel = Elf {
        wide: false,
        machine: 3,
        entry: 0x10_0000,
        segments: vec![
            (1, 0x10_0000, 0x10_0000, vec![0xf4; 64], 64, 4096),
            (
                4,
                0,
                0,
                note(b"Xen\0", 18, &0x10_0000u32.to_le_bytes(), 4),
                0,
                4,
            ),
        ],
        ..Elf::vmlinux()
    };
    let given = Given::kernel(&kernel.bytes());
    let entry = boot(&given.memory(0), &given.input()).expect("a kernel");
    assert!(matches!(
        entry,
        Entry::Pvh {
            entry: 0x10_0000,
            ..
        }
    ));
}

#[test]
fn notes_aligned_to_eight_are_read() {
    let mut notes = note(b"GNU\0", 5, &[0; 4], 8);
    notes.extend(note(b"Xen\0", 18, &0x100_0040u64.to_le_bytes(), 8));
    let mut kernel = Elf::vmlinux().without_notes();
    kernel.segments.push((4, 0, 0, notes, 0, 8));
    let given = Given::kernel(&kernel.bytes());
    let entry = boot(&given.memory(0), &given.input()).expect("a kernel");
    assert!(matches!(
        entry,
        Entry::Pvh {
            entry: 0x100_0040,
            ..
        }
    ));
}

#[test]
fn a_vmlinux_without_a_note_starts_by_the_linux_protocol() {
    let given = Given::kernel(&Elf::vmlinux().without_notes().bytes());
    let entry = boot(&given.memory(0), &given.input()).expect("a kernel");
    assert!(matches!(
        entry,
        Entry::Linux64 {
            entry: 0x100_0000,
            ..
        }
    ));
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry_with_a_filled_zero_page() {
    let mut given = Given::kernel(&bzimage(&[0xcc; 5000], |_| {}));
    given.initrd = Some(file(&[3; 100]));
    let memory = given.memory(0);
    let entry = boot(&memory, &given.input()).expect("a kernel");
    let Entry::Linux64 {
        entry,
        zero_page,
        page_tables,
        stack,
        gdt,
        gdt_limit,
    } = entry
    else {
        panic!("{entry:?}");
    };
    assert_eq!(entry, 0x100_0200);
    assert_eq!(bytes(&memory, 0x100_0000, 5000), vec![0xcc; 5000]);
    let page = bytes(&memory, zero_page, 4096);
    let dword = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff, "type_of_loader");
    assert_eq!(u64::from(dword(0x228)), layout::CMDLINE.base);
    assert_eq!(dword(0x218), 64 * 1024 * 1024 - 4096, "ramdisk_image");
    assert_eq!(dword(0x21c), 100, "ramdisk_size");
    assert_eq!(u64::from(dword(0x70)), layout::ACPI.base, "acpi_rsdp_addr");
    assert!(page[0x1e8] >= 4, "e820_entries");
    assert_eq!(dword(0x2d0 + 8), 0x9_fc00, "the first entry's size");
    assert_eq!(dword(0x2d0 + 16), 1, "the first entry's type");

    // Every page of the first 4 GiB maps to itself.
    let qword =
        |address: u64| u64::from_le_bytes(bytes(&memory, address, 8).try_into().expect("8 bytes"));
    for address in [0, 0x100_0200, GIB, 4 * GIB - 1] {
        let mut table = page_tables;
        for (shift, leaf) in [(39, false), (30, false), (21, true)] {
            let found = qword(table + ((address >> shift) & 511) * 8);
            assert_eq!(found & 0x83, if leaf { 0x83 } else { 3 });
            table = found & !0xfff;
        }
        assert_eq!(table, address & !(2 * MIB - 1));
    }
    assert_eq!(stack % 16, 0);
    assert_eq!(gdt_limit, 31);
    assert_eq!(qword(gdt + 16) >> 40 & 0xff, 0x9b, "code at 0x10");
    assert_eq!(qword(gdt + 24) >> 40 & 0xff, 0x93, "data at 0x18");
}

#[test]
fn kernels_that_cannot_start_are_refused_in_words() {
    let text = refused(b"#!/bin/sh\necho no\n");
    assert!(
        text.starts_with("'vmlinuz' is no kernel: neither bzImage nor ELF with a PVH note"),
        "{text}"
    );
    let mut program = Elf::vmlinux().without_notes();
    program.segments[0].1 = 0x40_0000;
    program.segments[1].1 = 0x50_0000;
    for (content, words) in [
        (bzimage(&[0; 5000], |header| header.version = 0x205), "2.06"),
        (
            bzimage(&[0; 5000], |header| header.version = 0x20b),
            "no 64-bit entry",
        ),
        (
            bzimage(&[0; 5000], |header| header.xloadflags = 0),
            "no 64-bit entry",
        ),
        (bzimage(&[0; 5000], |header| header.loadflags = 0), "zImage"),
        (
            bzimage(&[0; 5000], |header| header.setup_sects = 200),
            "cut short",
        ),
        (bzimage(&[0; 10], |_| {}), "cut short"),
        (
            bzimage(&[0; 5000], |header| header.pref_address = u64::MAX),
            "1 MiB to 4 GiB",
        ),
        (
            bzimage(&[0; 5000], |header| header.init_size = u32::MAX),
            "1 MiB to 4 GiB",
        ),
        (
            bzimage(&[0; 5000], |header| header.init_size = 64 << 20),
            "more memory",
        ),
        (program.bytes(), "not a kernel"),
        (Elf::vmlinux().bytes()[..4200].to_vec(), "outside the file"),
        (Elf::vmlinux().bytes()[..90].to_vec(), "outside the file"),
        (
            Elf {
                machine: 183,
                ..Elf::vmlinux()
            }
            .bytes(),
            "machine 183",
        ),
        (
            Elf {
                kind: 1,
                ..Elf::vmlinux()
            }
            .bytes(),
            "type 1",
        ),
        (
            Elf {
                segments: vec![],
                ..Elf::vmlinux()
            }
            .bytes(),
            "0 program headers",
        ),
    ] {
        let text = refused(&content);
        assert!(
            text.contains(words) && text.contains("vmlinuz"),
            "{words}: {text}"
        );
    }
    let error = boot(&Given::kernel(b"").memory(0), &Given::kernel(b"").input());
    assert!(error.expect_err("empty").to_string().contains("is empty"));
}

#[test]
fn segments_outside_usable_ram_are_refused() {
    for (phys, words) in [
        (0x2000, "boot data"),
        (0xf_f000, "boot data"),
        (0xa_0000, "more memory"),
        (64 * MIB - 100, "more memory"),
        (64 * MIB, "more memory"),
        (GIB, "more memory"),
        (u64::MAX - 10, "passes the end"),
    ] {
        let mut kernel = Elf::vmlinux();
        kernel.segments[1].2 = phys;
        let text = refused(&kernel.bytes());
        assert!(text.contains(words), "{phys:#x}: {text}");
    }
    let mut kernel = Elf::vmlinux();
    kernel.segments[0].2 = 0x200_0000;
    assert!(refused(&kernel.bytes()).contains("0x1000040, where nothing is loaded"));
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let mut given = Given::kernel(&Elf::vmlinux().bytes());
    given.cmdline = "x".repeat(3000);
    let error = boot(&given.memory(0), &given.input()).expect_err("too long");
    assert_eq!(
        error.to_string(),
        "the kernel command line has 3000 bytes; this kernel takes at most 2047"
    );
    given.cmdline = "a\0b".into();
    let error = boot(&given.memory(0), &given.input()).expect_err("a zero byte");
    assert!(matches!(error, BootError::CmdlineZero(1)));
    given.cmdline.clear();
    let initrd = file(b"");
    initrd.set_len(60 * MIB).expect("a sparse file");
    given.initrd = Some(initrd);
    let text = boot(&given.memory(0), &given.input())
        .expect_err("too large")
        .to_string();
    for words in ["initrd.img", "62914560 bytes", "0x1102328", "0x4000000"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn the_initrd_stays_below_the_limit_of_its_kernel() {
    let kernel = bzimage(&[0; 5000], |header| header.initrd_addr_max = 0x1ff_ffff);
    let mut given = Given::kernel(&kernel);
    given.initrd = Some(file(&[3; 5000]));
    let memory = given.memory(0);
    boot(&memory, &given.input()).expect("a kernel");
    assert_eq!(bytes(&memory, 0x200_0000 - 8192, 5000), vec![3; 5000]);
}

#[test]
fn a_boot_after_a_reset_gives_the_same_bytes() {
    for content in [Elf::vmlinux().bytes(), bzimage(&[0xcc; 5000], |_| {})] {
        let mut given = Given::kernel(&content);
        given.initrd = Some(file(&[3; 10_000]));
        let first = given.memory(0);
        let entry = boot(&first, &given.input()).expect("a kernel");
        given.ram_is_zero = false;
        let second = given.memory(0xaa);
        assert_eq!(boot(&second, &given.input()).expect("a kernel"), entry);
        let mut same = layout::BOOT_DATA.to_vec();
        same.push(Span::new(0, 0x1000));
        if let Entry::Pvh { .. } = entry {
            same.push(Span::new(0x110_0000, 9000)); // with its bss
        }
        for span in same {
            let len = usize::try_from(span.len).expect("64-bit host");
            assert!(
                bytes(&first, span.base, len) == bytes(&second, span.base, len),
                "{span:x?}"
            );
        }
    }
}

/// Boots it and says how that went: whatever the file says, the legacy area is never written, and
/// nothing at all when it is refused.
fn try_boot(content: &[u8]) -> Result<Entry, BootError> {
    let mut given = Given::kernel(content);
    given.ram = vec![Span::new(0, 8 * MIB)];
    given.ram_is_zero = false;
    let memory = given.memory(0x5a);
    let result = boot(&memory, &given.input());
    let legacy = Span::new(layout::LOW_RAM_END, layout::ACPI.base - layout::LOW_RAM_END);
    let untouched = match result {
        Ok(_) => legacy,
        Err(_) => given.ram[0],
    };
    let len = usize::try_from(untouched.len).expect("64-bit host");
    let bytes = bytes(&memory, untouched.base, len);
    assert!(bytes.iter().all(|byte| *byte == 0x5a), "{result:?}");
    result
}

/// Any 64-bit number, most often a hostile one.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x100_0000u64,
        Just(u64::MAX),
        Just(u64::MAX - 0xfff),
        Just(1 << 63),
        Just((1 << 32) - 1),
        Just(0x70_0000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_elf_files_never_panic(
        entry in number(),
        wide in any::<bool>(),
        fields in prop::collection::vec((0usize..6, 0usize..3, number()), 0..6),
        pvh in number(),
        cut in 0usize..10_000,
    ) {
        let mut kernel = Elf::vmlinux();
        kernel.wide = wide;
        kernel.machine = if wide { 62 } else { 3 };
        kernel.entry = entry;
        kernel.segments[0].2 = 0x10_0000;
        kernel.segments[1].2 = 0x20_0000;
        kernel.segments[2].3 = note(b"Xen\0", 18, &pvh.to_le_bytes(), 4);
        let mut content = kernel.bytes();
        // Overwrite fields of the program headers.
        let (first, size, width) = if wide { (64, 56, 8) } else { (52, 32, 4) };
        for (field, segment, value) in fields {
            let at = first + segment * size + if wide { 8 } else { 4 } + field * width;
            content[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        if cut < content.len() {
            content.truncate(content.len() - cut);
        }
        let _ = try_boot(&content);
    }

    #[test]
    fn random_bzimage_headers_never_panic(
        changes in prop::collection::vec((0x1f1usize..0x270, any::<u8>()), 0..8),
        preferred in number(),
        init_size in any::<u32>(),
        len in 0usize..3000,
    ) {
        let mut content = bzimage(&vec![0xcc; len], |header| {
            header.pref_address = preferred;
            header.init_size = init_size % 0x80_0000;
        });
        for (at, value) in changes {
            content[at] = value;
        }
        let _ = try_boot(&content);
    }

    #[test]
    fn random_bytes_behind_a_magic_never_panic(
        mut content in prop::collection::vec(any::<u8>(), 0..2000),
        elf in any::<bool>(),
    ) {
        let (at, magic) = if elf { (0, b"\x7fELF") } else { (0x202, b"HdrS") };
        if let Some(place) = content.get_mut(at..at + 4) {
            place.copy_from_slice(magic);
        }
        prop_assert!(try_boot(&content).is_err());
    }

    #[test]
    fn the_memory_map_is_the_ram_less_what_is_reserved(
        low in 1u64..0xb0000,
        highs in prop::collection::vec((0u64..1000, 1u64..100_000), 0..4),
    ) {
        let mut given = Given::kernel(b"");
        given.ram = vec![Span::new(0, MIB + low * 0x1000)];
        given.ram[0].len = given.ram[0].len.min(0xb000_0000);
        let mut at = 4 * GIB;
        for (gap, len) in highs {
            given.ram.push(Span::new(at + gap * 0x1000, len * 0x1000));
            at += (gap + len) * 0x1000;
        }
        let map = memory_map::entries(&given.board()).expect("a sound machine");
        for pair in map.windows(2) {
            prop_assert!(pair[0].span.end() <= pair[1].span.base);
        }
        let usable: u64 = map
            .iter()
            .filter(|entry| entry.kind == Kind::Ram)
            .map(|entry| entry.span.len)
            .sum();
        let all: u64 = given.ram.iter().map(|span| span.len).sum();
        prop_assert_eq!(usable, all - (layout::HIGH_RAM - layout::LOW_RAM_END));
        for entry in &map {
            let inside = given
                .ram
                .iter()
                .any(|ram| ram.base <= entry.span.base && entry.span.end() <= ram.end());
            match entry.kind {
                Kind::Ram => prop_assert!(inside),
                Kind::Reserved => {
                    prop_assert!(entry.span.end() <= MIB || entry.span == given.board().pci.ecam);
                }
            }
        }
    }
}

#[test]
fn ram_that_makes_no_sense_is_refused() {
    for ram in [
        vec![],
        vec![Span::new(0x1000, GIB)],
        vec![Span::new(0, 0x1000)],
        vec![Span::new(0, GIB), Span::new(GIB / 2, GIB)],
        vec![Span::new(0, GIB), Span::new(4 * GIB, 0)],
        vec![Span::new(0, 3 * GIB)],
        vec![Span::new(0, GIB), Span::new(4 * GIB, u64::MAX)],
    ] {
        let mut given = Given::kernel(b"");
        given.ram = ram;
        let error = memory_map::entries(&given.board()).expect_err("no sense");
        assert!(matches!(error, BootError::Machine(_)), "{error}");
    }
}
