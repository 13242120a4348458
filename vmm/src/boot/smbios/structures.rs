//! The structures one by one, with the field order of DMTF DSP0134 version 3.0, section 7.

use super::{Table, Texts};
use crate::boot::BootBoard;

/// Whose names these are when the domain gives none.
const MANUFACTURER: &str = "vm";
const PRODUCT: &str = "Virtual Machine (Q35)";
/// A date in the format that type 0 wants; readers only ask whether it is recent.
const RELEASE_DATE: &str = "01/01/2026";

const MEMORY_ARRAY: u16 = 0x1000;
const MIB: u64 = 1 << 20;
/// RAM is shown as at most this many memory devices.
const MAX_DEVICES: u64 = 16;
/// Smallest memory device that RAM is split into.
const DEVICE_SIZE: u64 = 16 << 30;
/// "No error information".
const NO_ERROR: u16 = 0xfffe;

/// Type 0 (§7.1).
pub(super) fn bios(table: &mut Table, input: &BootBoard<'_>) {
    const NO_CHARACTERISTICS: u64 = 1 << 3;
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    let mut texts = Texts::default();
    let vendor = texts.add(MANUFACTURER);
    let version = texts.add(input.machine);
    let date = texts.add(RELEASE_DATE);
    table.add(
        0,
        0,
        &[
            &[vendor, version],
            &0xe000u16.to_le_bytes(),
            &[date, 0],
            &NO_CHARACTERISTICS.to_le_bytes(),
            &[0, VIRTUAL_MACHINE],
            &[0, 0, 0xff, 0xff], // release of BIOS and of an embedded controller
        ],
        &texts,
    );
}

/// Type 1 (§7.2).
pub(super) fn system(table: &mut Table, input: &BootBoard<'_>) {
    const POWER_SWITCH: u8 = 6;
    let info = &input.system;
    let mut texts = Texts::default();
    let mut text = |given: Option<&str>, default: &str| {
        let given = given.filter(|text| !text.is_empty());
        texts.add(given.unwrap_or(default))
    };
    let manufacturer = text(info.manufacturer, MANUFACTURER);
    let product = text(info.product, PRODUCT);
    let version = text(info.version, input.machine);
    let serial = text(info.serial, "");
    let sku = text(info.sku, "");
    let family = text(info.family, "");
    table.add(
        1,
        0x0100,
        &[
            &[manufacturer, product, version, serial],
            // The first three fields are little-endian (§7.2.1).
            &input.uuid.to_bytes_le(),
            &[POWER_SWITCH, sku, family],
        ],
        &texts,
    );
}

/// Type 3 (§7.4).
pub(super) fn chassis(table: &mut Table, input: &BootBoard<'_>) {
    const OTHER: u8 = 1;
    const SAFE: u8 = 3;
    const NO_SECURITY: u8 = 3;
    let mut texts = Texts::default();
    let manufacturer = texts.add(MANUFACTURER);
    let version = texts.add(input.machine);
    table.add(
        3,
        0x0300,
        &[
            &[manufacturer, OTHER, version, 0, 0],
            &[SAFE, SAFE, SAFE, NO_SECURITY],
            &[0; 4], // OEM
            &[0; 5], // height, cords, contained elements, SKU
        ],
        &texts,
    );
}

/// Type 4 (§7.5), one per socket; vCPUs fill sockets in order.
pub(super) fn processors(table: &mut Table, input: &BootBoard<'_>) {
    let max = u32::try_from(input.cpus.apic_ids.len()).unwrap_or(u32::MAX);
    let (sockets, cores, threads) = match input.cpus.topology {
        Some(topology) => {
            let cores = topology.cores.saturating_mul(topology.dies);
            (topology.sockets.min(max), cores, topology.threads)
        }
        None => (max, 1, 1),
    };
    let per_socket = cores.saturating_mul(threads);
    for socket in 0..sockets {
        let populated = socket.saturating_mul(per_socket) < input.cpus.present;
        processor(table, input, socket, populated, [cores, per_socket]);
    }
}

fn processor(
    table: &mut Table,
    input: &BootBoard<'_>,
    socket: u32,
    populated: bool,
    [cores, threads]: [u32; 2],
) {
    const CENTRAL: u8 = 3;
    const OTHER: u8 = 1;
    const FAMILY_IN_SECOND_FIELD: u8 = 0xfe;
    const POPULATED_ENABLED: u8 = 0x41;
    const NO_CACHE: [u8; 6] = [0xff; 6];
    const CAPABLE_OF_64_BITS: u16 = 1 << 2;
    let mut texts = Texts::default();
    let designation = texts.add(&format!("CPU {socket}"));
    let manufacturer = texts.add(MANUFACTURER);
    let version = texts.add(input.machine);
    // Counts of 255 and more are in the second fields only (§7.5.6).
    let byte = |count: u32| u8::try_from(count).unwrap_or(u8::MAX);
    let word = |count: u32| u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
    let status = if populated { POPULATED_ENABLED } else { 0 };
    let handle = 0x0400u16.saturating_add(u16::try_from(socket).unwrap_or(u16::MAX));
    table.add(
        4,
        handle,
        &[
            &[designation, CENTRAL, FAMILY_IN_SECOND_FIELD, manufacturer],
            &[0; 8], // processor ID
            &[version, 0],
            &[0; 6], // clock and speeds: not known
            &[status, OTHER],
            &NO_CACHE,
            &[0; 3], // serial number, asset tag, part number
            &[byte(cores), byte(cores), byte(threads)],
            &CAPABLE_OF_64_BITS.to_le_bytes(),
            &1u16.to_le_bytes(), // family: other
            &word(cores),
            &word(cores),
            &word(threads),
        ],
        &texts,
    );
}

