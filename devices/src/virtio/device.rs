//! What a virtio device model offers to its transport.

use super::queue::Virtqueue;
use crate::device::DeviceError;
use crate::state::{Section, StateError};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vmm_api::spec::IoLimits;
use vmm_api::state::Adjustment;

/// What never changes about a device.
#[derive(Debug, Clone)]
pub struct DeviceInfo {
    /// virtio 1.3 §5: 2 is a block device, 4 an entropy source.
    pub device_id: u16,
    /// PCI class, subclass and programming interface, as 0xCCSSPP.
    pub class: u32,
    /// Feature bits of the model; the transport adds its own.
    pub features: u64,
    /// Entries that each queue may have: powers of two.
    pub queue_sizes: Vec<u16>,
}

/// A device model. Register accesses come from vCPU threads and must not block.
pub trait VirtioDevice: Send + Sync {
    /// What never changes.
    fn info(&self) -> &DeviceInfo;

    /// Fills `data` from `offset` of the configuration space; what is not there reads as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to the configuration space; what is not writable is dropped.
    fn write_config(&self, offset: u64, data: &[u8]);

    /// The driver has turned `queues` on, with these negotiated features. The device serves each
    /// until [`Virtqueue::kicked`] says that it was stopped.
    ///
    /// # Errors
    /// When the host has no thread or memory: the device then needs a reset.
    fn start(&self, features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()>;

    /// Back to power-on; every queue was stopped and is drained. The back-end stays. Must not call
    /// a queue or the transport.
    fn reset(&self);

    /// Every queue stands still. From here to [`VirtioDevice::resume`] its state does not change.
    fn pause(&self) {}

    /// Queues are about to go on.
    fn resume(&self) {}

    /// The process is about to end; see [`crate::device::Device::leave`].
    fn leave(&self) {}

    /// State of the model itself; `None` when it has none beside its transport's.
    ///
    /// # Errors
    /// [`StateError`] when it cannot be written.
    fn save(&self) -> Result<Option<Section>, StateError>;

    /// Whether the configuration space may be another after a restore than the driver last read: it is
    /// then told to read it again.
    fn config_may_differ(&self) -> bool {
        false
    }

    /// Takes a setting that has changed; see [`crate::device::Device::adjust`].
    fn adjust(&self, setting: Adjustment) -> bool {
        let _ = setting;
        false
    }

    /// Takes other limits; see [`crate::device::Device::limit`].
    fn limit(&self, limits: &IoLimits) -> bool {
        let _ = limits;
        false
    }

    /// Goes on with another peer; see [`crate::device::Device::connect`].
    ///
    /// # Errors
    /// Why not.
    fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        drop(socket);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Guest RAM that the guest has given up; see [`crate::device::Device::held_back`].
    fn held_back(&self) -> u64 {
        0
    }

    /// Counters.
    fn stats(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    /// Takes or gives up what is shared with other hosts; see [`crate::device::Device::activate`].
    ///
    /// # Errors
    /// Why not.
    fn set_active(&self, active: bool) -> Result<(), DeviceError> {
        let _ = active;
        Ok(())
    }
}

/// Fills `data` from `offset` of a configuration structure; what is not there reads as zero.
pub(crate) fn read_config(structure: impl IntoIterator<Item = u8>, offset: u64, data: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut rest = structure.into_iter().skip(start);
    data.fill_with(|| rest.next().unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_structure_there_is_nothing() {
        for (offset, expected) in [(0, [1, 2, 3, 0]), (2, [3, 0, 0, 0]), (u64::MAX, [0; 4])] {
            let mut data = [9; 4];
            read_config([1, 2, 3], offset, &mut data);
            assert_eq!(data, expected);
        }
    }
}
