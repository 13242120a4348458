//! What a card saves beside its transport. Frames on their way are not saved: networks lose some.

use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "virtio-net";
const VERSION: u32 = 1;

/// A card's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetState {
    /// Queue pairs that the driver uses.
    pub(super) pairs: u16,
}

/// The section of a card.
pub(super) fn section(id: &str, state: &NetState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state of a card with at most `max_pairs` pairs, if there is any.
pub(super) fn load(
    id: &str,
    max_pairs: u16,
    origin: Origin<'_>,
) -> Result<Option<NetState>, StateError> {
    let state: Option<NetState> = origin.payload(id, KIND, VERSION)?;
    match state {
        Some(state) if !(1..=max_pairs).contains(&state.pairs) => Err(StateError::Invalid {
            device: id.into(),
            kind: KIND.into(),
            reason: format!(
                "the guest uses {} queue pairs, the card has {max_pairs}",
                state.pairs
            ),
        }),
        state => Ok(state),
    }
}
