//! Buses: who answers at which address.
//!
//! One [`Bus`] for ports and one for memory. A device never learns its base address. Lookups come
//! from vCPU threads and must never hold the bus while a device runs: a device may move its own
//! range (a PCI BAR) from inside a write.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// Something that answers on a bus. `data` has 1 to 8 bytes, little-endian; unknown registers read
/// as the device's documentation says and writes to them are dropped.
pub trait BusDevice: Send + Sync {
    /// Fills `data` from `offset` bytes into the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A range that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Empty, or past the end of the address space.
    #[error("range {base:#x}+{len:#x} is empty or wraps around")]
    BadRange {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Somebody else answers there.
    #[error("range {base:#x}+{len:#x} overlaps one at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
        /// Where the other range starts.
        other: u64,
    },
}

struct Entry {
    len: u64,
    device: Arc<dyn BusDevice>,
}

type Ranges = RwLock<BTreeMap<u64, Entry>>;

/// An address space.
#[derive(Clone, Default)]
pub struct Bus {
    ranges: Arc<Ranges>,
}

/// A range held on a bus; dropping it gives the range up.
#[must_use = "the range is given up when this is dropped"]
pub struct Reservation {
    ranges: Weak<Ranges>,
    base: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(ranges) = self.ranges.upgrade() {
            ranges
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&self.base);
        }
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({:#x})", self.base)
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer from `base` on for `len` bytes.
    ///
    /// # Errors
    /// [`BusError`] when the range is empty, wraps or overlaps another.
    pub fn insert(
        &self,
        base: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<Reservation, BusError> {
        let last = len
            .checked_sub(1)
            .and_then(|rest| base.checked_add(rest))
            .ok_or(BusError::BadRange { base, len })?;
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, entry)) = ranges.range(..=last).next_back()
            && *other + (entry.len - 1) >= base
        {
            return Err(BusError::Overlap {
                base,
                len,
                other: *other,
            });
        }
        ranges.insert(base, Entry { len, device });
        Ok(Reservation {
            ranges: Arc::downgrade(&self.ranges),
            base,
        })
    }

    /// Reads; false when nobody answers or the access runs over the end of a range.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => false,
        }
    }

    /// Writes; false when nobody answers or the access runs over the end of a range.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, Arc<dyn BusDevice>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (base, entry) = ranges.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(len as u64)?;
        (end <= entry.len).then(|| (offset, Arc::clone(&entry.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap_or(0xff));
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0
                .lock()
                .expect("one thread")
                .push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_their_device_by_offset() {
        let bus = Bus::new();
        let device = Arc::new(Recorder::default());
        let _held = bus.insert(0x100, 0x10, device.clone()).expect("free");
        let mut byte = [0];
        assert!(bus.read(0x105, &mut byte));
        assert_eq!(byte, [5]);
        assert!(bus.write(0x10c, &[1, 2, 3, 4]));
        assert_eq!(
            *device.0.lock().expect("one thread"),
            [(0xc, vec![1, 2, 3, 4])]
        );
        assert!(!bus.write(0x10d, &[0; 4]), "runs over the end");
        assert!(!bus.read(0xff, &mut byte) && !bus.read(0x110, &mut byte));
    }

    #[test]
    fn overlaps_and_empty_ranges_are_refused() {
        let bus = Bus::new();
        let device = || Arc::new(Recorder::default());
        let _held = bus.insert(0x100, 0x10, device()).expect("free");
        for (base, len) in [(0x100, 1), (0xf1, 0x10), (0x10f, 1), (0, u64::MAX)] {
            assert!(
                matches!(
                    bus.insert(base, len, device()),
                    Err(BusError::Overlap { .. })
                ),
                "{base:#x}"
            );
        }
        for (base, len) in [(0, 0), (u64::MAX, 2)] {
            assert!(matches!(
                bus.insert(base, len, device()),
                Err(BusError::BadRange { .. })
            ));
        }
        let _last = bus.insert(u64::MAX, 1, device()).expect("the last byte");
    }

    #[test]
    fn dropping_a_reservation_frees_the_range() {
        let bus = Bus::new();
        let held = bus
            .insert(0, 8, Arc::new(Recorder::default()))
            .expect("free");
        drop(held);
        assert!(!bus.write(0, &[1]));
        let _again = bus
            .insert(0, 8, Arc::new(Recorder::default()))
            .expect("free again");
    }
}
