//! What a guest does that somebody must decide about, and what is done when it cannot be held for it.

use super::{Busy, Decider, Effects, EndReason, PauseReason, answer_failed};

/// What the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestNote {
    /// It powered off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// It crashed.
    Crashed(String),
    /// The test device got this code.
    DebugExit(u8),
    /// A disk met an error that pauses the guest.
    IoError {
        /// Its alias.
        device: String,
        /// What happened.
        detail: String,
    },
}

impl GuestNote {
    /// Whether this says nothing that `earlier`, which has not been heard yet, does not say. The
    /// many requests of a disk that fail together are one error.
    pub fn repeats(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::IoError { device, .. }, Self::IoError { device: known, .. }) => device == known,
            _ => self == earlier,
        }
    }
}

impl<T> Decider<T> {
    /// A pause failed, and the guest runs as before. That is all for one that somebody asked for. A
    /// guest that must not run on, for what it did or for what became of its disk, is ended: left
    /// alone it would be neither held nor ended, and nobody would hear of it.
    pub(super) fn not_held(&mut self, busy: Busy<T>, message: String) -> Effects<T> {
        if let Some(detail) = self.crash.take() {
            return self.not_held_for_core(&detail, &message);
        }
        if busy.owner.is_some() {
            return answer_failed(busy.owner, message).into_iter().collect();
        }
        let reason = match busy.hold {
            PauseReason::Crashed => EndReason::Crashed,
            _ => EndReason::Failed,
        };
        let cause = match busy.detail.is_empty() {
            true => String::new(),
            false => format!("{}; ", busy.detail),
        };
        let detail = format!("{cause}it was to be held, which failed: {message}");
        self.end(reason, &detail, None, None)
    }
}
