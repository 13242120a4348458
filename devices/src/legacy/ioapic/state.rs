//! What is saved of the IOAPIC.

use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "ioapic";
/// Version of [`IoapicState`].
pub const VERSION: u32 = 1;

/// The registers and the levels of the pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicState {
    /// APIC ID, bits 24 to 27 of register 0.
    pub id: u8,
    /// The register that the window shows.
    pub select: u8,
    /// Redirection table, one entry per pin; remote IRR (bit 14) included.
    pub entries: Vec<u64>,
    /// Levels of the pins, bit n for pin n.
    pub levels: u32,
}
