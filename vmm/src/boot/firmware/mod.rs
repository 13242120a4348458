//! What PC firmware (SeaBIOS) needs to start: its image in two places, and answers to what it asks.
//!
//! ```text
//! image, up to 16 MiB, ends at 4 GiB, read-only     the boot vCPU begins here, 16 bytes below the end
//! its last 128 KiB, copied to e0000..100000         RAM: firmware makes it its own and writes there
//! CMOS                                              sizes of RAM, number of vCPUs, default boot order
//! fw_cfg                                            everything else, by name; see below
//! ```
//!
//! | item of fw_cfg | what |
//! |---|---|
//! | `etc/e820` | RAM, and what is no RAM |
//! | `etc/acpi/rsdp`, `etc/acpi/tables`, `etc/table-loader` | the tables of a direct boot, and how to place them |
//! | `etc/smbios/smbios-anchor`, `etc/smbios/smbios-tables` | SMBIOS |
//! | `etc/reserved-memory-end` | where BARs above 4 GiB begin |
//! | `bootorder`, `etc/boot-menu-wait`, `etc/boot-fail-wait` | what to boot, and how long to wait |
//! | `etc/sercon-port` | the serial console |
//!
//! The real-mode half megabyte is RAM throughout: PAM registers keep what is written to them and hide
//! nothing. A reset copies the shadow again, so the firmware starts as it does at power-on. Numbers of
//! fw_cfg are little-endian. Nothing here keeps state.

mod loader;
mod order;
#[cfg(test)]
mod tests;

use super::layout::HIGH_RAM;
use super::{BootBoard, BootError, Entry, FirmwareInput, Span, acpi, guest, smbios};
use crate::memory::layout::{HELPER_PAGES, HIGH_RAM_BASE, helper_pages};
use devices::legacy::fw_cfg::Item;
use devices::memory::GuestMemory;
use loader::{Script, Zone};

/// Bytes of the image that are copied below 1 MiB.
const SHADOW: usize = 128 << 10;

