//! A bell between threads: rung from anywhere, waited for with `poll`.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An eventfd. Ringing never blocks; rings that nobody has heard yet are one.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self(eventfd(0, flags)?))
    }

    /// Rings.
    pub fn ring(&self) {
        // Only a counter that is full refuses one more, and a full counter rings.
        let _full = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it. Look for what it was rung for after this, not before.
    pub fn hush(&self) {
        let _silent = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
