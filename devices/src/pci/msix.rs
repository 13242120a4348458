//! MSI-X: table, pending bits, masks (PCI 3.0 §6.8.2).
//!
//! A vector is registered with the host only while the guest can get it: MSI-X is on, the entry is
//! unmasked, and a user (a queue that is turned on) names it. While it is masked, triggers set its
//! pending bit, and unmasking delivers it.
//!
//! ```text
//!            use_vector + enabled + unmasked
//!   absent ---------------------------------> routed --trigger--> guest
//!     ^                                        |  ^
//!     |  unused, or MSI-X off            masked|  |unmasked (pending is delivered,
//!     +----------------------------------------+  |          a changed message is routed)
//!                                              v  |
//!                                     masked: trigger sets the pending bit
//! ```

use crate::host::{MsiMessage, MsiVector, MsiVectors};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of one table entry.
pub const ENTRY_SIZE: u64 = 16;
/// Vectors that one function may have here.
pub const MAX_VECTORS: u16 = 512;
/// Message control: MSI-X is on.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: every vector is masked.
const CONTROL_MASK: u16 = 1 << 14;
/// Vector control: this entry is masked.
const ENTRY_MASKED: u32 = 1;

#[derive(Default)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
    /// How many users name it.
    users: u16,
    host: Option<Arc<dyn MsiVector>>,
    routed: Option<MsiMessage>,
}

struct Inner {
    enabled: bool,
    masked: bool,
    entries: Vec<Entry>,
    /// A failure of the host was logged: once is enough.
    complained: bool,
}

/// The message interrupts of one function.
pub struct Msix {
    vectors: Arc<dyn MsiVectors>,
    requester_id: u16,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Msix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msix")
            .field("requester_id", &self.requester_id)
            .finish_non_exhaustive()
    }
}

/// One table entry as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryState {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
}

/// The table as saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    enabled: bool,
    masked: bool,
    entries: Vec<EntryState>,
}

impl Msix {
    /// `count` masked vectors (1 to [`MAX_VECTORS`]) of the function with `requester_id`.
    pub fn new(vectors: Arc<dyn MsiVectors>, requester_id: u16, count: u16) -> Self {
        let mut entries = Vec::new();
        entries.resize_with(usize::from(count.clamp(1, MAX_VECTORS)), power_on);
        Self {
            vectors,
            requester_id,
            inner: Mutex::new(Inner {
                enabled: false,
                masked: false,
                entries,
                complained: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The MSI-X capability's body (PCI 3.0 §6.8.2.3) for a table at `table` and pending bits at
    /// `pending`, both offsets (multiples of 8) into BAR 0; and its write masks.
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let last = self.lock().entries.len().saturating_sub(1);
        let [size_low, size_high] = (u16::try_from(last).unwrap_or(0) & 0x7ff).to_le_bytes();
        let [t0, t1, t2, t3] = table.to_le_bytes();
        let [p0, p1, p2, p3] = pending.to_le_bytes();
        let control = (CONTROL_ENABLE | CONTROL_MASK).to_le_bytes();
        let mut writable = [0; 10];
        writable[1] = control[1];
        (
            [size_low, size_high, t0, t1, t2, t3, p0, p1, p2, p3],
            writable,
        )
    }

    /// Follows the message control register.
    pub fn set_control(&self, control: u16) {
        let mut inner = self.lock();
        inner.enabled = control & CONTROL_ENABLE != 0;
        inner.masked = control & CONTROL_MASK != 0;
        self.sync_all(&mut inner);
    }

    /// A user names `index` from now on. Vectors that do not exist are ignored.
    pub fn use_vector(&self, index: u16) {
        self.change_users(index, |users| users.saturating_add(1));
    }

    /// Takes one [`Msix::use_vector`] back.
    pub fn release_vector(&self, index: u16) {
        self.change_users(index, |users| users.saturating_sub(1));
    }

    fn change_users(&self, index: u16, change: impl Fn(u16) -> u16) {
        let inner = &mut *self.lock();
        if let Some(entry) = inner.entries.get_mut(usize::from(index)) {
            entry.users = change(entry.users);
            self.sync(entry, inner.enabled, inner.masked, &mut inner.complained);
        }
    }

    /// Raises vector `index`: delivers it, or leaves it pending while it is masked; nothing happens
    /// when there is no such vector. False when MSI-X is off and the device has to show its
    /// interrupt in another way.
    pub fn trigger(&self, index: u16) -> bool {
        let inner = &mut *self.lock();
        if !inner.enabled {
            return false;
        }
        if let Some(entry) = inner.entries.get_mut(usize::from(index)) {
            entry.pending = true;
            self.sync(entry, inner.enabled, inner.masked, &mut inner.complained);
        }
        true
    }

    /// Reads the table; `offset` in bytes. Bytes behind it read as zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let inner = self.lock();
        for (at, byte) in positions(offset).zip(data) {
            *byte = usize::try_from(at / ENTRY_SIZE)
                .ok()
                .and_then(|index| inner.entries.get(index))
                .map_or(0, |entry| entry.byte((at % ENTRY_SIZE) as usize));
        }
    }

    /// Writes the table; `offset` in bytes. What lies behind it is dropped.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let inner = &mut *self.lock();
        let mut touched = None;
        for (at, value) in positions(offset).zip(data) {
            let Ok(index) = usize::try_from(at / ENTRY_SIZE) else {
                return;
            };
            if touched.is_some_and(|touched| touched != index) {
                self.sync_entry(inner, touched);
            }
            touched = Some(index);
            if let Some(entry) = inner.entries.get_mut(index) {
                entry.set_byte((at % ENTRY_SIZE) as usize, *value);
            }
        }
        self.sync_entry(inner, touched);
    }

    /// Reads the pending bits; `offset` in bytes. They are read-only.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let inner = self.lock();
        for (at, byte) in positions(offset).zip(data) {
            let first = usize::try_from(at.saturating_mul(8)).unwrap_or(usize::MAX);
            *byte = inner
                .entries
                .iter()
                .skip(first)
                .take(8)
                .enumerate()
                .fold(0, |bits, (bit, entry)| {
                    bits | u8::from(entry.pending) << bit
                });
        }
    }

