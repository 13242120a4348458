//! What a queue's lock guards: the ring's position, and which requests are where.

use super::QueueError;
use crate::memory::GuestMemory;
use crate::virtio::chain::{Chain, Table};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_queue::{Queue, QueueOwnedT, QueueT};

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
        if self.phase != Phase::Running {
            return Ok(None);
        }
        let due = self.due.pop_front();
        let head = match due {
            Some(head) => head,
            None if self.offered(memory)? => self.pop(memory)?,
            None => return Ok(None),
        };
        let chain = Chain::parse(Arc::clone(memory), table, head)
            .map_err(|source| QueueError::Chain { head, source })?;
        // A request that was parked is ours already.
        if due.is_none() && !self.take(head) {
            return Err(QueueError::Twice(head));
        }
        self.in_flight += 1;
        Ok(Some((chain, due.is_some())))
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

    /// Whether the driver offers anything. Before it answers no it asks for the doorbell and looks
    /// again, so that nothing is missed.
    pub(super) fn offered(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        loop {
            let offered = self
                .queue
                .avail_idx(memory, Ordering::Acquire)
                .map_err(|_| QueueError::Available)?;
            if offered.0 != self.queue.next_avail() {
                return Ok(true);
            }
            if self.armed {
                return Ok(false);
            }
            self.armed = true;
            let more = self.queue.enable_notification(memory);
            if !more.map_err(|_| QueueError::Used)? {
                return Ok(false);
            }
        }
    }

    /// Takes the next head, which is there.
    pub(super) fn pop(&mut self, memory: &Arc<GuestMemory>) -> Result<u16, QueueError> {
        if std::mem::take(&mut self.armed) {
            let silent = self.queue.disable_notification(&**memory);
            silent.map_err(|_| QueueError::Used)?;
        }
        let chain = self
            .queue
            .iter(Arc::clone(memory))
            .map_err(|_| QueueError::Available)?
            .next();
        // There is one by its index: no chain means that the ring could not be read.
        chain
            .map(|chain| chain.head_index())
            .ok_or(QueueError::Available)
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
