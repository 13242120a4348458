//! What the queues of a card take turns with, on the card's one thread: the ring that carries bursts to
//! and from its taps, and rooms for what a frame has beyond its buffer.
//!
//! A queue has them for a burst and never while it waits, so one set is enough however many queues there
//! are, and what a card takes is bounded: [`MOST`] rooms, and [`READ_AHEAD`] bytes of frames that wait for
//! buffers with one frame more per queue. Rooms take memory once a frame that long has come, and are given
//! back with a reset.

use super::device::Card;
use crate::backend::tap::{Batch, HEADER, MOST};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest frame that a tap gives: 64 KiB of IP with its Ethernet and virtio headers.
const LARGEST: usize = 65_536 + 18 + HEADER;
/// Bytes of frames of all queues that wait for buffers: from there on frames are read one by one.
const READ_AHEAD: usize = if cfg!(test) { 32 << 10 } else { 4 << 20 };

/// The ring and the rooms.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) batch: Batch,
    /// Behind each buffer of a read.
    rooms: Vec<Box<[u8]>>,
}

impl Scratch {
    /// The ring, and rooms for `count` frames, [`MOST`] at most.
    pub(super) fn parts(&mut self, count: usize) -> (&mut Batch, &mut [Box<[u8]>]) {
        while self.rooms.len() < count.min(MOST) {
            self.rooms.push(vec![0; LARGEST].into());
        }
        (&mut self.batch, &mut self.rooms)
    }

    /// What a read has put into a room.
    pub(super) fn room(&self, at: usize) -> &[u8] {
        self.rooms.get(at).map_or(&[], |room| room)
    }
}

/// The card's scratch, and how much waits.
#[derive(Debug, Default)]
pub(super) struct Shared {
    scratch: Mutex<Scratch>,
    waiting: AtomicUsize,
}

impl Shared {
    /// Not to be held over a wait.
    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the rooms back. Never waits: a burst that is under way may itself be waiting for whoever
    /// resets the card, and then they stay.
    pub(super) fn clear(&self) {
        if let Ok(mut scratch) = self.scratch.try_lock() {
            scratch.rooms = Vec::new();
        }
    }

    /// Whether queues may read more frames than they have buffers for.
    pub(super) fn may_read_ahead(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < READ_AHEAD
    }
}

/// Frames of one queue that were read and wait for buffers, oldest first. They are counted for the card.
pub(super) struct Waiting<'a> {
    card: &'a Card,
    frames: std::collections::VecDeque<Vec<u8>>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(card: &'a Card) -> Self {
        Self {
            card,
            frames: std::collections::VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The oldest.
    pub(super) fn front(&self) -> Option<&[u8]> {
        self.frames.front().map(Vec::as_slice)
    }

    pub(super) fn push(&mut self, frame: Vec<u8>) {
        let waiting = &self.card.shared.waiting;
        waiting.fetch_add(frame.len(), Ordering::Relaxed);
        self.frames.push_back(frame);
    }

    /// The oldest is done with.
    pub(super) fn pop(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            let waiting = &self.card.shared.waiting;
            waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.pop();
        }
    }
}
