//! What an input device saves beside its transport.

use crate::backend::display::code;
use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "virtio-input";
const VERSION: u32 = 1;

/// An input device's own state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputState {
    /// What the driver asks about.
    pub(super) select: u8,
    /// What of it.
    pub(super) subsel: u8,
    /// Keys and buttons that the guest believes to be down, in order.
    pub(super) down: Vec<u16>,
}

/// The section of a device.
pub(super) fn section(id: &str, state: &InputState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state, if there is any.
pub(super) fn load(id: &str, origin: Origin<'_>) -> Result<Option<InputState>, StateError> {
    let state: Option<InputState> = origin.payload(id, KIND, VERSION)?;
    match state {
        Some(state)
            if !state.down.is_sorted_by(|a, b| a < b)
                || state.down.iter().any(|key| *key > code::BTN_EXTRA) =>
        {
            Err(StateError::Invalid {
                device: id.into(),
                kind: KIND.into(),
                reason: "keys are held that no keyboard has, or twice".into(),
            })
        }
        state => Ok(state),
    }
}
