//! From the spec to a network card.

use super::device::{Backend, Net};
use super::state;
use crate::backend::tap::Tap;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vmm_api::spec::{Fd, MacAddress, NetBackend, NetSpec, PciAddress};

/// Makes a network card.
///
/// # Errors
/// [`CreateError`] when a descriptor was not passed or is not what it should be, the address is taken, or saved state does
/// not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &NetSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let take = |fd: Fd| {
        context.files.take(fd).map_err(|source| CreateError::File {
            id: id.into(),
            source,
        })
    };
    let refuse = |reason: String| CreateError::Spec {
        id: id.into(),
        reason,
    };
    let backend = match &spec.backend {
        NetBackend::Taps(fds) => {
            let mut taps = Vec::new();
            for fd in fds {
                taps.push(Tap::new(take(*fd)?).map_err(|error| refuse(error.to_string()))?);
            }
            Backend::Taps(taps)
        }
        NetBackend::Stream(fd) => {
            let backend = Backend::stream(take(*fd)?);
            backend.map_err(|error| refuse(format!("its socket carries no frames: {error}")))?
        }
    };
    with_backend(id, address, spec, backend, (context, origin))
}

/// A card on sockets that stand in for its taps, for fuzz bodies.
pub(crate) fn on_sockets(
    address: PciAddress,
    sockets: Vec<OwnedFd>,
    context: &Context,
) -> Result<Arc<dyn Device>, CreateError> {
    let spec = spec(NetBackend::Taps(vec![Fd(-1); sockets.len()]));
    let taps = Backend::Taps(sockets.into_iter().map(Tap::socket).collect());
    with_backend("net0", address, &spec, taps, (context, Origin::Fresh))
}

/// A card with a peer, for fuzz bodies.
pub(crate) fn on_stream(
    address: PciAddress,
    socket: OwnedFd,
    context: &Context,
) -> Result<Arc<dyn Device>, CreateError> {
    context.files.add(7, socket);
    let spec = spec(NetBackend::Stream(Fd(7)));
    create("net0", address, &spec, context, Origin::Fresh)
}

fn spec(backend: NetBackend) -> NetSpec {
    let mac = MacAddress([0x52, 0x54, 0, 1, 2, 3]);
    NetSpec {
        queue_size: 64,
        ..NetSpec::new(backend, mac)
    }
}

/// As [`create`], with its back-end in hand.
pub(super) fn with_backend(
    id: &str,
    address: PciAddress,
    spec: &NetSpec,
    backend: Backend,
    (context, origin): (&Context, Origin<'_>),
) -> Result<Arc<dyn Device>, CreateError> {
    let requests = Arc::clone(&context.requests);
    let net = Net::new(id, spec, backend, requests).ok_or_else(|| CreateError::Spec {
        id: id.into(),
        reason: "a network card has 1 to 128 queue pairs".into(),
    })?;
    if let Some(saved) = state::load(id, net.max_pairs(), origin)? {
        net.restore(&saved);
    }
    VirtioPci::create(id, address, Arc::new(net), context, origin)
}
