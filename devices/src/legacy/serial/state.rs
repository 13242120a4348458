//! What is saved of a serial port. Its console is a back-end and has no state of the guest's.

use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "serial";
/// Version of [`SerialState`].
pub const VERSION: u32 = 1;

/// The registers of a 16550A.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// Interrupt enable, bits 0 to 3.
    pub ier: u8,
    /// FIFO control as written last: enable, DMA mode, trigger level.
    pub fcr: u8,
    /// Line control.
    pub lcr: u8,
    /// Modem control.
    pub mcr: u8,
    /// Scratch.
    pub scr: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// Modem status: changes since the last read (bits 0 to 3).
    pub msr_delta: u8,
    /// Line status: the overrun bit.
    pub overrun: bool,
    /// The transmitter-empty interrupt waits to be read.
    pub thr_interrupt: bool,
    /// Received bytes, oldest first; at most 16.
    pub rx: Vec<u8>,
}
