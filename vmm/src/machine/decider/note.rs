//! What a guest does that somebody must decide about.

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
