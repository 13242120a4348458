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

use super::{BootError, BootInput, layout};

/// Tables begin at multiples of this; the FACS must (ACPI 6.3 §5.2.10).
const ALIGN: usize = 64;

/// The tables, to be written at [`layout::ACPI`]; the RSDP is their first byte.
///
/// # Errors
/// A machine that the tables cannot describe.
pub(super) fn build(input: &BootInput<'_>) -> Result<Vec<u8>, BootError> {
    let header = fixed::Header::of_machine(input.machine);
    let mut image = Image::default();
    let rsdp = image.reserve(fixed::RSDP_LEN);
    let facs = image.add(&fixed::facs());
    let dsdt = image.add(&header.table(b"DSDT", 2, &dsdt::build(input)?));
    let fadt = image.add(&fixed::fadt(header, facs, dsdt));
    let madt = image.add(&fixed::madt(header, &input.cpus)?);
    let mcfg = image.add(&fixed::mcfg(header, &input.pci)?);
    let xsdt = image.add(&fixed::xsdt(header, &[fadt, madt, mcfg]));
    image.fill(rsdp, &fixed::rsdp(xsdt));
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

/// Tables in the making, with the addresses that they will have.
#[derive(Default)]
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Appends a table and gives its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let at = self.reserve(table.len());
        self.fill(at, table);
        at
    }

    fn reserve(&mut self, len: usize) -> u64 {
        let at = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(at + len, 0);
        layout::ACPI.base + at as u64
    }

    fn fill(&mut self, address: u64, table: &[u8]) {
        let at = usize::try_from(address - layout::ACPI.base).unwrap_or(usize::MAX);
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
