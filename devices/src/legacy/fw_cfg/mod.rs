//! The firmware configuration device at ports 0x510 to 0x51b: how firmware is told what machine it
//! runs on. The interface is QEMU's (its specification fw_cfg), which SeaBIOS, OVMF and Linux know.
//!
//! ```text
//! write 16 bits to 0x510   --> an item is selected, its reading position is 0
//! read bytes from 0x511    --> its bytes, one after the other; zeros behind its end
//! write address to 0x514   --> the high half (big-endian, as all of this half of the interface)
//! write address to 0x518   --> the low half: the access that is described there is done at once
//!      { control, length, address }: select, then read into RAM or skip; control = 0 or ERROR
//! item 0x19                --> the directory: names, sizes and keys of the items from 0x20 on
//! ```
//!
//! Items are fixed when the machine is made and belong to its saved state: a restored guest reads what
//! the first one read. Nothing can be written. A transfer goes to RAM only, whole or not at all, and
//! marks what it wrote as dirty.

mod items;
mod state;
#[cfg(test)]
mod tests;

use super::lock;
use crate::bus::{Bus, BusDevice, Reservation};
use crate::device::Device;
use crate::memory::GuestMemoryHandle;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
pub use items::{Item, ItemsError, Key, MAX_ITEM, MAX_ITEMS};
use items::{Items, Reader};
pub use state::{FwCfgState, KIND, VERSION};
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend};

/// First port.
pub const BASE: u16 = 0x510;
/// Ports.
pub const LEN: u16 = 12;

/// Offsets of the registers.
mod at {
    pub(super) const SELECTOR: u64 = 0;
    pub(super) const DATA: u64 = 1;
    pub(super) const DMA_HIGH: u64 = 4;
    pub(super) const DMA_LOW: u64 = 8;
}

/// Bits of an access's control field.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// What the address register reads as: "QEMU CFG".
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Bytes of the structure that describes an access.
const ACCESS: usize = 16;
/// The longest transfer. No item is nearly as long; a vCPU must not be kept away for longer.
const MAX_TRANSFER: u32 = 16 << 20;

struct Inner {
    reader: Reader,
    dma_high: u32,
}

struct Registers {
    items: Items,
    memory: GuestMemoryHandle,
    inner: Mutex<Inner>,
}

/// An access as the guest describes it.
struct Access {
    control: u32,
    length: u32,
    address: u64,
}

impl Access {
    fn parse(bytes: [u8; ACCESS]) -> Self {
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
        Self {
            control: u32::from_be_bytes([c0, c1, c2, c3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            address: u64::from_be_bytes(address),
        }
    }
}

impl Registers {
    /// Does what the structure at `at` describes and leaves the result in its first field.
    fn transfer(&self, inner: &mut Inner, at: u64) {
        let memory = self.memory.memory();
        let mut bytes = [0; ACCESS];
        if memory.read_slice(&mut bytes, GuestAddress(at)).is_err() {
            return;
        }
        let done = self.perform(inner, &Access::parse(bytes));
        let result = if done { 0 } else { control::ERROR };
        // It was read from there a moment ago.
        let _gone = memory.write_slice(&result.to_be_bytes(), GuestAddress(at));
    }

    fn perform(&self, inner: &mut Inner, access: &Access) -> bool {
        if access.control & control::SELECT != 0 {
            inner.reader.select((access.control >> 16) as u16);
        }
        if access.control & control::READ != 0 {
            self.copy(inner, access)
        } else if access.control & control::WRITE != 0 {
            false
        } else {
            if access.control & control::SKIP != 0 {
                inner.reader.skip(access.length);
            }
            true
        }
    }

    /// Copies the next bytes of the item into RAM, then zeros.
    fn copy(&self, inner: &mut Inner, access: &Access) -> bool {
        const ZEROS: [u8; 4096] = [0; 4096];
        let memory = self.memory.memory();
        let start = GuestAddress(access.address);
        let Ok(length) = usize::try_from(access.length) else {
            return false;
        };
        if access.length > MAX_TRANSFER || !memory.check_range(start, length) {
            return false;
        }
        let rest = inner.reader.rest(&self.items);
        let bytes = rest.get(..length).unwrap_or(rest);
        let mut written = memory.write_slice(bytes, start).is_ok();
        let mut done = bytes.len();
        while written && done < length {
            let piece = (length - done).min(ZEROS.len());
            let zeros = ZEROS.get(..piece).unwrap_or_default();
            let to = GuestAddress(access.address.saturating_add(done as u64));
            written = memory.write_slice(zeros, to).is_ok();
            done += piece;
        }
        inner.reader.skip(access.length);
        written
    }
}

impl BusDevice for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            at::DATA => {
                let reader = &mut lock(&self.inner).reader;
                data.fill_with(|| reader.byte(&self.items));
            }
            at::DMA_HIGH.. => {
                let from = usize::try_from(offset - at::DMA_HIGH).unwrap_or(usize::MAX);
                let signature = DMA_SIGNATURE.iter().skip(from);
                data.fill(0);
                for (byte, letter) in data.iter_mut().zip(signature) {
                    *byte = *letter;
                }
            }
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let inner = &mut *lock(&self.inner);
        match (offset, data) {
            (at::SELECTOR, [low, high]) => inner.reader.select(u16::from_le_bytes([*low, *high])),
            (at::DMA_HIGH, [a, b, c, d]) => {
                inner.dma_high = u32::from_be_bytes([*a, *b, *c, *d]);
            }
            (at::DMA_LOW, [a, b, c, d]) => {
                let low = u32::from_be_bytes([*a, *b, *c, *d]);
                // The high half is good for one access.
                let high = std::mem::take(&mut inner.dma_high);
                self.transfer(inner, u64::from(high) << 32 | u64::from(low));
            }
            _ => {}
        }
    }
}

/// The device.
pub struct FwCfg {
    registers: Arc<Registers>,
    _ports: Reservation,
}

impl FwCfg {
    /// Makes it with its ports. A fresh one offers `items`; a restored one what it was saved with.
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken, or the items or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        memory: GuestMemoryHandle,
        items: Vec<Item>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<FwCfgState> = origin.payload(KIND, KIND, VERSION)?;
        let (items, inner) = match state {
            None => {
                let items = Items::new(items).map_err(|error| CreateError::Spec {
                    id: KIND.into(),
                    reason: error.to_string(),
                })?;
                let inner = Inner {
                    reader: Reader::default(),
                    dma_high: 0,
                };
                (items, inner)
            }
            Some(state) => state.take()?,
        };
        let registers = Arc::new(Registers {
            items,
            memory,
            inner: Mutex::new(inner),
        });
        let ports = pio
            .insert(BASE.into(), LEN.into(), registers.clone())
            .map_err(|source| CreateError::Bus {
                id: KIND.into(),
                source,
            })?;
        Ok(Self {
            registers,
            _ports: ports,
        })
    }
}

impl Device for FwCfg {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        *lock(&self.registers.inner) = Inner {
            reader: Reader::default(),
            dma_high: 0,
        };
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = FwCfgState::of(&self.registers.items, &lock(&self.registers.inner));
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}
