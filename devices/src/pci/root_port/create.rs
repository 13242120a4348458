//! From the spec to a root port.

use super::{Core, RootPort, SECONDARY, express, state};
use crate::device::Device;
use crate::pci::config::{ConfigBuilder, ConfigSpace, Identity};
use crate::pci::slot_error;
use crate::pci::{BarPlan, Bridge, PciFunction};
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};
use vmm_api::spec::{PciAddress, RootPortSpec};

/// Capability IDs (PCI Code and ID Assignment).
const CAP_MSI: u8 = 0x05;
const CAP_SUBSYSTEM: u8 = 0x0d;
const CAP_EXPRESS: u8 = 0x10;

/// Bytes of a version 2 PCI Express capability behind its header.
const EXPRESS_BODY: usize = 0x3a;

/// Makes a root port.
///
/// # Errors
/// [`CreateError`] when its address or the bus below is taken, or saved state cannot be used.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &RootPortSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let (mut config, express) =
        registers(spec, context.pci.waits_for_firmware()).ok_or_else(|| CreateError::Spec {
            id: id.into(),
            reason: "its capabilities do not fit".into(),
        })?;
    if let Some(saved) = state::load(id, origin)? {
        config
            .restore(&saved)
            .map_err(|reason| state::invalid(id, reason))?;
    }
    let core = Arc::new(Core {
        secondary: AtomicU8::new(config.u8(SECONDARY)),
        config: Mutex::new(config),
        express,
    });
    let taken = |error| slot_error(id, &error);
    let function: Arc<dyn PciFunction> = core.clone();
    let bridge: Arc<dyn Bridge> = core.clone();
    let slot = context.pci.plug(address, &function).map_err(taken)?;
    let bus = context.pci.add_bridge(spec.bus, &bridge).map_err(taken)?;
    Ok(Arc::new(RootPort {
        id: id.into(),
        core,
        _held: (slot, bus),
    }))
}

/// The register file at power-on, and where its PCI Express capability is.
fn registers(spec: &RootPortSpec, firmware: bool) -> Option<(ConfigSpace, u16)> {
    let (bus, window) = if firmware {
        (0, None)
    } else {
        let (base, length) = BarPlan::bus(spec.bus);
        (spec.bus, Some((base, base + (length - 1))))
    };
    let mut builder = ConfigBuilder::bridge(
        Identity {
            vendor: 0x1b36,
            device: 0x000c,
            revision: 0,
            class: 0x06_0400,
            ..Identity::default()
        },
        bus,
        window,
    );
    if !firmware {
        // Memory decoding and bus mastering are on, so that what sits below is reachable.
        builder.set(0x04, &[0x06, 0x00]);
    }
    let (body, writable) = express_capability(spec);
    let express = builder.capability(CAP_EXPRESS, &body, &writable)?;
    // Device status and the events of slot status are cleared by writing ones.
    builder.clear_by_ones(express + 0x0a, &[0x0f]);
    builder.clear_by_ones(express + express::SLOT_STATUS, &[0x1f, 0x01]);
    // MSI: one 64-bit message.
    let mut msi = [0; 12];
    msi[0] = 0x80;
    let mut msi_writable = [0xff; 12];
    msi_writable[..3].copy_from_slice(&[0x01, 0x00, 0xfc]);
    builder.capability(CAP_MSI, &msi, &msi_writable)?;
    builder.capability(CAP_SUBSYSTEM, &[0, 0, 0xf4, 0x1a, 0x00, 0x11], &[])?;
    Some((builder.build(), express))
}

/// The PCI Express capability's body and its write masks; offsets in PCIe 5.0 §7.5.3 count the two
/// header bytes, which are not in the body.
fn express_capability(spec: &RootPortSpec) -> ([u8; EXPRESS_BODY], [u8; EXPRESS_BODY]) {
    let mut body = [0; EXPRESS_BODY];
    let mut writable = [0; EXPRESS_BODY];
    let put = |bytes: &mut [u8; EXPRESS_BODY], offset: usize, value: u32, len: usize| {
        let value = value.to_le_bytes();
        for (byte, value) in bytes
            .iter_mut()
            .skip(offset - 2)
            .zip(value.iter().take(len))
        {
            *byte = *value;
        }
    };
    // Version 2, root port, slot implemented.
    put(&mut body, 0x02, 0x0142, 2);
    // Device: 128-byte payloads, role-based error reporting.
    put(&mut body, 0x04, 0x8000, 4);
    put(&mut writable, 0x08, 0x78ff, 2);
    // Link: 2.5 GT/s, one lane, reports whether it is active; the port number on top.
    put(&mut body, 0x0c, 0x0010_0011 | u32::from(spec.port) << 24, 4);
    put(&mut writable, 0x10, 0x00cb, 2);
    // Slot: only its number; commands complete at once (bit 18).
    put(&mut body, 0x14, 1 << 18 | u32::from(spec.chassis) << 19, 4);
    put(&mut writable, 0x18, 0x17ff, 2);
    // Root control: error and PME reporting.
    put(&mut writable, 0x1c, 0x000f, 2);
    // Device 2: ARI forwarding.
    put(&mut body, 0x24, 1 << 5, 4);
    put(&mut writable, 0x28, 1 << 5, 2);
    // Link 2: the only speed.
    put(&mut body, 0x2c, 1 << 1, 4);
    put(&mut body, 0x30, 1, 2);
    (body, writable)
}