/// Keys of fw_cfg that have no name.
mod key {
    pub(super) const UUID: u16 = 0x02;
    pub(super) const CPUS: u16 = 0x05;
    pub(super) const BOOT_MENU: u16 = 0x0e;
    pub(super) const MAX_CPUS: u16 = 0x0f;
    /// The PIT's interrupt is on pin 2 of the IOAPIC, as the MADT says.
    pub(super) const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Copies the end of the image below 1 MiB, and says how the boot vCPU starts.
///
/// # Errors
/// [`BootError::Memory`] when there is no RAM.
pub fn shadow(memory: &GuestMemory, rom: &[u8]) -> Result<Entry, BootError> {
    let tail = rom.len().saturating_sub(SHADOW);
    let tail = rom.get(tail..).unwrap_or_default();
    guest::write(memory, HIGH_RAM - tail.len() as u64, tail)?;
    Ok(Entry::Reset)
}

/// What fw_cfg offers.
///
/// # Errors
/// A machine that cannot be described.
pub fn items(input: &FirmwareInput<'_>) -> Result<Vec<Item>, BootError> {
    let board = &input.board;
    let mut items = numbers(input);
    items.push(Item::file("etc/e820", e820(input)));
    tables(board, &mut items)?;
    let (anchor, structures) = smbios::movable(board);
    items.push(Item::file("etc/smbios/smbios-anchor", anchor));
    items.push(Item::file("etc/smbios/smbios-tables", structures));
    let mut number = |name: &str, bytes: &[u8]| items.push(Item::file(name, bytes.to_vec()));
    if let Some(window) = board.pci.mmio64 {
        number("etc/reserved-memory-end", &window.base.to_le_bytes());
    }
    if let Some(menu) = input.menu {
        number("etc/boot-menu-wait", &menu.to_le_bytes());
    }
    // All ones: never.
    let wait = input.reboot_timeout.unwrap_or(u32::MAX);
    number("etc/boot-fail-wait", &wait.to_le_bytes());
    if input.serial {
        number("etc/sercon-port", &0x3f8_u16.to_le_bytes());
    }
    if let Some(order) = order::lines(input.order) {
        items.push(Item::file("bootorder", order));
    }
    Ok(items)
}

fn numbers(input: &FirmwareInput<'_>) -> Vec<Item> {
    let board = &input.board;
    let word = |number: u32| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    // A bound of identifiers, which may have gaps.
    let highest = board.cpus.apic_ids.iter().max().copied().unwrap_or(0);
    vec![
        Item::number(key::UUID, board.uuid.as_bytes()),
        Item::number(key::CPUS, &word(board.cpus.present)),
        Item::number(key::BOOT_MENU, &word(input.menu.is_some().into())),
        Item::number(key::MAX_CPUS, &word(highest.saturating_add(1))),
        Item::number(key::IRQ0_OVERRIDE, &[1]),
    ]
}

/// RAM (type 1) and the pages that KVM keeps (type 2): address, length, type. What else is taken
/// firmware knows by itself.
fn e820(input: &FirmwareInput<'_>) -> Vec<u8> {
    let helpers = Span::new(helper_pages(input.image), HELPER_PAGES);
    let ram = input.board.ram.iter().map(|span| (*span, 1_u32));
    let mut bytes = Vec::new();
    for (span, kind) in ram.chain([(helpers, 2)]) {
        bytes.extend(span.base.to_le_bytes());
        bytes.extend(span.len.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
    }
    bytes
}

/// The ACPI tables and the script that places them.
fn tables(board: &BootBoard<'_>, items: &mut Vec<Item>) -> Result<(), BootError> {
    const RSDP: &str = "etc/acpi/rsdp";
    const TABLES: &str = "etc/acpi/tables";
    let acpi = acpi::movable(board)?;
    let mut script = Script::default();
    script.allocate(RSDP, 16, Zone::LowRom);
    script.allocate(TABLES, 64, Zone::High);
    for (at, len) in acpi.pointers {
        script.add_pointer((TABLES, at, len), TABLES);
    }
    for (at, len) in acpi.sums {
        script.add_checksum(TABLES, at + acpi::TABLE_SUM, (at, len));
    }
    script.add_pointer((RSDP, acpi::RSDP_XSDT, 8), TABLES);
    script.add_checksum(RSDP, acpi::RSDP_SUM, (0, acpi.rsdp.len()));
    items.push(Item::file(RSDP, acpi.rsdp));
    items.push(Item::file(TABLES, acpi.tables));
    items.push(Item::file("etc/table-loader", script.bytes()));
    Ok(())
}

/// Bytes of the CMOS memory, as (register, value): what PC firmware has looked for there since the
/// AT. Sizes are in KiB up to 16 MiB and in steps of 64 KiB above.
pub fn cmos(board: &BootBoard<'_>) -> Vec<(u8, u8)> {
    const KIB: u64 = 1 << 10;
    const STEP: u64 = 64 << 10;
    const SIXTEEN_MIB: u64 = 16 << 20;
    let low = board
        .ram
        .iter()
        .filter(|span| span.base < HIGH_RAM_BASE)
        .map(|span| span.end())
        .max()
        .unwrap_or(0);
    let high: u64 = board
        .ram
        .iter()
        .filter(|span| span.base >= HIGH_RAM_BASE)
        .map(|span| span.len)
        .sum();
    let word = |number: u64| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let base = word((low / KIB).min(640));
    let extended = word(low.saturating_sub(HIGH_RAM) / KIB);
    let above_16 = word(low.saturating_sub(SIXTEEN_MIB) / STEP);
    let [h0, h1, h2, ..] = (high / STEP).to_le_bytes();
    let others = u8::try_from(board.cpus.present.saturating_sub(1)).unwrap_or(u8::MAX);
    // Disk, floppy, then CD, where fw_cfg has no order.
    let (first, last) = (0x12, 0x30);
    vec![
        (0x15, base[0]),
        (0x16, base[1]),
        (0x17, extended[0]),
        (0x18, extended[1]),
        (0x30, extended[0]),
        (0x31, extended[1]),
        (0x34, above_16[0]),
        (0x35, above_16[1]),
        (0x38, last),
        (0x3d, first),
        (0x5b, h0),
        (0x5c, h1),
        (0x5d, h2),
        (0x5f, others),
    ]
}
