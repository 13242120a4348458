//! From a spec part to a device: the one list of models, and what they may use while being made.
//!
//! The same [`create`] serves boot, hot-plug, restore and migration. Adding a model is one folder
//! and one line here.

use crate::backend::display::Display;
use crate::bus::{Bus, BusError};
use crate::device::Device;
use crate::files::{Files, MissingFd};
use crate::host::{Doorbells, IrqLines, MachineRequests, MsiVectors};
use crate::legacy::debug_console::DebugConsole;
use crate::legacy::debug_exit::DebugExit;
use crate::legacy::pvpanic::PvPanic;
use crate::legacy::serial::Serial;
use crate::memory::GuestMemoryHandle;
use crate::pci::{PciRoot, root_port};
use crate::state::{Origin, StateError};
use crate::virtio::iothreads::Iothreads;
use crate::virtio::{balloon, block, console, gpu, input, net, rng};
use std::io;
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, PciAddress};

/// Everything that a device may use of its machine. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Guest RAM.
    pub memory: GuestMemoryHandle,
    /// Ports.
    pub pio: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// Wired interrupts.
    pub irqs: Arc<dyn IrqLines>,
    /// Message-signalled interrupts.
    pub msis: Arc<dyn MsiVectors>,
    /// In-kernel doorbells.
    pub doorbells: Arc<dyn Doorbells>,
    /// The machine's ear.
    pub requests: Arc<dyn MachineRequests>,
    /// Threads that disks share.
    pub iothreads: Arc<Iothreads>,
    /// Where the picture goes, and keys come from.
    pub display: Arc<Display>,
    /// Descriptors from the manager.
    pub files: Arc<Files>,
    /// The root complex, made once per machine by [`PciRoot::create`].
    pub pci: Arc<PciRoot>,
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A descriptor is missing.
    #[error("device '{id}': {source}")]
    File {
        /// Alias.
        id: String,
        /// Cause.
        source: MissingFd,
    },
    /// Its registers do not fit.
    #[error("device '{id}': {source}")]
    Bus {
        /// Alias.
        id: String,
        /// Cause.
        source: BusError,
    },
    /// Its saved state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its image cannot be used.
    #[error("device '{id}': {source}")]
    Image {
        /// Alias.
        id: String,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The host said no.
    #[error("device '{id}': {what}: {source}")]
    Host {
        /// Alias.
        id: String,
        /// What was tried.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// The spec part makes no sense.
    #[error("device '{id}': {reason}")]
    Spec {
        /// Alias.
        id: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Makes the device that `spec` describes.
///
/// # Errors
/// [`CreateError`]; nothing is left behind on any bus.
pub fn create(
    spec: &DeviceSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let id = &spec.id;
    match &spec.kind {
        DeviceKind::Serial(part) => Ok(Arc::new(Serial::create(id, part, context, origin)?)),
        DeviceKind::PvPanic(_) => Ok(Arc::new(PvPanic::create(id, context)?)),
        DeviceKind::DebugExit(_) => Ok(Arc::new(DebugExit::create(id, context)?)),
        DeviceKind::DebugConsole(part) => Ok(Arc::new(DebugConsole::create(id, part, context)?)),
        DeviceKind::PcieRootPort(port) => {
            root_port::create(id, pci_address(spec)?, port, context, origin)
        }
        DeviceKind::VirtioBalloon(part) => {
            balloon::create(id, pci_address(spec)?, part, context, origin)
        }
        DeviceKind::VirtioBlk(blk) => block::create(id, pci_address(spec)?, blk, context, origin),
        DeviceKind::VirtioConsole(part) => {
            console::create(id, pci_address(spec)?, part, context, origin)
        }
        DeviceKind::VirtioNet(part) => net::create(id, pci_address(spec)?, part, context, origin),
        DeviceKind::VirtioGpu(part) => gpu::create(id, pci_address(spec)?, part, context, origin),
        DeviceKind::VirtioInput(part) => {
            input::create(id, pci_address(spec)?, part, context, origin)
        }
        DeviceKind::VirtioRng(part) => rng::create(id, pci_address(spec)?, part, context, origin),
    }
}

/// Where a PCI device sits.
fn pci_address(spec: &DeviceSpec) -> Result<PciAddress, CreateError> {
    spec.address.ok_or_else(|| CreateError::Spec {
        id: spec.id.clone(),
        reason: "a PCI device needs an address".into(),
    })
}
