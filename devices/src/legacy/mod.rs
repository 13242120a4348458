//! The PC's built-in and ISA devices, and the chipset that puts the built-in ones together.
//!
//! One folder per device, each with the same files: `mod.rs` is the device and the story of its
//! data path, `state.rs` what is saved of it, further files its pure state machines, `tests.rs`
//! its tests.
//!
//! Guests reach these registers at will: nothing here may panic, allocate without bound or wait,
//! whatever is written in whatever order.

mod alarm;
mod chipset;
mod clock;
pub mod debug_console;
pub mod debug_exit;
pub mod fw_cfg;
mod gsi;
pub mod i8042;
pub mod ioapic;
pub mod pic;
pub mod pit;
pub mod pm;
mod ports;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use chipset::{Chipset, ChipsetHost, ChipsetOptions};
pub use gsi::GSI_COUNT;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device's own lock. A thread that panicked while holding it has left plain data behind.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
