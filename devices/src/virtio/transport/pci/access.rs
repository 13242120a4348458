//! How the guest reaches the transport: configuration space, the BAR, and the window from the one
//! into the other (virtio 1.3 §4.1.4.9).

use super::layout::{BAR_SIZE, COMMON, DEVICE, ISR, NOTIFY, PENDING, SPAN, TABLE};
use super::transport::Core;
use crate::bus::{Bus, BusDevice};
use crate::pci::PciFunction;
use crate::pci::bar::Bar;
use crate::pci::config::{ConfigSpace, ConfigState};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

/// Offsets in the window capability: BAR, offset, length, data.
const WINDOW_BAR: u16 = 4;
const WINDOW_OFFSET: u16 = 8;
const WINDOW_LENGTH: u16 = 12;
const WINDOW_DATA: u16 = 16;

/// The function's configuration space and the BAR that follows it.
pub(super) struct PciSide {
    config: ConfigSpace,
    bar: Bar,
}

impl PciSide {
    pub(super) fn new(config: ConfigSpace, mmio: Bus, core: Weak<Core>) -> Self {
        Self {
            config,
            bar: Bar::new(mmio, BAR_SIZE, Arc::new(Window(core))),
        }
    }
}

/// BAR 0 on the memory bus.
struct Window(Weak<Core>);

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.upgrade() {
            Some(core) => core.read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(core) = self.0.upgrade() {
            core.write_bar(offset, data);
        }
    }
}

impl Core {
    fn pci(&self) -> MutexGuard<'_, PciSide> {
        self.pci.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the BAR answer where the registers say.
    pub(super) fn place_bar(&self) {
        self.follow_bar(&mut self.pci());
    }

    fn follow_bar(&self, pci: &mut PciSide) {
        let wanted = pci.config.decoded_bar();
        if pci.bar.place(wanted) {
            self.bar_moved(pci.bar.base());
        }
    }

    /// Takes the BAR off the bus.
    pub(super) fn remove_bar(&self) {
        let mut pci = self.pci();
        if pci.bar.place(None) {
            self.bar_moved(None);
        }
    }

    /// Configuration space back to power-on.
    pub(super) fn reset_pci(&self) {
        let mut pci = self.pci();
        pci.config.reset();
        self.follow_bar(&mut pci);
    }

    pub(super) fn config_state(&self) -> ConfigState {
        self.pci().config.state()
    }

    pub(super) fn restore_config(&self, state: &ConfigState) -> Result<(), String> {
        self.pci().config.restore(state)
    }

    /// What the window shows: an offset into the BAR, if length and alignment are allowed and the
    /// access stays inside.
    fn window(&self, config: &ConfigSpace, len: usize) -> Option<u64> {
        let at = self.offsets.window;
        let offset = config.u32(at + WINDOW_OFFSET);
        let length = config.u32(at + WINDOW_LENGTH);
        let fits = config.u8(at + WINDOW_BAR) == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length)
            && u64::from(offset) + u64::from(length) <= BAR_SIZE
            && len == length as usize;
        fits.then_some(u64::from(offset))
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match region(offset) {
            Some((COMMON, at)) => self.read_common(at, data),
            Some((ISR, 0)) => {
                if let Some(first) = data.first_mut() {
                    *first = self.take_isr();
                }
            }
            Some((DEVICE, at)) => self.device().read_config(at, data),
            Some((TABLE, at)) => self.msix.read_table(at, data),
            Some((PENDING, at)) => self.msix.read_pending(at, data),
            _ => {}
        }
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        match region(offset) {
            Some((COMMON, at)) => self.write_common(at, data),
            Some((DEVICE, at)) => self.device().write_config(at, data),
            Some((NOTIFY, at)) => self.notify(at),
            Some((TABLE, at)) => self.msix.write_table(at, data),
            _ => {}
        }
    }
}

/// The structure at an offset of the BAR, and the offset in it.
fn region(offset: u64) -> Option<(u64, u64)> {
    let base = match offset / SPAN * SPAN {
        // The MSI-X table has twice the space of the others.
        base if base == TABLE + SPAN => TABLE,
        base => base,
    };
    offset.checked_sub(base).map(|at| (base, at))
}

impl PciFunction for Core {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let pci = self.pci();
        let shown = (offset == self.offsets.window + WINDOW_DATA)
            .then(|| self.window(&pci.config, data.len()))
            .flatten();
        match shown {
            Some(at) => {
                drop(pci);
                self.read_bar(at, data);
            }
            None => pci.config.read(offset, data),
        }
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let mut pci = self.pci();
        if offset == self.offsets.window + WINDOW_DATA {
            let shown = self.window(&pci.config, data.len());
            drop(pci);
            if let Some(at) = shown {
                self.write_bar(at, data);
            }
            return;
        }
        pci.config.write(offset, data);
        self.follow_bar(&mut pci);
        let control = self.offsets.msix_control;
        let touched = u64::from(offset)..u64::from(offset) + data.len() as u64;
        if touched.contains(&(u64::from(control) + 1)) {
            self.msix.set_control(pci.config.u16(control));
        }
    }
}
