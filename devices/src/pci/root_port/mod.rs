//! A PCI Express root port: a type 1 function on bus 0 with one slot below it.
//!
//! It routes: its secondary bus register decides under which number the guest sees the bus below
//! (see [`super::PciRoot`]). It tells whether the slot is occupied, with the link up then. The slot
//! does not claim to be hot-pluggable yet; its MSI capability, which hot-plug events need, is there
//! and never fires.
//!
//! Files: [`create`](self::create()) makes it, `state` is what is saved, `tests` drive it.

mod create;
mod state;

pub use create::create;

use super::config::ConfigSpace;
use super::{Bridge, PciFunction, Slot};
use crate::device::Device;
use crate::state::{Saved, StateError};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Offset of the secondary bus number.
const SECONDARY: u16 = 0x19;

/// Offsets in the PCI Express capability (PCIe 5.0 §7.5.3).
mod express {
    pub(super) const LINK_STATUS: u16 = 0x12;
    pub(super) const SLOT_STATUS: u16 = 0x1a;
    /// 2.5 GT/s, one lane.
    pub(super) const LINK_UP: u16 = 0x0011;
    pub(super) const LINK_ACTIVE: u16 = 1 << 13;
    pub(super) const PRESENCE: u16 = 1 << 6;
}

struct Core {
    config: Mutex<ConfigSpace>,
    /// Offset of the PCI Express capability.
    express: u16,
    /// Copy of the secondary bus register, readable without the lock.
    secondary: AtomicU8,
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, config: &ConfigSpace) {
        self.secondary
            .store(config.u8(SECONDARY), Ordering::Release);
    }

    /// Shows an occupied or empty slot in the link and slot status.
    fn show(&self, config: &mut ConfigSpace, occupied: bool) {
        let mut set = |offset: u16, bits: u16, on: bool| {
            let at = self.express + offset;
            let value = if on {
                config.u16(at) | bits
            } else {
                config.u16(at) & !bits
            };
            config.set(at, &value.to_le_bytes());
        };
        let link = express::LINK_UP | express::LINK_ACTIVE;
        set(express::LINK_STATUS, link, occupied);
        set(express::SLOT_STATUS, express::PRESENCE, occupied);
    }

    fn occupied(&self, config: &ConfigSpace) -> bool {
        config.u16(self.express + express::SLOT_STATUS) & express::PRESENCE != 0
    }
}

impl PciFunction for Core {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut config = self.lock();
        config.write(offset, data);
        self.follow(&config);
    }
}

impl Bridge for Core {
    fn secondary(&self) -> u8 {
        self.secondary.load(Ordering::Acquire)
    }

    fn set_occupied(&self, occupied: bool) {
        self.show(&mut self.lock(), occupied);
    }
}

/// A root port, as the machine holds it.
pub struct RootPort {
    id: String,
    core: Arc<Core>,
    /// Its own slot and the bus below it.
    _held: (Slot, Slot),
}

impl Device for RootPort {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        let mut config = self.core.lock();
        let occupied = self.core.occupied(&config);
        config.reset();
        self.core.show(&mut config, occupied);
        self.core.follow(&config);
    }

    fn save(&self) -> Result<Saved, StateError> {
        Ok(Saved::Sections(vec![state::section(
            &self.id,
            &self.core.lock(),
        )?]))
    }
}

#[cfg(test)]
mod tests;
