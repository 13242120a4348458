//! What a disk saves beside its transport: what the guest chose, and what it was told.

use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "virtio-blk";
const VERSION: u32 = 1;

/// A disk's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlkState {
    /// Bytes that the guest believes the disk to have.
    pub(super) capacity: u64,
    /// Writes may stay in a cache.
    pub(super) writeback: bool,
}

/// The section of a disk.
pub(super) fn section(id: &str, state: &BlkState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state, if there is any.
///
/// # Errors
/// [`StateError`] also when the image has another size now.
pub(super) fn load(
    id: &str,
    capacity: u64,
    origin: Origin<'_>,
) -> Result<Option<BlkState>, StateError> {
    let state: Option<BlkState> = origin.payload(id, KIND, VERSION)?;
    match state {
        Some(state) if state.capacity != capacity => Err(StateError::Invalid {
            device: id.into(),
            kind: KIND.into(),
            reason: format!(
                "the guest knows a disk of {} bytes, the image has {capacity} now",
                state.capacity
            ),
        }),
        state => Ok(state),
    }
}
