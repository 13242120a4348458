//! From the spec to an entropy device.

use super::device::Rng;
use super::quota::Quota;
use crate::device::Device;
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use vmm_api::spec::{PciAddress, RngSpec};

/// Period of a rate without one: libvirt's default.
const DEFAULT_PERIOD_MS: u32 = 1000;

/// Makes an entropy device.
///
/// # Errors
/// [`CreateError`] when its source was not passed or cannot be used, or its address is taken.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &RngSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let source = context
        .files
        .take(spec.source)
        .map_err(|source| CreateError::File {
            id: id.into(),
            source,
        })?;
    non_blocking(&source).map_err(|error| CreateError::Host {
        id: id.into(),
        what: "making its entropy source non-blocking".into(),
        source: error.into(),
    })?;
    let quota = spec.rate_bytes.map(|bytes| {
        let period = spec.period_ms.unwrap_or(DEFAULT_PERIOD_MS);
        Quota::new(bytes, Duration::from_millis(u64::from(period)))
    });
    let rng = Arc::new(Rng::new(id, File::from(source), quota));
    VirtioPci::create(id, address, rng, context, origin)
}

fn non_blocking(fd: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)
}
