//! What goes out to clients: answers to one, events to all who asked for them.

use crate::bell::Bell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_api::control::{ControlError, Event, Message, Reply};

/// Most events that wait for the server thread. It takes them out at once; only a stuck process
/// fills this.
const MAX_EVENTS: usize = 4096;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// This connection.
    One(u64),
    /// Every connection that asked for events.
    Subscribers,
}

struct Inner {
    letters: Mutex<Letters>,
    bell: Bell,
    clients: AtomicUsize,
}

#[derive(Default)]
struct Letters {
    queue: VecDeque<(To, Message)>,
    closing: bool,
}

/// Letters for the server thread; cheap to clone. Writing one never blocks.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbox")
    }
}

impl Outbox {
    /// An empty outbox.
    ///
    /// # Errors
    /// When the host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            letters: Mutex::default(),
            bell: Bell::new()?,
            clients: AtomicUsize::new(0),
        })))
    }

    /// Tells everybody who asked for events.
    pub fn tell(&self, event: Event) {
        self.post(To::Subscribers, Message::Event { event });
    }

    /// A ticket for the call `id` of `connection`.
    pub(super) fn ticket(&self, connection: u64, id: u64, fds: Vec<OwnedFd>) -> Ticket {
        Ticket {
            outbox: self.clone(),
            connection,
            id,
            fds,
        }
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.0.bell
    }

    /// Says how many clients there are.
    pub(super) fn set_clients(&self, count: usize) {
        self.0.clients.store(count, Ordering::Release);
    }

    /// Whether there is anybody to write to.
    pub(super) fn has_clients(&self) -> bool {
        self.0.clients.load(Ordering::Acquire) > 0
    }

    /// Everything written so far, and whether the server is to end when it is sent.
    pub(super) fn take(&self) -> (VecDeque<(To, Message)>, bool) {
        let mut letters = self.lock();
        (std::mem::take(&mut letters.queue), letters.closing)
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.0.bell.ring();
    }

    fn post(&self, to: To, message: Message) {
        {
            let mut letters = self.lock();
            if to == To::Subscribers && letters.queue.len() >= MAX_EVENTS {
                return;
            }
            letters.queue.push_back((to, message));
        }
        self.0.bell.ring();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Letters> {
        self.0
            .letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right, and the duty, to answer one call.
#[derive(Debug)]
pub struct Ticket {
    outbox: Outbox,
    connection: u64,
    id: u64,
    fds: Vec<OwnedFd>,
}

impl Ticket {
    /// The descriptors that came with the call.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Answers.
    pub fn answer(self, result: Result<Reply, ControlError>) {
        let message = Message::Answer {
            id: self.id,
            outcome: result.into(),
        };
        self.outbox.post(To::One(self.connection), message);
    }
}
