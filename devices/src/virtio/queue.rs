//! One virtqueue between its registers and its worker.
//!
//! ```text
//!            start (restored: as Paused)        pause: waits until nothing is in flight
//!   (absent) ---------------------------> Running <-----------------------------> Paused
//!                                            |  resume: parked requests first        |
//!         malformed ring: owner.broken()     |                                       |
//!   Broken <---------------------------------+                                       |
//!      |            stop: parked requests are forgotten                              |
//!      +---------------------------> Stopped <---------------------------------------+
//!                                      when nothing is in flight: owner.drained()
//! ```
//!
//! An [`Element`] is a request in flight. It ends exactly once: completed (its used entry is
//! written, unless the queue was stopped or broke meanwhile), or parked (it is tried again after
//! the next resume; its head is part of saved state; guest memory still holds its descriptors
//! since the driver may not reuse them). Dropping it unfinished parks it.

mod element;
mod ring;

pub use element::Element;

use super::chain::{ChainError, Table};
use crate::backend::eventfd;
use crate::memory::{GuestMemory, GuestMemoryHandle};
use images::exec::{Watch, Watched, read_eventfd};
use ring::{Core, Phase};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Flag of the available ring: the driver wants no interrupts (virtio 1.3 §2.7.7).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// Who hears about a queue: its transport. Called without any lock of the queue held.
pub trait QueueOwner: Send + Sync {
    /// The driver wants to know that buffers were used.
    fn signal(&self, queue: u16);
    /// The ring is malformed: the device needs a reset.
    fn broken(&self, queue: u16, reason: &QueueError);
    /// The last request in flight of a stopped queue has ended.
    fn drained(&self);
    /// The configuration space of the queue's device has changed.
    fn config_changed(&self) {}
}

/// A ring that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Size, address or alignment are impossible, or the ring itself is outside RAM.
    #[error("the ring is not in RAM, not aligned or of an impossible size")]
    Ring,
    /// The available index runs ahead of what the ring can hold.
    #[error("the available ring offers more than it can hold, or cannot be read")]
    Available,
    /// The used ring cannot be written.
    #[error("the used ring cannot be written")]
    Used,
    /// A chain is offered again before it was used.
    #[error("descriptor chain {0} is offered twice")]
    Twice(u16),
    /// A chain is malformed.
    #[error("descriptor chain {head}: {source}")]
    Chain {
        /// Its head.
        head: u16,
        /// What is wrong.
        source: ChainError,
    },
    /// The host has no descriptor left.
    #[error("no event descriptor: {0}")]
    Host(#[from] io::Error),
}

/// How a queue begins.
#[derive(Debug, Clone, Default)]
pub struct QueueSetup {
    /// Its index in the device.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    /// Next available entry to take.
    pub next_available: u16,
    /// Next used entry to write.
    pub next_used: u16,
    /// Heads of parked requests, oldest first.
    pub parked: Vec<u16>,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC was negotiated.
    pub indirect: bool,
    /// It starts paused.
    pub paused: bool,
}

/// Where a queue stands: what saved state needs beside its registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePosition {
    /// Next available entry to take.
    pub next_available: u16,
    /// Next used entry to write.
    pub next_used: u16,
    /// Heads of parked requests, oldest first.
    pub parked: Vec<u16>,
}

/// A queue that is turned on.
pub struct Virtqueue {
    index: u16,
    table: Table,
    event_idx: bool,
    available: GuestAddress,
    used: GuestAddress,
    memory: GuestMemoryHandle,
    owner: Arc<dyn QueueOwner>,
    kick: EventFd,
    core: Mutex<Core>,
    idle: Condvar,
}

impl std::fmt::Debug for Virtqueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Virtqueue")
            .field("index", &self.index)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Watched for Virtqueue {
    fn is_ready(&self) -> bool {
        self.lock().is_ready(&self.memory.memory())
    }

    fn arm(&self) -> bool {
        self.has_next()
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.kick_fd()
    }
}

