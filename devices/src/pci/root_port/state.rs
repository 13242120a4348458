//! What a root port saves: its registers. Whether the slot is occupied follows from what is plugged
//! in when it is restored.

use crate::pci::config::{ConfigSpace, ConfigState};
use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "pcie-root-port";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootPortState {
    config: ConfigState,
}

/// The section of a port with these registers.
pub(super) fn section(id: &str, config: &ConfigSpace) -> Result<Section, StateError> {
    let state = RootPortState {
        config: config.state(),
    };
    Section::new(id, KIND, VERSION, &state)
}

/// The saved registers, if there are any.
pub(super) fn load(id: &str, origin: Origin<'_>) -> Result<Option<ConfigState>, StateError> {
    let state: Option<RootPortState> = origin.payload(id, KIND, VERSION)?;
    Ok(state.map(|state| state.config))
}

/// The error for registers that cannot be taken.
pub(super) fn invalid(id: &str, reason: String) -> StateError {
    StateError::Invalid {
        device: id.into(),
        kind: KIND.into(),
        reason,
    }
}
