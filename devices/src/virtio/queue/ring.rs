//! What a queue's lock guards: the ring's position, and which requests are where.

use super::QueueError;
use crate::memory::GuestMemory;
use crate::virtio::chain::{Chain, Table};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Paused,
    Broken,
    Stopped,
}

/// What the lock of a queue guards.
pub(super) struct Core {
    pub(super) queue: Queue,
    pub(super) phase: Phase,
    pub(super) in_flight: usize,
    /// Threads that wait for none to be in flight.
    pub(super) waiters: usize,
    /// One bit per head that was taken and not used yet.
    pub(super) taken: Vec<u64>,
    /// Waiting for a resume.
    pub(super) parked: VecDeque<u16>,
    /// Parked before, and due now.
    pub(super) due: VecDeque<u16>,
    /// The driver was asked to ring for the next buffer.
    pub(super) armed: bool,
}

impl Core {
    /// The next chain, and whether it was parked before.
    pub(super) fn next_chain(
        &mut self,
        memory: &Arc<GuestMemory>,
        table: Table,
    ) -> Result<Option<(Chain, bool)>, QueueError> {
        let mut next = None;
        self.next_chains(memory, table, 1, |chain| next = Some(chain))?;
        Ok(next)
    }

    /// The next chains, up to `most`: `take` gets each, and whether it was parked before. It gets
    /// those before a malformed one too.
    pub(super) fn next_chains(
        &mut self,
        memory: &Arc<GuestMemory>,
        table: Table,
        most: usize,
        mut take: impl FnMut((Chain, bool)),
    ) -> Result<(), QueueError> {
        if self.phase != Phase::Running {
            return Ok(());
        }
        // What the driver offers, as far as it is known.
        let mut known = 0;
        for _ in 0..most {
            let due = self.due.pop_front();
            let head = match due {
                Some(head) => head,
                None => {
                    if known == 0 {
                        known = self.offered(memory)?;
                    }
                    let Some(left) = known.checked_sub(1) else {
                        return Ok(());
                    };
                    known = left;
                    self.pop(memory)?
                }
            };
            let chain = Chain::parse(Arc::clone(memory), table, head)
                .map_err(|source| QueueError::Chain { head, source })?;
            // A request that was parked is ours already.
            if due.is_none() && !self.take(head) {
                return Err(QueueError::Twice(head));
            }
            self.in_flight += 1;
            take((chain, due.is_some()));
        }
        Ok(())
    }

    /// Whether there is something to take, without a word to the driver. A ring that cannot be read
    /// counts as something: taking from it says what is wrong.
    pub(super) fn is_ready(&self, memory: &GuestMemory) -> bool {
        self.phase == Phase::Running
            && (!self.due.is_empty()
                || self
                    .queue
                    .avail_idx(memory, Ordering::Acquire)
                    .map_or(true, |index| index.0 != self.queue.next_avail()))
    }

    /// How many entries the driver offers. Before it answers none it asks for the doorbell and
    /// looks again, so that nothing is missed.
    pub(super) fn offered(&mut self, memory: &GuestMemory) -> Result<u16, QueueError> {
        loop {
            let index = self
                .queue
                .avail_idx(memory, Ordering::Acquire)
                .map_err(|_| QueueError::Available)?;
            let offered = index.0.wrapping_sub(self.queue.next_avail());
            if offered > self.queue.size() {
                return Err(QueueError::Available);
            }
            if offered > 0 || self.armed {
                return Ok(offered);
            }
            self.armed = true;
            let more = self.queue.enable_notification(memory);
            if !more.map_err(|_| QueueError::Used)? {
                return Ok(0);
            }
        }
    }

    /// Takes the next head, which is there.
    pub(super) fn pop(&mut self, memory: &GuestMemory) -> Result<u16, QueueError> {
        if std::mem::take(&mut self.armed) {
            let silent = self.queue.disable_notification(memory);
            silent.map_err(|_| QueueError::Used)?;
        }
        let next = self.queue.next_avail();
        // Behind the flags and the index (virtio 1.3 §2.7.6).
        let place = 4 + 2 * u64::from(next % self.queue.size());
        let head: u16 = GuestAddress(self.queue.avail_ring())
            .checked_add(place)
            .and_then(|address| memory.load(address, Ordering::Relaxed).ok())
            .ok_or(QueueError::Available)?;
        self.queue.set_next_avail(next.wrapping_add(1));
        Ok(u16::from_le(head))
    }

    /// Notes that `head` is with us; false when it was already, or cannot be.
    pub(super) fn take(&mut self, head: u16) -> bool {
        if head >= self.queue.size() {
            return false;
        }
        let bit = 1 << (head % 64);
        match self.taken.get_mut(usize::from(head / 64)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    pub(super) fn release(&mut self, head: u16) {
        if let Some(word) = self.taken.get_mut(usize::from(head / 64)) {
            *word &= !(1 << (head % 64));
        }
    }

    /// Undoes the latest `next_chain`.
    pub(super) fn give_back(&mut self, head: u16, was_parked: bool) {
        if was_parked {
            self.due.push_front(head);
        } else {
            self.release(head);
            self.queue.go_to_previous_position();
        }
    }
}
