//! The ACPI tables of a machine (ACPI 6.3), laid out one behind the other from the RSDP on:
//!
//! ```text
//! RSDP -> XSDT -> FADT -> FACS
//!              |      `-> DSDT   the AML part: PCI root, ISA devices, S5
//!              |-> MADT          local APICs, IOAPIC, interrupt overrides
//!              `-> MCFG          the ECAM window
//! ```
//!
//! The bytes depend on the input alone and are fixed by the machine version: a golden fingerprint
//! holds them. A new machine version may differ, a released one never does.
//!
//! There is no RSDT (it would matter only to readers of ACPI 1.0), no HPET, no SLIT or SRAT (one node).

mod dsdt;
mod fixed;

pub(super) use fixed::checksum;

use super::{BootBoard, BootError, layout};

/// Tables begin at multiples of this; the FACS must (ACPI 6.3 §5.2.10).
const ALIGN: usize = 64;

/// The tables, to be written at [`layout::ACPI`]; the RSDP is their first byte.
///
/// # Errors
/// A machine that the tables cannot describe.
pub(super) fn build(board: &BootBoard<'_>) -> Result<Vec<u8>, BootError> {
    let mut image = Image::at(layout::ACPI.base);
    let rsdp = image.reserve(fixed::RSDP_LEN);
    let places = describe(&mut image, board)?;
    image.fill(rsdp, &fixed::rsdp(places.xsdt));
    let bytes = image.bytes;
    if bytes.len() as u64 > layout::ACPI.len {
        return Err(BootError::Machine(format!(
            "its ACPI tables have {} bytes; there is room for {}",
            bytes.len(),
            layout::ACPI.len
        )));
    }
    Ok(bytes)
}

/// The same tables for firmware to put where it likes: addresses count from the first byte of
/// `tables`, and are listed.
pub(super) struct Movable {
    /// The RSDP, which points to the XSDT.
    pub(super) rsdp: Vec<u8>,
    /// All other tables.
    pub(super) tables: Vec<u8>,
    /// Fields of `tables` that hold addresses: offset and bytes.
    pub(super) pointers: Vec<(usize, u8)>,
    /// First byte of the tables whose checksums change with the addresses, and their lengths.
    pub(super) sums: Vec<(usize, usize)>,
}

/// Offset of the checksum in a table's header (ACPI 6.3 §5.2.6).
pub(super) const TABLE_SUM: usize = 9;
/// The XSDT's address and the checksum of all bytes in the RSDP (ACPI 6.3 §5.2.5.3).
pub(super) const RSDP_XSDT: usize = 24;
/// See [`RSDP_XSDT`].
pub(super) const RSDP_SUM: usize = 32;

/// The tables, for firmware to place.
///
/// # Errors
/// A machine that the tables cannot describe.
pub(super) fn movable(board: &BootBoard<'_>) -> Result<Movable, BootError> {
    let mut image = Image::at(0);
    let places = describe(&mut image, board)?;
    let index = |address: u64| usize::try_from(address).unwrap_or(usize::MAX);
    let (fadt, xsdt) = (index(places.fadt), index(places.xsdt));
    // FIRMWARE_CTRL, DSDT and X_DSDT (ACPI 6.3 §5.2.9), then the entries of the XSDT.
    let mut pointers = vec![(fadt + 36, 4), (fadt + 40, 4), (fadt + 140, 8)];
    pointers.extend((0..places.count).map(|entry| (xsdt + 36 + entry * 8, 8)));
    let length = |at: usize| {
        let bytes = image
            .bytes
            .get(at + 4..)
            .and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    };
    Ok(Movable {
        rsdp: fixed::rsdp(places.xsdt),
        pointers,
        sums: [fadt, xsdt].map(|at| (at, length(at))).to_vec(),
        tables: image.bytes,
    })
}

/// Where tables are that others point to.
struct Places {
    fadt: u64,
    xsdt: u64,
    /// Entries of the XSDT.
    count: usize,
}

/// Everything but the RSDP.
fn describe(image: &mut Image, board: &BootBoard<'_>) -> Result<Places, BootError> {
    let header = fixed::Header::of_machine(board.machine);
    let facs = image.add(&fixed::facs());
    let dsdt = image.add(&header.table(b"DSDT", 2, &dsdt::build(board)?));
    let fadt = image.add(&fixed::fadt(header, facs, dsdt));
    let madt = image.add(&fixed::madt(header, &board.cpus)?);
    let mcfg = image.add(&fixed::mcfg(header, &board.pci)?);
    let tables = [fadt, madt, mcfg];
    let xsdt = image.add(&fixed::xsdt(header, &tables));
    Ok(Places {
        fadt,
        xsdt,
        count: tables.len(),
    })
}

/// Tables in the making, with the addresses that they will have.
struct Image {
    base: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// None yet; the first will be at `base`.
    fn at(base: u64) -> Self {
        Self {
            base,
            bytes: Vec::new(),
        }
    }

    /// Appends a table and gives its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let at = self.reserve(table.len());
        self.fill(at, table);
        at
    }

    fn reserve(&mut self, len: usize) -> u64 {
        let at = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(at + len, 0);
        self.base + at as u64
    }

    fn fill(&mut self, address: u64, table: &[u8]) {
        let at = usize::try_from(address - self.base).unwrap_or(usize::MAX);
        if let Some(place) = self
            .bytes
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..table.len()))
        {
            place.copy_from_slice(table);
        }
    }
}

#[cfg(test)]
mod tests;