    /// Power-on state: off, every entry masked. Users stay.
    pub fn reset(&self) {
        let mut inner = self.lock();
        inner.enabled = false;
        inner.masked = false;
        for entry in &mut inner.entries {
            entry.address = 0;
            entry.data = 0;
            entry.masked = true;
            entry.pending = false;
        }
        self.sync_all(&mut inner);
    }

    /// What is worth saving. Users belong to whoever named them.
    pub fn state(&self) -> MsixState {
        let inner = self.lock();
        MsixState {
            enabled: inner.enabled,
            masked: inner.masked,
            entries: inner
                .entries
                .iter()
                .map(|entry| EntryState {
                    address: entry.address,
                    data: entry.data,
                    masked: entry.masked,
                    pending: entry.pending,
                })
                .collect(),
        }
    }

    /// Takes saved values.
    ///
    /// # Errors
    /// When the number of vectors is another.
    pub fn restore(&self, state: &MsixState) -> Result<(), String> {
        let mut inner = self.lock();
        if state.entries.len() != inner.entries.len() {
            return Err(format!(
                "{} MSI-X vectors were saved, the device has {}",
                state.entries.len(),
                inner.entries.len()
            ));
        }
        inner.enabled = state.enabled;
        inner.masked = state.masked;
        for (entry, saved) in inner.entries.iter_mut().zip(&state.entries) {
            entry.address = saved.address;
            entry.data = saved.data;
            entry.masked = saved.masked;
            entry.pending = saved.pending;
        }
        self.sync_all(&mut inner);
        Ok(())
    }

    fn sync_entry(&self, inner: &mut Inner, index: Option<usize>) {
        if let Some(entry) = index.and_then(|index| inner.entries.get_mut(index)) {
            self.sync(entry, inner.enabled, inner.masked, &mut inner.complained);
        }
    }

    fn sync_all(&self, inner: &mut Inner) {
        for entry in &mut inner.entries {
            self.sync(entry, inner.enabled, inner.masked, &mut inner.complained);
        }
    }

    /// Brings the host's side of one entry in line with the registers, and delivers what is due.
    fn sync(&self, entry: &mut Entry, enabled: bool, masked: bool, complained: &mut bool) {
        if !enabled || entry.users == 0 {
            if let Some(host) = entry.host.take() {
                host.unroute();
            }
            entry.routed = None;
        }
        if !enabled || masked || entry.masked {
            return;
        }
        let message = MsiMessage {
            address: entry.address,
            data: entry.data,
        };
        let result = (|| {
            if entry.users > 0 && entry.routed != Some(message) {
                let host = match &entry.host {
                    Some(host) => host,
                    None => entry.host.insert(self.vectors.vector(self.requester_id)?),
                };
                host.route(message)?;
                entry.routed = Some(message);
            }
            match &entry.host {
                Some(host) if entry.pending && entry.routed.is_some() => {
                    entry.pending = false;
                    host.trigger()
                }
                _ => Ok(()),
            }
        })();
        if let Err(error) = result
            && !std::mem::replace(complained, true)
        {
            tracing::warn!(%error, requester = self.requester_id, "the host refused a message interrupt");
        }
    }
}

/// `offset` and what follows, up to the end of the address space.
fn positions(offset: u64) -> impl Iterator<Item = u64> {
    offset..=u64::MAX
}

fn power_on() -> Entry {
    Entry {
        masked: true,
        ..Entry::default()
    }
}

impl Entry {
    fn byte(&self, at: usize) -> u8 {
        let pick = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
        match at {
            0..8 => pick(&self.address.to_le_bytes(), at),
            8..12 => pick(&self.data.to_le_bytes(), at - 8),
            12 => u8::from(self.masked),
            _ => 0,
        }
    }

    fn set_byte(&mut self, at: usize, value: u8) {
        match at {
            // The two low bits of a message address are zero.
            0 => self.address = (self.address & !0xff) | u64::from(value & !3),
            1..8 => {
                let shift = at * 8;
                self.address = (self.address & !(0xff << shift)) | (u64::from(value) << shift);
            }
            8..12 => {
                let shift = (at - 8) * 8;
                self.data = (self.data & !(0xff << shift)) | (u32::from(value) << shift);
            }
            12 => self.masked = u32::from(value) & ENTRY_MASKED != 0,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
