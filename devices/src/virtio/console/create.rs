//! From the spec to a console device.

use super::device::Console;
use super::port::{End, INPUT, Port};
use super::ports::Ports;
use super::state;
use crate::backend::char::{Hub, HubFiles};
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::sync::Arc;
use vmm_api::spec::{ConsoleSpec, PciAddress, PortSpec, PortStream};

/// Makes a console device.
///
/// # Errors
/// [`CreateError`] when a descriptor was not passed or cannot be used, the address is taken, or
/// saved state does not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &ConsoleSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let numbers: Vec<u16> = spec.ports.iter().map(|port| port.number).collect();
    let saved = state::load(id, &numbers, INPUT, origin)?;
    let mut ports = Vec::new();
    for (index, part) in spec.ports.iter().enumerate() {
        let end = end(part, context)?;
        let state = saved.as_ref().and_then(|saved| saved.ports.get(index));
        ports.push(Port::new(part, end, state));
    }
    let device = Console::new(spec, Arc::new(Ports::new(id, ports)));
    VirtioPci::create(id, address, Arc::new(device), context, origin)
}

/// What is behind a port.
fn end(part: &PortSpec, context: &Context) -> Result<End, CreateError> {
    let id = &part.id;
    let missing = |source| CreateError::File {
        id: id.clone(),
        source,
    };
    let refused = |what: &str, source: std::io::Error| CreateError::Host {
        id: id.clone(),
        what: what.into(),
        source,
    };
    match &part.stream {
        PortStream::Null => Ok(End::Null),
        PortStream::Socket { listener } => {
            let socket = context.files.take(*listener).map_err(missing)?;
            fcntl_getfl(&socket)
                .and_then(|flags| fcntl_setfl(&socket, flags | OFlags::NONBLOCK))
                .map_err(|error| refused("making its socket non-blocking", error.into()))?;
            Ok(End::Socket(socket))
        }
        PortStream::Console { log, socket, pty } => {
            let files = HubFiles::take_visited(log.as_ref(), *socket, *pty, &context.files)
                .map_err(missing)?;
            let hub =
                Hub::new(id, files).map_err(|error| refused("cannot set up its console", error))?;
            Ok(End::Hub(hub))
        }
    }
}
