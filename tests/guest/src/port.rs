//! Port I/O: the serial line, which is the guest's voice, and the ways to end the machine.

use core::arch::asm;
use core::fmt;

const COM1: u16 = 0x3f8;
/// A byte written here ends the machine with that byte as its exit code.
const DEBUG_EXIT: u16 = 0xf4;

pub fn out8(port: u16, value: u8) {
    // SAFETY: port access changes devices, never the memory that Rust knows of.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) }
}

pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) }
    value
}

/// The serial line as a place to format to.
pub struct Serial;

impl Serial {
    /// One byte that somebody typed, if there is one.
    pub fn typed() -> Option<u8> {
        let ready = in8(COM1 + 5) & 1 != 0;
        ready.then(|| in8(COM1))
    }

    /// Sends one byte.
    pub fn send(byte: u8) {
        out8(COM1, byte);
    }
}

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(Self::send);
        Ok(())
    }
}

/// Prints a line on the serial port.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => {{
        use core::fmt::Write;
        // Writing to the port cannot fail.
        let _ = writeln!($crate::port::Serial, $($part)*);
    }};
}

/// Ends the machine with `code`, by the first way that the machine has.
pub fn exit(code: u8) -> ! {
    out8(DEBUG_EXIT, code);
    out8(0x64, 0xfe); // keyboard controller: pulse the reset line
    out16(0x604, 0x2000); // ACPI soft off of a PC
    loop {
        halt();
    }
}

/// Waits for an interrupt; for ever where interrupts are off.
pub fn halt() {
    // SAFETY: the trap in `entry` executes it in ring 0 and returns here.
    unsafe { asm!("hlt", options(nostack)) }
}

/// Lets interrupts in.
pub fn allow_interrupts() {
    // SAFETY: the trap in `entry` sets the flag; the handler keeps all registers.
    unsafe { asm!("sti", options(nostack)) }
}
