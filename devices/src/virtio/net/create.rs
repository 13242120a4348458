//! From the spec to a network card.

use super::device::Net;
use super::state;
use crate::backend::tap::Tap;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vmm_api::spec::{Fd, MacAddress, NetSpec, PciAddress};

/// Makes a network card.
///
/// # Errors
/// [`CreateError`] when a tap was not passed or is none, the address is taken, or saved state does
/// not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &NetSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let mut taps = Vec::new();
    for fd in &spec.taps {
        let fd = context
            .files
            .take(*fd)
            .map_err(|source| CreateError::File {
                id: id.into(),
                source,
            })?;
        taps.push(Tap::new(fd).map_err(|error| CreateError::Spec {
            id: id.into(),
            reason: error.to_string(),
        })?);
    }
    with_taps(id, address, spec, taps, (context, origin))
}

/// A card on sockets that stand in for its taps, for fuzz bodies.
pub(crate) fn on_sockets(
    address: PciAddress,
    sockets: Vec<OwnedFd>,
    context: &Context,
) -> Result<Arc<dyn Device>, CreateError> {
    let spec = NetSpec {
        taps: vec![Fd(-1); sockets.len()],
        mac: MacAddress([0x52, 0x54, 0, 1, 2, 3]),
        mtu: None,
        link: true,
        queue_size: 64,
        boot_index: None,
    };
    let taps = sockets.into_iter().map(Tap::socket).collect();
    with_taps("net0", address, &spec, taps, (context, Origin::Fresh))
}

/// As [`create`], with taps in hand.
pub(super) fn with_taps(
    id: &str,
    address: PciAddress,
    spec: &NetSpec,
    taps: Vec<Tap>,
    (context, origin): (&Context, Origin<'_>),
) -> Result<Arc<dyn Device>, CreateError> {
    let net = Net::new(id, spec, taps).ok_or_else(|| CreateError::Spec {
        id: id.into(),
        reason: "a network card has 1 to 128 queue pairs".into(),
    })?;
    if let Some(saved) = state::load(id, net.max_pairs(), origin)? {
        net.restore(&saved);
    }
    VirtioPci::create(id, address, Arc::new(net), context, origin)
}
