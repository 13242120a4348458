//! The modern PCI transport (virtio 1.3 §4.1): one function, one 64-bit BAR, MSI-X.
//!
//! | file | what |
//! |---|---|
//! | `layout.rs` | what is where in the BAR, and the capabilities that say so |
//! | `registers.rs` | the common configuration structure, pure |
//! | `transport.rs` | live queues: starting, doorbells, interrupts, reset |
//! | `access.rs` | configuration space, BAR accesses, a BAR that moves |
//! | `state.rs` | what is saved |
//!
//! **Reset by the driver** is asynchronous, as virtio 1.3 §4.1.4.3.1 allows: writing 0 to the status
//! stops every queue at once (nothing new is taken, no used entry is written, no interrupt comes),
//! and the status reads 0 when the last transfer into guest memory has ended. A vCPU never waits.
//!
//! **Locks**, in this order: configuration space, registers, then a queue's or the MSI-X table's.
//! None is held while a device works or while anybody waits for vCPUs.

mod access;
mod layout;
mod registers;
mod state;
mod transport;

use crate::device::{Device, DeviceError};
use crate::pci::Slot;
use crate::registry::{Context, CreateError};
use crate::state::{Origin, Saved, Section, StateError};
use crate::virtio::device::VirtioDevice;
use layout::Function;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport::Core;
use vmm_api::spec::{IoLimits, PciAddress};
use vmm_api::state::Adjustment;

/// A virtio device behind PCI, as the machine holds it.
pub struct VirtioPci {
    core: Arc<Core>,
    _slot: Slot,
}

impl VirtioPci {
    /// Puts `device` at `address`.
    ///
    /// # Errors
    /// [`CreateError`] when the address is taken or saved state does not fit the device.
    pub fn create(
        id: &str,
        address: PciAddress,
        device: Arc<dyn VirtioDevice>,
        context: &Context,
        origin: Origin<'_>,
    ) -> Result<Arc<dyn Device>, CreateError> {
        let saved = state::load(id, origin)?;
        let core = Core::new(id, address, device, context).ok_or_else(|| CreateError::Spec {
            id: id.into(),
            reason: "its queues do not fit a PCI function".into(),
        })?;
        let function: Function = core.clone();
        let slot = context
            .pci
            .plug(address, &function)
            .map_err(|error| crate::pci::slot_error(id, &error))?;
        let this = Self { core, _slot: slot };
        if let Some(saved) = saved {
            this.core
                .restore(&saved)
                .map_err(|reason| state::invalid(id, reason))?;
        }
        this.core.place_bar();
        Ok(Arc::new(this))
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.core.unplug();
    }
}

impl Device for VirtioPci {
    fn id(&self) -> &str {
        self.core.id()
    }

    fn pause(&self) {
        self.core.pause();
        self.core.device().pause();
    }

    fn resume(&self) {
        self.core.device().resume();
        self.core.resume();
    }

    fn reset(&self) {
        self.core.power_on();
    }

    fn activate(&self) -> Result<(), DeviceError> {
        self.core.device().set_active(true)
    }

    fn inactivate(&self) -> Result<(), DeviceError> {
        self.core.device().set_active(false)
    }

    fn leave(&self) {
        self.core.device().leave();
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = self.core.state();
        let mut sections = vec![Section::new(
            self.core.id(),
            state::KIND,
            state::VERSION,
            &state,
        )?];
        sections.extend(self.core.device().save()?);
        Ok(Saved::Sections(sections))
    }

    fn adjust(&self, setting: Adjustment) -> bool {
        self.core.device().adjust(setting)
    }

    fn limit(&self, limits: &IoLimits) -> bool {
        self.core.device().limit(limits)
    }

    fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        self.core.device().connect(socket)
    }

    fn held_back(&self) -> u64 {
        self.core.device().held_back()
    }

    fn stats(&self) -> serde_json::Value {
        self.core.device().stats()
    }
}

#[cfg(test)]
mod tests;
