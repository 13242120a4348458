//! From files to a guest that can take its first step: the kernel and initrd in guest memory, or the
//! firmware's shadow and what it asks for ([`firmware`]), the tables that describe the machine (ACPI, SMBIOS, memory map), and the state that the boot vCPU
//! starts in.
//!
//! Nothing here opens a path, knows KVM or keeps state: [`load`] may run again after a reset and
//! gives the same bytes. Kernel files are not trusted; nothing is ever written outside the RAM given.

mod acpi;
mod error;
pub mod firmware;
mod guest;
mod input;
pub mod layout;
mod loader;
mod memory_map;
mod smbios;

pub use error::BootError;
pub use input::{
    BootBoard, BootCpus, BootDevice, BootDeviceKind, BootFile, BootInput, BootPci, FirmwareInput,
    Span, SystemInfo,
};

use devices::memory::GuestMemory;

/// How the boot vCPU starts. All addresses are guest physical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// PVH (Xen's x86/HVM direct boot ABI): 32-bit protected mode without paging; CS, DS, ES, SS
    /// flat from 0 to 4 GiB and TR a 32-bit TSS of limit 0x67, all cached, no GDT; interrupts off; CR0 = PE.
    Pvh {
        /// EIP.
        entry: u32,
        /// EBX: the start info.
        start_info: u32,
    },
    /// The 64-bit Linux boot protocol: long mode with paging on; interrupts off; CR0 = PE|PG,
    /// CR4 = PAE, EFER = LME|LMA; CS is selector 0x10 (64-bit code), DS, ES, SS are 0x18 (data).
    Linux64 {
        /// RIP.
        entry: u64,
        /// RSI: the zero page (`boot_params`).
        zero_page: u64,
        /// CR3: identity tables of the first 4 GiB, already in guest memory.
        page_tables: u64,
        /// RSP: top of a page of stack.
        stack: u64,
        /// GDTR base: four entries (null, null, 64-bit code, data), already in guest memory.
        gdt: u64,
        /// GDTR limit.
        gdt_limit: u16,
    },
    /// As the processor comes out of reset (Intel SDM 3A §10.1): real mode at ffff0000:fff0, in ROM.
    Reset,
}

/// Puts kernel, initrd and tables into guest memory.
///
/// # Errors
/// [`BootError`], with the file's name, what is wrong and what would be right.
pub fn load(memory: &GuestMemory, input: &BootInput<'_>) -> Result<Entry, BootError> {
    let tables = acpi::build(&input.board)?;
    let smbios = smbios::build(&input.board)?;
    let entry = loader::load(memory, input, layout::ACPI.base)?;
    if !input.ram_is_zero {
        let tables = Span::new(layout::ACPI.base, layout::ACPI.len + layout::SMBIOS.len);
        guest::zero(memory, tables)?;
    }
    guest::write(memory, layout::ACPI.base, &tables)?;
    guest::write(memory, layout::SMBIOS.base, &smbios)?;
    Ok(entry)
}

#[cfg(test)]
mod testing;
