//! What a balloon saves beside its transport. The guest's figures are not saved: they are asked for
//! again.

use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "virtio-balloon";
const VERSION: u32 = 1;

/// A balloon's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BalloonState {
    /// Pages that the driver shall give up.
    pub(super) target: u32,
    /// Pages that it says it has given up.
    pub(super) actual: u32,
    /// What it fills free pages with.
    pub(super) poison: u32,
    /// Seconds between statistics.
    pub(super) period: u32,
}

/// The section of a balloon.
pub(super) fn section(id: &str, state: &BalloonState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state of a balloon in a machine of `pages` pages, if there is any.
pub(super) fn load(
    id: &str,
    pages: u32,
    origin: Origin<'_>,
) -> Result<Option<BalloonState>, StateError> {
    let state: Option<BalloonState> = origin.payload(id, KIND, VERSION)?;
    match state {
        Some(state) if state.target > pages || state.actual > pages => Err(StateError::Invalid {
            device: id.into(),
            kind: KIND.into(),
            reason: format!(
                "{} of {} pages are in the balloon, the machine has {pages}",
                state.actual, state.target
            ),
        }),
        state => Ok(state),
    }
}