/// Types 16, 17 and 19 (§7.17, §7.18, §7.20): one array, its devices, and the addresses it fills.
pub(super) fn memory(table: &mut Table, input: &BootBoard<'_>) {
    let total = input
        .ram
        .iter()
        .fold(0u64, |sum, span| sum.saturating_add(span.len));
    let size = DEVICE_SIZE.max(total.div_ceil(MAX_DEVICES).next_multiple_of(MIB));
    let count = u16::try_from(total.div_ceil(size)).unwrap_or(1);
    memory_array(table, total, count);
    let mut left = total;
    for number in 0..count {
        let part = left.min(size);
        left -= part;
        memory_device(table, number, part);
    }
    for (number, span) in (0u16..).zip(input.ram) {
        let kib = |address: u64| {
            u32::try_from(address >> 10)
                .ok()
                .filter(|kib| *kib < u32::MAX)
        };
        let last = span.end() - 1;
        let (first_kib, last_kib) = match (kib(span.base), kib(last)) {
            (Some(first), Some(last)) => (first, last),
            _ => (u32::MAX, 0), // the extended fields have it
        };
        let extended = if first_kib == u32::MAX {
            [span.base, last]
        } else {
            [0, 0]
        };
        table.add(
            19,
            0x1300u16.saturating_add(number),
            &[
                &first_kib.to_le_bytes(),
                &last_kib.to_le_bytes(),
                &MEMORY_ARRAY.to_le_bytes(),
                &[u8::try_from(count).unwrap_or(u8::MAX)],
                &extended[0].to_le_bytes(),
                &extended[1].to_le_bytes(),
            ],
            &Texts::default(),
        );
    }
}

fn memory_array(table: &mut Table, total: u64, devices: u16) {
    const OTHER: u8 = 1;
    const SYSTEM_MEMORY: u8 = 3;
    const NO_CORRECTION: u8 = 3;
    const SEE_EXTENDED: u32 = 0x8000_0000;
    let (kib, extended) = match u32::try_from(total >> 10) {
        Ok(kib) if kib < SEE_EXTENDED => (kib, 0),
        _ => (SEE_EXTENDED, total),
    };
    table.add(
        16,
        MEMORY_ARRAY,
        &[
            &[OTHER, SYSTEM_MEMORY, NO_CORRECTION],
            &kib.to_le_bytes(),
            &NO_ERROR.to_le_bytes(),
            &devices.to_le_bytes(),
            &extended.to_le_bytes(),
        ],
        &Texts::default(),
    );
}

fn memory_device(table: &mut Table, number: u16, bytes: u64) {
    const UNKNOWN_WIDTH: [u8; 4] = [0xff; 4];
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const OTHER_DETAIL: u16 = 1 << 1;
    const IN_KIB: u16 = 0x8000;
    const SEE_EXTENDED: u16 = 0x7fff;
    let mut texts = Texts::default();
    let locator = texts.add(&format!("DIMM {number}"));
    let manufacturer = texts.add(MANUFACTURER);
    let below = |value: u64| {
        u16::try_from(value)
            .ok()
            .filter(|value| *value < SEE_EXTENDED)
    };
    let (size, extended) =
        if let (true, Some(mib)) = (bytes.is_multiple_of(MIB), below(bytes / MIB)) {
            (mib, 0)
        } else if let Some(kib) = below(bytes >> 10) {
            (kib | IN_KIB, 0)
        } else if let Some(mib) = below(bytes / MIB) {
            (mib, 0)
        } else {
            (SEE_EXTENDED, u32::try_from(bytes / MIB).unwrap_or(u32::MAX))
        };
    table.add(
        17,
        0x1100u16.saturating_add(number),
        &[
            &MEMORY_ARRAY.to_le_bytes(),
            &NO_ERROR.to_le_bytes(),
            &UNKNOWN_WIDTH,
            &size.to_le_bytes(),
            &[DIMM, 0, locator, 0, RAM],
            &OTHER_DETAIL.to_le_bytes(),
            &[0; 2], // speed: not known
            &[manufacturer, 0, 0, 0, 0],
            &extended.to_le_bytes(),
            &[0; 8], // configured speed and voltages: not known
        ],
        &texts,
    );
}

/// Types 32 (§7.33, no errors) and 127 (§7.45).
pub(super) fn end(table: &mut Table) {
    table.add(32, 0x2000, &[&[0; 7]], &Texts::default());
    table.add(127, 0x7f00, &[], &Texts::default());
}
