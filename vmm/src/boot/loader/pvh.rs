//! The PVH start info (Xen, `arch-x86/hvm/start_info.h`, version 1): command line, memory map, RSDP and
//! the initrd as the only module.

use super::Handed;
use crate::boot::{BootError, Entry, guest, layout};
use devices::memory::GuestMemory;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

const MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = layout::START_INFO.base + 0x40;
const MEMORY_MAP: u64 = layout::START_INFO.base + 0x80;

pub(super) fn write(
    memory: &GuestMemory,
    entry: u32,
    handed: &Handed<'_>,
) -> Result<Entry, BootError> {
    let map: Vec<u8> = handed
        .map
        .iter()
        .flat_map(|part| {
            let part = hvm_memmap_table_entry {
                addr: part.span.base,
                size: part.span.len,
                type_: part.kind as u32,
                reserved: 0,
            };
            part.as_slice().to_vec()
        })
        .collect();
    guest::write(memory, MEMORY_MAP, &map)?;
    if let Some(initrd) = handed.initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.base,
            size: initrd.len,
            ..hvm_modlist_entry::default()
        };
        guest::write(memory, MODULES, module.as_slice())?;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: u32::from(handed.initrd.is_some()),
        modlist_paddr: handed.initrd.map_or(0, |_| MODULES),
        cmdline_paddr: layout::CMDLINE.base,
        rsdp_paddr: handed.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(handed.map.len()).unwrap_or_default(),
        ..hvm_start_info::default()
    };
    guest::write(memory, layout::START_INFO.base, info.as_slice())?;
    Ok(Entry::Pvh {
        entry,
        start_info: u32::try_from(layout::START_INFO.base).unwrap_or_default(),
    })
}
