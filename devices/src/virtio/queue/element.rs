//! A request that was taken from a queue and has to end.

use super::Virtqueue;
use crate::virtio::chain::Chain;
use std::ops::Deref;
use std::sync::Arc;

/// A request in flight. Dereferences to its chain.
#[derive(Debug)]
pub struct Element {
    pub(super) queue: Arc<Virtqueue>,
    pub(super) chain: Chain,
    /// It was parked before, or one behind it was used: it is not at the available ring's tail.
    pub(super) was_parked: bool,
    pub(super) ended: bool,
}

impl Element {
    /// The request is done; `written` bytes of its writable part were filled.
    pub fn complete(mut self, written: u32) {
        self.ended = true;
        self.queue.finish(&[(self.chain.head(), written)], &[]);
    }

    /// A request behind this one was used before it: should it be given back, then as one that was parked.
    pub fn overtaken(&mut self) {
        self.was_parked = true;
    }

    /// The request cannot be done now: it is tried again after the next resume.
    pub fn park(self) {
        drop(self);
    }
}

impl Deref for Element {
    type Target = Chain;

    fn deref(&self) -> &Chain {
        &self.chain
    }
}

impl Drop for Element {
    fn drop(&mut self) {
        if !self.ended {
            self.queue.finish(&[], &[self.chain.head()]);
        }
    }
}
