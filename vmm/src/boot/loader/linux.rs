//! The 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst): the zero page, and the
//! descriptor and page tables that the entry point expects.

use super::Handed;
use super::bzimage::SetupHeader;
use crate::boot::{BootError, Entry, guest, layout, memory_map};
use devices::memory::GuestMemory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::ByteValued;

/// "Any other boot loader"; there is no number for us.
const LOADER_OTHER: u8 = 0xff;
/// Null, null, 64-bit code at 0x10, data at 0x18 (Intel SDM 3A §3.4.5): flat, present, accessed.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Present and writable.
const TABLE: u64 = 0x3;
/// Present, writable, and a 2 MiB page.
const PAGE_2M: u64 = 0x83;

pub(super) fn write(
    memory: &GuestMemory,
    entry: u64,
    header: SetupHeader,
    handed: &Handed<'_>,
) -> Result<Entry, BootError> {
    guest::write(memory, layout::GDT.base, &bytes(GDT.into_iter()))?;
    guest::write(memory, layout::PAGE_TABLES.base, &bytes(page_tables()))?;
    let page = zero_page(header, handed);
    guest::write(memory, layout::ZERO_PAGE.base, page.as_slice())?;
    Ok(Entry::Linux64 {
        entry,
        zero_page: layout::ZERO_PAGE.base,
        page_tables: layout::PAGE_TABLES.base,
        stack: layout::STACK.end(),
        gdt: layout::GDT.base,
        gdt_limit: u16::try_from(size_of_val(&GDT) - 1).unwrap_or_default(),
    })
}

fn bytes(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(u64::to_le_bytes).collect()
}

/// PML4, PDPT and four page directories, in this order.
fn page_tables() -> impl Iterator<Item = u64> {
    let table = |number: u64| (layout::PAGE_TABLES.base + number * 0x1000) | TABLE;
    let pml4 = (0..512).map(move |slot| if slot == 0 { table(1) } else { 0 });
    let pdpt = (0..512).map(move |slot| if slot < 4 { table(2 + slot) } else { 0 });
    let directories = (0..4 * 512).map(|page| (page << 21) | PAGE_2M);
    pml4.chain(pdpt).chain(directories)
}

fn zero_page(mut header: SetupHeader, handed: &Handed<'_>) -> boot_params {
    header.type_of_loader = LOADER_OTHER;
    header.vid_mode = 0xffff; // "normal"
    header.cmd_line_ptr = u32::try_from(layout::CMDLINE.base).unwrap_or_default();
    header.setup_data = 0;
    let mut page = boot_params {
        acpi_rsdp_addr: handed.rsdp,
        ..boot_params::default()
    };
    if let Some(initrd) = handed.initrd {
        (header.ramdisk_image, page.ext_ramdisk_image) = halves(initrd.base);
        (header.ramdisk_size, page.ext_ramdisk_size) = halves(initrd.len);
    }
    page.hdr = header;
    let mut table = page.e820_table;
    for (slot, part) in table.iter_mut().zip(handed.map) {
        *slot = boot_e820_entry {
            addr: part.span.base,
            size: part.span.len,
            r#type: part.kind as u32,
        };
    }
    page.e820_table = table;
    page.e820_entries =
        u8::try_from(handed.map.len().min(memory_map::MAX_ENTRIES)).unwrap_or_default();
    page
}

/// Low and high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
    (low, u32::try_from(value >> 32).unwrap_or_default())
}
