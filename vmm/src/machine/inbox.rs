//! The driver's inbox: whoever has something to say leaves a note and goes on.
//!
//! Leaving a note never blocks and takes no lock that is held while anybody waits, so vCPU threads
//! and device workers may do it at any time. Notes of one thread stay in order.

use super::decider::GuestNote;
use crate::bell::Bell;
use crate::control::Ticket;
use crate::vcpu::no_further;
use devices::host::MachineRequests;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_api::control::{Event, Request};

/// What the driver hears.
#[derive(Debug)]
pub enum Note {
    /// The guest did something.
    Guest(GuestNote),
    /// Something that managers are told.
    Event(Event),
    /// A manager asks.
    Client(Request, Ticket),
    /// The step that ran has ended.
    Finished(Result<(), String>),
}

struct Inner {
    notes: Mutex<VecDeque<Note>>,
    bell: Bell,
}

/// A handle to the inbox; cheap to clone.
#[derive(Clone)]
pub struct Inbox(Arc<Inner>);

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

impl Inbox {
    /// An empty inbox.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            notes: Mutex::default(),
            bell: Bell::new()?,
        })))
    }

    /// Leaves a note. What the guest says again before the first was heard is not kept twice, so
    /// that it cannot fill the host's memory.
    pub fn leave(&self, note: Note) {
        {
            let mut notes = self.0.notes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Note::Guest(new) = &note
                && notes
                    .iter()
                    .any(|old| matches!(old, Note::Guest(old) if new.repeats(old)))
            {
                return;
            }
            notes.push_back(note);
        }
        self.0.bell.ring();
    }

    /// The oldest note. The driver's.
    pub fn take(&self) -> Option<Note> {
        self.0
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// Rings when a note was left.
    pub fn bell(&self) -> &Bell {
        &self.0.bell
    }
}

impl MachineRequests for Inbox {
    fn power_off(&self) {
        no_further();
        self.leave(Note::Guest(GuestNote::PowerOff));
    }

    fn reset(&self) {
        no_further();
        self.leave(Note::Guest(GuestNote::Reset));
    }

    fn crashed(&self, detail: &str) {
        self.leave(Note::Guest(GuestNote::Crashed(detail.into())));
    }

    fn debug_exit(&self, code: u8) {
        no_further();
        self.leave(Note::Guest(GuestNote::DebugExit(code)));
    }

    fn io_error(&self, device: &str, detail: &str) {
        self.leave(Note::Guest(GuestNote::IoError {
            device: device.into(),
            detail: detail.into(),
        }));
    }

    fn event(&self, event: Event) {
        self.leave(Note::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_requests_of_a_disk_are_one_note_and_cost_no_memory() {
        let inbox = Inbox::new().expect("an eventfd");
        for sector in 0..1000 {
            inbox.io_error("vda", &format!("no space left, sector {sector}"));
            inbox.io_error("vdb", &format!("no space left, sector {sector}"));
        }
        let mut heard = Vec::new();
        while let Some(note) = inbox.take() {
            match note {
                Note::Guest(GuestNote::IoError { device, detail }) => heard.push((device, detail)),
                other => panic!("{other:?}"),
            }
        }
        let first = "no space left, sector 0".to_string();
        assert_eq!(
            heard,
            [("vda".into(), first.clone()), ("vdb".into(), first)]
        );
        inbox.io_error("vda", "again");
        assert!(inbox.take().is_some(), "what was heard may be said again");
    }
}
