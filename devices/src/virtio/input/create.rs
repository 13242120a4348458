//! From the spec to an input device.

use super::device::Input;
use super::state;
use crate::backend::display::InputSink;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::sync::Arc;
use vmm_api::spec::{InputSpec, PciAddress};

/// Makes an input device and shows it to the machine's display.
///
/// # Errors
/// [`CreateError`] when its address is taken or saved state does not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &InputSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let saved = state::load(id, origin)?;
    let input = Arc::new(Input::new(id, spec.model, &context.iothreads, saved));
    let device = VirtioPci::create(id, address, input.clone(), context, origin)?;
    let sink: Arc<dyn InputSink> = input;
    context.display.add_input(Arc::downgrade(&sink));
    Ok(device)
}
