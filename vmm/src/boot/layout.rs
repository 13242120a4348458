//! Where the boot data goes in the first megabyte. It must never move within a machine version:
//! a guest that was saved while it read a table must find it again.
//!
//! ```text
//! 0x000000  +-----------------------------------------+
//!           | real-mode vectors and BIOS data: zeros  |
//! 0x001000  +-----------------------------------------+
//!           | GDT                 (64-bit entry only) |
//! 0x002000  | page tables: PML4, PDPT, four PDs (same)|
//! 0x008000  | zero page, boot_params            (same)|
//! 0x009000  | PVH start info, modules, memory map     |
//! 0x00c000  | a page of stack     (64-bit entry only) |
//! 0x00d000  | command line and its zero, 64 KiB       |
//! 0x01d000  +-----------------------------------------+
//!           | free: PVH kernels may load here         |
//! 0x09fc00  +-----------------------------------------+
//!           | reserved, where a BIOS has its EBDA     |
//! 0x0a0000  | VGA memory and option ROMs: not RAM     |
//! 0x0e0000  +-----------------------------------------+
//!           | ACPI: RSDP first, then the tables       |
//! 0x0f0000  | SMBIOS: entry point, then structures    |
//! 0x100000  +-----------------------------------------+
//!           | RAM: kernel from here, initrd at the top|
//! ```
//!
//! What lies below 0x9fc00 is scratch that a kernel may reuse once it has read it; 0xe0000 to 1 MiB
//! is reserved in the memory map for good. RSDP and SMBIOS are where BIOS-era searches look
//! (ACPI 6.3 §5.2.5.1, SMBIOS 3.0 §5.2.2). No MP table: it is the predecessor of the MADT, and a
//! kernel that finds both takes the MADT.

use super::Span;

const PAGE: u64 = 0x1000;

/// The descriptor table of the 64-bit entry.
pub const GDT: Span = Span::new(0x1000, PAGE);
/// PML4, PDPT and four page directories: 4 GiB, identity mapped by 2 MiB pages.
pub const PAGE_TABLES: Span = Span::new(0x2000, 6 * PAGE);
/// `boot_params` of the Linux boot protocol.
pub const ZERO_PAGE: Span = Span::new(0x8000, PAGE);
/// The PVH start info, then its module list, then its memory map.
pub const START_INFO: Span = Span::new(0x9000, 3 * PAGE);
/// Stack of the 64-bit entry.
pub const STACK: Span = Span::new(0xc000, PAGE);
/// The command line with its terminating zero.
pub const CMDLINE: Span = Span::new(0xd000, 0x1_0000);

/// Everything below this that is not boot data is usable RAM.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The RSDP and the tables behind it.
pub const ACPI: Span = Span::new(0xe_0000, 0x1_0000);
/// The SMBIOS entry point and the structures behind it.
pub const SMBIOS: Span = Span::new(0xf_0000, 0x1_0000);
/// Where RAM goes on above the legacy area.
pub const HIGH_RAM: u64 = 0x10_0000;

/// All boot data, ascending: what a kernel image must not overwrite.
pub const BOOT_DATA: [Span; 8] = [
    GDT,
    PAGE_TABLES,
    ZERO_PAGE,
    START_INFO,
    STACK,
    CMDLINE,
    ACPI,
    SMBIOS,
];

/// The IOAPIC's registers.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_data_lies_apart_in_order_and_in_its_areas() {
        for pair in BOOT_DATA.windows(2) {
            assert!(pair[0].end() <= pair[1].base, "{pair:x?}");
        }
        for span in BOOT_DATA {
            assert!(span.base.is_multiple_of(PAGE) && span.len.is_multiple_of(PAGE));
            let low = span.base >= PAGE && span.end() <= LOW_RAM_END;
            let rom = span.base >= 0xe_0000 && span.end() <= HIGH_RAM;
            assert!(low || rom, "{span:x?}");
        }
    }
}
