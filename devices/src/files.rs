//! The descriptors that the manager passed, by number.
//!
//! Each may be taken once, so that two devices can never share one by mistake. Opening a path is
//! not possible here, on purpose.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use vmm_api::spec::Fd;

/// A descriptor that the spec names and nobody passed, or that is taken already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("descriptor {0} was not passed to this process, or is in use by another device")]
pub struct MissingFd(pub i32);

/// Descriptors waiting for their device.
#[derive(Debug, Default)]
pub struct Files {
    waiting: Mutex<BTreeMap<i32, OwnedFd>>,
}

impl Files {
    /// Adds a descriptor under the number that the spec uses for it.
    pub fn add(&self, number: i32, fd: OwnedFd) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(number, fd);
    }

    /// Takes the descriptor that the spec calls `fd`.
    ///
    /// # Errors
    /// [`MissingFd`].
    pub fn take(&self, fd: Fd) -> Result<OwnedFd, MissingFd> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&fd.0)
            .ok_or(MissingFd(fd.0))
    }
}
