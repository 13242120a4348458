//! What is saved of the PIT.

use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "pit";
/// Version of [`PitState`].
pub const VERSION: u32 = 1;

/// The three channels and port 0x61.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// Machine time in nanoseconds; the channels' times count on it.
    pub now: u64,
    /// Channels 0 to 2.
    pub channels: [ChannelState; 3],
    /// Machine time of the last timer interrupt that was given, if any was.
    pub last_irq: Option<u64>,
    /// Port 0x61: the speaker is connected to channel 2.
    pub speaker: bool,
}

/// Which byte of a count an access moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// The low byte only; the other is 0.
    Low,
    /// The high byte only; the other is 0.
    High,
    /// Low, then high.
    #[default]
    LowHigh,
}

/// One channel (Intel 8254 datasheet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Mode 0 to 5.
    pub mode: u8,
    /// Counts in decimal.
    pub bcd: bool,
    /// How counts are read and written.
    pub access: Access,
    /// The count that was written last, 1 to 65536 (10000 in decimal).
    pub reload: u32,
    /// Machine time at which that count began to run down; absent while it does not.
    pub start: Option<u64>,
    /// Machine time at which a low gate stopped the count.
    pub held: Option<u64>,
    /// The gate input.
    pub gate: bool,
    /// The low byte of a count of which the high byte is awaited.
    pub low_byte: Option<u8>,
    /// The next read gives the high byte.
    pub read_high: bool,
    /// A latched count.
    pub latched_count: Option<u16>,
    /// A latched status.
    pub latched_status: Option<u8>,
}
