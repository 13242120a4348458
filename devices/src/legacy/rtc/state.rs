//! What is saved of the RTC.

use super::calendar::DateTime;
use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "rtc";
/// Version of [`RtcState`].
pub const VERSION: u32 = 1;

/// Bytes of the chip's memory, registers included.
pub const BYTES: usize = 128;

/// Seconds and nanoseconds; the sum of both counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Seconds; negative ones are before the epoch.
    pub seconds: i64,
    /// Nanoseconds, less than a second.
    pub nanos: u32,
}

/// Registers, memory, and how far the guest's clock is from the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// The register that port 0x71 shows.
    pub index: u8,
    /// Register A without its update bit.
    pub a: u8,
    /// Register B.
    pub b: u8,
    /// Flags of register C.
    pub flags: u8,
    /// The memory; time and control registers are zero here.
    pub nvram: Vec<u8>,
    /// How far the guest's clock is ahead of the host's UTC.
    pub ahead: Moment,
    /// Guest time up to which flags were raised.
    pub seen: Moment,
    /// The time registers while the guest sets them.
    pub held: Option<DateTime>,
    /// The divider was stopped since then: the next second is half a second away.
    pub divider_stopped: bool,
}
