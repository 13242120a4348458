//! Which PCI places of a definition are taken, and the next free one.
//!
//! Bus 0 has slots 0 to 31; 0 is the host bridge, 31 the LPC bridge. A root port's bus has slot 0
//! only. What a definition says stays where it is, whether the device is built or not, so that it
//! never has to move.

use std::collections::BTreeSet;
use vmm_api::spec::PciAddress;

/// Slots of the root bus that devices may have.
const SLOTS: std::ops::RangeInclusive<u8> = 1..=30;

#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: BTreeSet<PciAddress>,
    /// Buses of root ports.
    ports: BTreeSet<u8>,
    /// The slot that root ports share now, when they have to.
    shared: Option<u8>,
}

impl Slots {
    /// Notes that an address is in use.
    pub fn take(&mut self, address: PciAddress) {
        self.taken.insert(address);
    }

    /// Notes that a root port leads to this bus.
    pub fn add_port(&mut self, bus: u8) {
        self.ports.insert(bus);
    }

    fn slot_is_free(&self, bus: u8, slot: u8) -> bool {
        let function = |function| PciAddress::new(bus, slot, function);
        (0..8)
            .filter_map(function)
            .all(|address| !self.taken.contains(&address))
    }

    /// How many slots of the root bus have nothing in them.
    pub fn free_slots(&self) -> usize {
        SLOTS.filter(|slot| self.slot_is_free(0, *slot)).count()
    }

    /// A whole slot of the root bus, the lowest.
    pub fn root_slot(&mut self) -> Option<PciAddress> {
        let slot = SLOTS.into_iter().find(|slot| self.slot_is_free(0, *slot))?;
        let address = PciAddress::new(0, slot, 0)?;
        self.take(address);
        Some(address)
    }

    /// A place for a root port: a slot of its own, or when there are too few (`tight`) the next
    /// function of a slot that ports share, eight to a slot.
    pub fn port_place(&mut self, tight: bool) -> Option<PciAddress> {
        if !tight {
            return self.root_slot();
        }
        if let Some(slot) = self.shared {
            let next = (1..8)
                .filter_map(|function| PciAddress::new(0, slot, function))
                .find(|address| !self.taken.contains(address));
            if let Some(address) = next {
                self.take(address);
                return Some(address);
            }
        }
        let first = self.root_slot()?;
        self.shared = Some(first.slot);
        Some(first)
    }

    /// A place for a device: the lowest root port with nothing behind it, else a slot of the root
    /// bus.
    pub fn device_place(&mut self) -> Option<PciAddress> {
        let port = self
            .ports
            .iter()
            .copied()
            .find(|bus| self.slot_is_free(*bus, 0));
        match port {
            Some(bus) => {
                let address = PciAddress::new(bus, 0, 0)?;
                self.take(address);
                Some(address)
            }
            None => self.root_slot(),
        }
    }
}
