//! What was typed and has not reached the guest yet: a bounded queue before the front-end.
//!
//! ```text
//! the writer, the pty --> queue (4 KiB) --> Front::receive, as much as it has room for
//!                           ^
//! writers that left --------+   their sockets still hold what did not fit, and are emptied in
//!                               the order of leaving, before anybody else is read
//! ```
//!
//! What a viewer typed counts although the viewer has gone. A guest that reads slowly, or never,
//! must not cost more than this: when the queue is full nothing is read, so that whoever types has
//! to wait; and only a few of those who left are remembered.

use super::viewer::{Progress, Viewer};
use super::{Shared, lock};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// Bytes that wait for the guest.
pub(super) const CAPACITY: usize = 4096;
/// Writers that left while the queue was full.
pub(super) const MAX_DEPARTED: usize = 4;
/// Input handed over at once; the front-end's FIFO is smaller anyway.
const PORTION: usize = 64;

/// Typed bytes on their way to the guest.
#[derive(Debug, Default)]
pub(super) struct Input {
    queue: VecDeque<u8>,
    /// Never anybody here while the queue has room.
    departed: VecDeque<Viewer>,
}

impl Input {
    /// Whether whoever types may be read.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < CAPACITY
    }

    /// Queues what `read` gives, which is no more than there is room for; how much that was.
    pub(super) fn take(
        &mut self,
        read: impl for<'b> FnOnce(&'b mut [u8]) -> Result<&'b [u8], Progress>,
    ) -> Result<usize, Progress> {
        let mut buffer = [0; CAPACITY];
        let room = CAPACITY.saturating_sub(self.queue.len());
        let Some(buffer) = buffer.get_mut(..room) else {
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let bytes = read(buffer)?;
        self.queue.extend(bytes);
        Ok(bytes.len())
    }

    /// Keeps what a writer typed before it left; false when that is too much to keep.
    pub(super) fn keep(&mut self, mut viewer: Viewer) -> bool {
        if self.empty(&mut viewer) {
            return true;
        }
        if self.departed.len() >= MAX_DEPARTED {
            return false;
        }
        self.departed.push_back(viewer);
        true
    }

    /// Queues what a viewer that left has sent; whether that was all.
    fn empty(&mut self, viewer: &mut Viewer) -> bool {
        while self.has_room() {
            match self.take(|buffer| viewer.typed(buffer)) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) => return true,
            }
        }
        false
    }

    fn empty_departed(&mut self) {
        while let Some(mut viewer) = self.departed.pop_front() {
            if !self.empty(&mut viewer) {
                self.departed.push_front(viewer);
                return;
            }
        }
    }

    /// Hands over what the front-end has room for. When it has none,
    /// [`super::Hub::input_wanted`] will ring.
    pub(super) fn deliver(&mut self, shared: &Shared) {
        loop {
            self.empty_departed();
            if self.queue.is_empty() {
                return;
            }
            if self.hand_over(shared) == 0 {
                shared.starved.store(true, Ordering::SeqCst);
                // Room that was made before this was said rings no bell.
                if self.hand_over(shared) == 0 {
                    return;
                }
            }
        }
    }

    fn hand_over(&mut self, shared: &Shared) -> usize {
        let _handing_over = lock(&shared.delivery);
        let Some(front) = shared.front() else {
            return 0;
        };
        let count = front.room().min(PORTION).min(self.queue.len());
        if count > 0 {
            let bytes: Vec<u8> = self.queue.drain(..count).collect();
            front.receive(&bytes);
        }
        count
    }
}