impl Virtqueue {
    /// Turns a queue on.
    ///
    /// # Errors
    /// [`QueueError::Ring`] for rings that cannot be, [`QueueError::Host`] without descriptors.
    pub fn new(
        setup: &QueueSetup,
        memory: GuestMemoryHandle,
        owner: Arc<dyn QueueOwner>,
    ) -> Result<Arc<Self>, QueueError> {
        let queue = Queue::try_from(QueueState {
            max_size: setup.size,
            next_avail: setup.next_available,
            next_used: setup.next_used,
            event_idx_enabled: setup.event_idx,
            size: setup.size,
            ready: true,
            desc_table: setup.descriptors,
            avail_ring: setup.available,
            used_ring: setup.used,
        })
        .map_err(|_| QueueError::Ring)?;
        if !queue.is_valid(&*memory.memory()) {
            return Err(QueueError::Ring);
        }
        let mut core = Core {
            queue,
            phase: if setup.paused {
                Phase::Paused
            } else {
                Phase::Running
            },
            in_flight: 0,
            waiters: 0,
            taken: vec![0; usize::from(setup.size).div_ceil(64)],
            parked: VecDeque::new(),
            due: VecDeque::new(),
            armed: false,
        };
        for head in &setup.parked {
            if !core.take(*head) {
                return Err(QueueError::Twice(*head));
            }
            core.parked.push_back(*head);
        }
        Ok(Arc::new(Self {
            index: setup.index,
            table: Table {
                address: GuestAddress(setup.descriptors),
                size: setup.size,
                indirect: setup.indirect,
            },
            event_idx: setup.event_idx,
            available: GuestAddress(setup.available),
            used: GuestAddress(setup.used),
            memory,
            owner,
            kick: EventFd::new(EFD_NONBLOCK)?,
            core: Mutex::new(core),
            idle: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its index in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The event that doorbells ring.
    pub fn kick_event(&self) -> &EventFd {
        &self.kick
    }

    /// The same event, for whoever waits on descriptors.
    pub fn kick_fd(&self) -> BorrowedFd<'_> {
        eventfd::borrow(&self.kick)
    }

    /// Rings the doorbell.
    pub fn kick(&self) {
        // A full counter means that it rings already.
        let _ = self.kick.write(1);
    }

    /// Tells the driver that the device's configuration space has changed. The caller holds no lock
    /// that the device needs to start or to be reset.
    pub fn config_changed(&self) {
        self.owner.config_changed();
    }

    /// Waits for the doorbell; false when the queue was stopped and its worker shall forget it.
    pub async fn kicked(&self) -> bool {
        if self.lock().phase == Phase::Stopped {
            return false;
        }
        match read_eventfd(self.kick_fd()).await {
            Ok(_) => self.lock().phase != Phase::Stopped,
            Err(error) => {
                tracing::error!(%error, queue = self.index, "waiting for a doorbell");
                false
            }
        }
    }

    /// Takes the next request: parked ones first after a resume, then what the driver offers.
    /// `None` when there is none now; the doorbell rings when there is one again.
    pub fn next(self: &Arc<Self>) -> Option<Element> {
        let memory = self.memory.memory().into_inner();
        // In a variable of its own: the lock must be free again before a failure is handled.
        let next = self.lock().next_chain(&memory, self.table);
        match next {
            Ok(next) => next.map(|(chain, was_parked)| Element {
                queue: Arc::clone(self),
                chain,
                was_parked,
                ended: false,
            }),
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// Takes up to `most` requests as [`Virtqueue::next`] does; fewer when there are fewer now.
    pub fn next_many(self: &Arc<Self>, most: usize) -> Vec<Element> {
        let memory = self.memory.memory().into_inner();
        let mut elements = Vec::new();
        // In a variable of its own: the lock must be free again before a failure is handled.
        let result = self.lock().next_chains(&memory, self.table, most, |next| {
            let (chain, was_parked) = next;
            elements.push(Element {
                queue: Arc::clone(self),
                chain,
                was_parked,
                ended: false,
            });
        });
        if let Err(error) = result {
            self.fail(&error);
        }
        elements
    }

    /// As [`Virtqueue::next`], but when there is none now, [`Virtqueue::wait`] sees when there is.
    pub fn next_now(self: &Arc<Self>) -> Option<Element> {
        let ready = self.lock().is_ready(&self.memory.memory());
        if ready { self.next() } else { None }
    }

    /// Waits for something to take, by looking for a while and then by the doorbell; false when the
    /// queue was stopped and its worker shall forget it. `watch` is of this queue.
    pub async fn wait(&self, watch: &mut Watch) -> bool {
        if self.lock().phase == Phase::Stopped {
            return false;
        }
        match watch.ready().await {
            Ok(()) => self.lock().phase != Phase::Stopped,
            Err(error) => {
                tracing::error!(%error, queue = self.index, "waiting for a doorbell");
                false
            }
        }
    }

    /// Whether [`Virtqueue::next`] has something to look at; when not, the doorbell rings when it
    /// has. For devices that must be sure of an answer before they take a request.
    pub fn has_next(&self) -> bool {
        let memory = self.memory.memory();
        let offered = {
            let mut core = self.lock();
            if core.phase != Phase::Running {
                return false;
            }
            match core.due.is_empty() {
                true => core.offered(&memory).map(|count| count > 0),
                false => Ok(true),
            }
        };
        offered.unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Whether it gives requests out: it is neither paused, stopped nor broken.
    pub fn is_running(&self) -> bool {
        self.lock().phase == Phase::Running
    }

    /// Whether its ring was found malformed.
    pub fn is_broken(&self) -> bool {
        self.lock().phase == Phase::Broken
    }

    /// Declares the ring malformed, once.
    fn fail(&self, error: &QueueError) {
        {
            let mut core = self.lock();
            if matches!(core.phase, Phase::Broken | Phase::Stopped) {
                return;
            }
            core.phase = Phase::Broken;
            core.parked.clear();
            core.due.clear();
        }
        self.owner.broken(self.index, error);
    }

    /// Ends requests: those of `used` (head, bytes written) with used entries, those of `parked`
    /// without.
    fn finish(&self, used: &[(u16, u32)], parked: &[u16]) {
        let memory = self.memory.memory();
        let mut core = self.lock();
        core.in_flight = core.in_flight.saturating_sub(used.len() + parked.len());
        let mut result = Ok(false);
        if matches!(core.phase, Phase::Running | Phase::Paused) {
            core.parked.extend(parked);
            for (head, _) in used {
                core.release(*head);
            }
            result = self.push(&mut core, &memory, used);
        }
        let drained = core.in_flight == 0;
        let (stopped, awaited) = (core.phase == Phase::Stopped, core.waiters > 0);
        drop(core);
        if drained {
            // Waking is a system call, also when nobody waits.
            if awaited {
                self.idle.notify_all();
            }
            if stopped {
                self.owner.drained();
            }
        }
        match result {
            Ok(true) => self.owner.signal(self.index),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Writes used entries and then the index that shows them; whether the driver wants to hear of
    /// it (virtio 1.3 §2.7.7 and §2.7.10).
    fn push(
        &self,
        core: &mut Core,
        memory: &GuestMemory,
        used: &[(u16, u32)],
    ) -> Result<bool, QueueError> {
        if used.is_empty() {
            return Ok(false);
        }
        let before = core.queue.next_used();
        let mut index = before;
        // Across regions it has no slice, and each entry is looked for.
        let length = usize::from(self.table.size) * 8;
        let entries = GuestMemoryBackend::get_slice(memory, self.used_at(4)?, length);
        for (head, len) in used {
            let slot = index % self.table.size;
            let entry = ((u64::from(*len) << 32) | u64::from(*head)).to_le();
            let written = match &entries {
                Ok(entries) => entries.write_obj(entry, usize::from(slot) * 8).is_ok(),
                Err(_) => {
                    let place = self.used_at(4 + u64::from(slot) * 8)?;
                    memory.write_obj(entry, place).is_ok()
                }
            };
            if !written {
                return Err(QueueError::Used);
            }
            index = index.wrapping_add(1);
        }
        core.queue.set_next_used(index);
        memory
            .store(index.to_le(), self.used_at(2)?, Ordering::Release)
            .map_err(|_| QueueError::Used)?;
        // The index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let wish = if self.event_idx {
            // The driver's event index follows its ring.
            4 + u64::from(self.table.size) * 2
        } else {
            0
        };
        let wish: u16 = self
            .available
            .checked_add(wish)
            .and_then(|address| memory.load(address, Ordering::Relaxed).ok())
            .map(u16::from_le)
            .ok_or(QueueError::Available)?;
        Ok(if self.event_idx {
            passes(before, index, wish)
        } else {
            wish & AVAIL_NO_INTERRUPT == 0
        })
    }

    fn used_at(&self, offset: u64) -> Result<GuestAddress, QueueError> {
        self.used.checked_add(offset).ok_or(QueueError::Used)
    }

    /// Ends several requests at once: the driver sees all of them used, or none yet. The pairs are
    /// requests of this queue and how many bytes were written to each.
    pub fn complete_all(&self, requests: Vec<(Element, u32)>) {
        let used: Vec<(u16, u32)> = requests
            .into_iter()
            .map(|(mut element, written)| {
                element.ended = true;
                (element.head(), written)
            })
            .collect();
        self.finish(&used, &[]);
    }

    /// Gives requests back that were taken and not needed, the latest first in the list's end: they
    /// are offered again as if they had never been taken. Nothing may have been taken since, but for
    /// those that were [overtaken](Element::overtaken).
    pub fn give_back(&self, elements: Vec<Element>) {
        if elements.is_empty() {
            return;
        }
        let mut core = self.lock();
        let running = matches!(core.phase, Phase::Running | Phase::Paused);
        let mut drained = false;
        for mut element in elements.into_iter().rev() {
            element.ended = true;
            core.in_flight = core.in_flight.saturating_sub(1);
            drained = core.in_flight == 0;
            if !running {
                continue;
            }
            core.give_back(element.head(), element.was_parked);
        }
        let (stopped, awaited) = (core.phase == Phase::Stopped, core.waiters > 0);
        drop(core);
        if drained {
            if awaited {
                self.idle.notify_all();
            }
            if stopped {
                self.owner.drained();
            }
        }
    }

    /// Takes no new requests and waits until none is in flight. The doorbell rings for those who hold
    /// requests back.
    pub fn pause(&self) {
        let mut core = self.lock();
        if core.phase == Phase::Running {
            core.phase = Phase::Paused;
        }
        if core.in_flight > 0 {
            self.kick();
        }
        core.waiters += 1;
        while core.in_flight > 0 {
            core = self.idle.wait(core).unwrap_or_else(PoisonError::into_inner);
        }
        core.waiters -= 1;
    }

    /// Goes on after [`Virtqueue::pause`]: parked requests are due, then new ones.
    pub fn resume(&self) {
        let mut core = self.lock();
        if core.phase == Phase::Paused {
            core.phase = Phase::Running;
        }
        core.armed = false;
        let parked = std::mem::take(&mut core.parked);
        core.due.extend(parked);
        drop(core);
        self.kick();
    }

    /// Stops for good. True when nothing was in flight; otherwise the owner hears
    /// [`QueueOwner::drained`] later, and memory may still be written until then.
    pub fn stop(&self) -> bool {
        let mut core = self.lock();
        core.phase = Phase::Stopped;
        core.parked.clear();
        core.due.clear();
        let drained = core.in_flight == 0;
        drop(core);
        self.kick();
        drained
    }

    /// Whether nothing is in flight.
    pub fn is_drained(&self) -> bool {
        self.lock().in_flight == 0
    }

    /// Where it stands. Exact while paused.
    pub fn position(&self) -> QueuePosition {
        let core = self.lock();
        QueuePosition {
            next_available: core.queue.next_avail(),
            next_used: core.queue.next_used(),
            parked: core.due.iter().chain(&core.parked).copied().collect(),
        }
    }
}

/// Whether an index that went from `before` to `after` has passed the one that the driver waits for:
/// whether the entry with number `wish` is among the new ones (virtio 1.3 §2.7.10).
fn passes(before: u16, after: u16, wish: u16) -> bool {
    after.wrapping_sub(wish).wrapping_sub(1) < after.wrapping_sub(before)
}

#[cfg(test)]
mod tests;
