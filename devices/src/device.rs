//! What every device offers to the machine that holds it.
//!
//! ```text
//! create ---> running <---pause/resume---> paused ---save---> sections
//!                |                            |
//!                +----------- reset ----------+      drop = unplug; leave = the process ends
//! ```
//!
//! A device made from saved state is paused: `resume` starts it. What several hosts may share (an
//! image) is opened inactive and belongs to this machine only between `activate` and `inactivate`:
//! `activate` comes once before vCPUs first run, `inactivate` before state is handed over (and
//! `activate` again when that failed).
//!
//! `pause`, `resume`, `save` and `reset` come from the machine's driver thread only, while no vCPU
//! runs. Bus accesses come from vCPU threads while none of these calls is under way.

use crate::state::{Saved, StateError};
use std::io;
use std::os::fd::OwnedFd;
use vmm_api::spec::IoLimits;
use vmm_api::state::Adjustment;

/// A device that cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
#[error("device '{id}': {what}: {source}")]
pub struct DeviceError {
    /// Alias.
    pub id: String,
    /// What was tried.
    pub what: String,
    /// Cause.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A device, as the machine holds it. Dropping it unplugs it: reservations, doorbells, routes,
/// threads and descriptors go with it.
pub trait Device: Send + Sync {
    /// The alias from the spec.
    fn id(&self) -> &str;

    /// Stops taking new work and returns when none is in flight. Guest memory is not touched by
    /// this device from here to [`Device::resume`].
    fn pause(&self);

    /// Goes on; work that was parked is tried again.
    fn resume(&self);

    /// Back to power-on state, back-end untouched. Called while paused.
    fn reset(&self);

    /// Takes possession of what is shared with other hosts: image locks are taken, caches dropped,
    /// metadata read again. Called once before vCPUs first run, and after [`Device::inactivate`].
    ///
    /// # Errors
    /// Why it cannot be had, such as who holds the lock.
    fn activate(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Gives it up again: everything written is on stable storage, locks are free. Called while
    /// paused, before state is handed over; afterwards the device must not be resumed.
    ///
    /// # Errors
    /// What could not be written; the device then still owns it.
    fn inactivate(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The process is about to end: what is owed to people who watch is said now, within a bounded
    /// time. Called after [`Device::inactivate`], and instead of a drop: nothing is taken down that
    /// the kernel takes down by itself.
    fn leave(&self) {}

    /// Its state. Called while paused; saving twice gives the same.
    ///
    /// # Errors
    /// [`StateError`] when a payload cannot be written.
    fn save(&self) -> Result<Saved, StateError>;

    /// Takes a setting that has changed; false when it is no business of this device. Called while
    /// running or paused, never while it is saved; must not block.
    fn adjust(&self, setting: Adjustment) -> bool {
        let _ = setting;
        false
    }

    /// Takes other limits of its requests; false when it is no disk. Called in every state; must not block.
    fn limit(&self, limits: &IoLimits) -> bool {
        let _ = limits;
        false
    }

    /// Goes on with the peer at the other end of `socket`. Called in every state; must not block.
    ///
    /// # Errors
    /// `Unsupported` when it has no such peer; else what is wrong with the socket.
    fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        drop(socket);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Bytes of guest RAM that the guest says it has given up to this device.
    fn held_back(&self) -> u64 {
        0
    }

    /// Counters by name, for `vm domstats` and friends; an empty object when it counts nothing.
    fn stats(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}
