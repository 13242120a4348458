//! From the spec to a graphics card.

use super::device::Gpu;
use super::state;
use crate::backend::display::Screen;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use std::sync::Arc;
use vmm_api::spec::{GpuSpec, PciAddress};

/// Makes a graphics card that shows its output on the machine's display.
///
/// # Errors
/// [`CreateError`] when its address is taken or saved state does not fit.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &GpuSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let gpu = Arc::new(Gpu::new(id, spec, context));
    if let Some(saved) = state::load(id, origin)? {
        gpu.restore(saved)
            .map_err(|reason| state::invalid(id, reason))?;
    }
    let device = VirtioPci::create(id, address, gpu.clone(), context, origin)?;
    let screen: Arc<dyn Screen> = gpu;
    context.display.set_screen(Arc::downgrade(&screen));
    Ok(device)
}
