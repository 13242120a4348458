//! From the spec to a network card.

use super::device::Net;
use super::state;
use crate::backend::tap::Tap;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::sync::Arc;
use vmm_api::spec::{NetSpec, PciAddress};

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
