//! What a console device saves beside its transport. Clients of sockets are not saved: their
//! connections end with the process, and the driver is told so after a restore.

use crate::state::{Origin, Section, StateError};
use serde::{Deserialize, Serialize};

const KIND: &str = "virtio-console";
const VERSION: u32 = 1;

/// What the driver has yet to be told of a port, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct News {
    pub(super) add: bool,
    pub(super) console: bool,
    pub(super) name: bool,
    /// Whoever was at the host's end has left.
    pub(super) closed: bool,
    /// Somebody is there.
    pub(super) opened: bool,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortState {
    pub(super) number: u16,
    /// The driver has it.
    pub(super) ready: bool,
    /// A process of the guest has it open.
    pub(super) guest_open: bool,
    /// The driver believes, or is about to be told, that somebody is at the host's end.
    pub(super) host_open: bool,
    pub(super) news: News,
    /// What came for the guest and is not in its buffers yet.
    pub(super) input: Vec<u8>,
}

/// A device's own state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsoleState {
    /// In the order of the spec.
    pub(super) ports: Vec<PortState>,
}

/// The section of a device.
pub(super) fn section(id: &str, state: &ConsoleState) -> Result<Section, StateError> {
    Section::new(id, KIND, VERSION, state)
}

/// The saved state of a device with ports of these numbers, if there is any.
pub(super) fn load(
    id: &str,
    numbers: &[u16],
    most_input: usize,
    origin: Origin<'_>,
) -> Result<Option<ConsoleState>, StateError> {
    let state: Option<ConsoleState> = origin.payload(id, KIND, VERSION)?;
    let Some(state) = state else {
        return Ok(None);
    };
    let invalid = |reason: String| StateError::Invalid {
        device: id.into(),
        kind: KIND.into(),
        reason,
    };
    let saved: Vec<u16> = state.ports.iter().map(|port| port.number).collect();
    if saved != numbers {
        return Err(invalid(format!(
            "the guest knows ports {saved:?}, the device has {numbers:?}"
        )));
    }
    if let Some(port) = state.ports.iter().find(|p| p.input.len() > most_input) {
        return Err(invalid(format!(
            "port {} holds {} bytes of input, more than {most_input}",
            port.number,
            port.input.len()
        )));
    }
    Ok(Some(state))
}
