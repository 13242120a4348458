//! A BAR on the memory bus: wherever the guest puts it, its reservation follows.

use crate::bus::{Bus, BusDevice, Reservation};
use std::sync::Arc;

/// A memory BAR. The owner calls [`Bar::place`] after each change of its registers.
pub struct Bar {
    bus: Bus,
    size: u64,
    window: Arc<dyn BusDevice>,
    held: Option<(u64, Reservation)>,
}

impl std::fmt::Debug for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bar")
            .field("size", &self.size)
            .field("at", &self.base())
            .finish_non_exhaustive()
    }
}

impl Bar {
    /// A BAR of `size` bytes that is nowhere yet.
    pub fn new(bus: Bus, size: u64, window: Arc<dyn BusDevice>) -> Self {
        Self {
            bus,
            size,
            window,
            held: None,
        }
    }

    /// Where it answers now.
    pub fn base(&self) -> Option<u64> {
        self.held.as_ref().map(|(base, _)| *base)
    }

    /// Makes it answer at `wanted`, or nowhere. True when that changed anything.
    ///
    /// A guest may ask for a place where somebody else answers (it does so while it sizes BARs with
    /// decoding on); then the function answers nowhere until it is moved again.
    pub fn place(&mut self, wanted: Option<u64>) -> bool {
        let before = self.base();
        if before == wanted {
            return false;
        }
        self.held = None;
        if let Some(base) = wanted {
            match self.bus.insert(base, self.size, Arc::clone(&self.window)) {
                Ok(reservation) => self.held = Some((base, reservation)),
                Err(error) => tracing::debug!(%error, "a BAR has no place"),
            }
        }
        self.base() != before
    }
}
