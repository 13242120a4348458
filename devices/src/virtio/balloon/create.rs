//! From the spec to a balloon.

use super::device::Balloon;
use super::state;
use crate::backend::ram::Ram;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::sync::Arc;
use vmm_api::spec::{BalloonSpec, PciAddress};

/// Makes a balloon for all of the machine's RAM.
///
/// # Errors
/// [`CreateError`] when the address is taken, or saved state does not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &BalloonSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let balloon = Balloon::new(id, spec, Ram::new(context.memory.clone()));
    if let Some(saved) = state::load(id, balloon.pages(), origin)? {
        balloon.restore(&saved);
    }
    VirtioPci::create(id, address, Arc::new(balloon), context, origin)
}
