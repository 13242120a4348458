//! What is saved of the power management block.

use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "pm";
/// Version of [`PmState`].
pub const VERSION: u32 = 1;

/// The registers (ACPI 6.3 §4.8.3 and §4.8.4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmState {
    /// Machine time in nanoseconds; the timer counts on it.
    pub now: u64,
    /// How often the timer's highest bit had changed when that was looked at last.
    pub timer_changes: u64,
    /// PM1 status.
    pub pm1_status: u16,
    /// PM1 enable.
    pub pm1_enable: u16,
    /// PM1 control without its constant and write-only bits.
    pub pm1_control: u16,
    /// GPE0 status, event n in bit n.
    pub gpe_status: u64,
    /// GPE0 enable.
    pub gpe_enable: u64,
}
