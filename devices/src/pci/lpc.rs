//! The LPC bridge 00:1f.0: Intel's ICH9 (8086:2918), as firmware and Linux expect it.
//!
//! The machine's PM block is fixed at 0x600 and says so here; moving it is not possible. Interrupt
//! routing registers can be written and read back: nothing is wired to them.

use super::config::{ConfigBuilder, ConfigSpace, Identity};

/// Ports of the PM block.
const PM_BASE: u32 = 0x600;

/// The register file at power-on.
pub(super) fn config() -> ConfigSpace {
    let mut builder = ConfigBuilder::endpoint(Identity {
        vendor: 0x8086,
        device: 0x2918,
        revision: 2,
        class: 0x06_0100,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    // PMBASE: an I/O range (bit 0); ACPI_CNTL: the range is enabled (bit 7).
    builder.set(0x40, &(PM_BASE | 1).to_le_bytes());
    builder.set(0x44, &[0x80]);
    // RCBA: where the chipset's own registers would be; firmware places them, nobody is there.
    builder.allow(0xf0, &0xffff_c001_u32.to_le_bytes());
    // PIRQ[A-H]_ROUT: routing disabled.
    for offset in [0x60, 0x68] {
        builder.set(offset, &[0x80; 4]);
        builder.allow(offset, &[0x8f; 4]);
    }
    builder.build()
}
