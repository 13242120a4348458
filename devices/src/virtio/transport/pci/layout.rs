//! Where the structures of the transport are in BAR 0, and the capabilities that say so.

use crate::pci::config::{ConfigBuilder, ConfigSpace, Identity};
use crate::pci::msix::Msix;
use crate::pci::{BarPlan, PciFunction};
use crate::virtio::device::DeviceInfo;
use vmm_api::spec::PciAddress;

/// Size of the BAR.
pub(super) const BAR_SIZE: u64 = 0x8000;
/// Common configuration.
pub(super) const COMMON: u64 = 0x0000;
/// Interrupt status.
pub(super) const ISR: u64 = 0x1000;
/// The device's own configuration.
pub(super) const DEVICE: u64 = 0x2000;
/// Doorbells, four bytes per queue.
pub(super) const NOTIFY: u64 = 0x3000;
/// MSI-X table: up to 512 entries.
pub(super) const TABLE: u64 = 0x4000;
/// MSI-X pending bits.
pub(super) const PENDING: u64 = 0x6000;
/// Space of each structure, other than the MSI-X table's.
pub(super) const SPAN: u64 = 0x1000;
/// Distance of two doorbells.
pub(super) const NOTIFY_MULTIPLIER: u64 = 4;

const CAP_VENDOR: u8 = 0x09;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// Where the capabilities are that the transport itself looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    /// Message control of MSI-X.
    pub(super) msix_control: u16,
    /// The window into the BAR (virtio 1.3 §4.1.4.9).
    pub(super) window: u16,
}

/// The register file of a virtio function at `address`, placed or for firmware to place, or `None` when it does not fit.
pub(super) fn registers(
    info: &DeviceInfo,
    address: PciAddress,
    msix: &Msix,
    firmware: bool,
) -> Option<(ConfigSpace, Offsets)> {
    let mut builder = ConfigBuilder::endpoint(Identity {
        vendor: 0x1af4,
        device: 0x1040_u16.checked_add(info.device_id)?,
        // virtio 1.3 §4.1.2.1: modern devices have revision 1 or higher.
        revision: 1,
        class: info.class,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
    });
    if firmware {
        builder.unplaced_memory_bar(BAR_SIZE);
    } else {
        builder.memory_bar(BarPlan::function(address).0, BAR_SIZE);
    }
    let (express, writable) = express(address);
    builder.capability(CAP_EXPRESS, &express, &writable)?;
    let (body, writable) = msix.capability(TABLE as u32, PENDING as u32);
    let msix_control = builder.capability(CAP_MSIX, &body, &writable)? + 2;
    let structures = [
        (1, COMMON, super::registers::LENGTH),
        (3, ISR, 1),
        (4, DEVICE, SPAN),
    ];
    for (kind, offset, length) in structures {
        builder.capability(CAP_VENDOR, &structure(16, kind, offset, length), &[])?;
    }
    let queues = info.queue_sizes.len() as u64;
    let mut notify = structure(20, 2, NOTIFY, (queues * NOTIFY_MULTIPLIER).max(4)).to_vec();
    notify.extend((NOTIFY_MULTIPLIER as u32).to_le_bytes());
    builder.capability(CAP_VENDOR, &notify, &[])?;
    let mut window = structure(20, 5, 0, 0).to_vec();
    window.extend([0; 4]);
    // The driver writes BAR, offset, length; the data register is not memory.
    let writable = [0, 0, 0xff, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
    let window = builder.capability(CAP_VENDOR, &window, &writable)?;
    Some((
        builder.build(),
        Offsets {
            msix_control,
            window,
        },
    ))
}

/// struct virtio_pci_cap behind its two header bytes (virtio 1.3 §4.1.4).
fn structure(length_of_capability: u8, kind: u8, offset: u64, length: u64) -> [u8; 14] {
    let [o0, o1, o2, o3] = (offset as u32).to_le_bytes();
    let [l0, l1, l2, l3] = (length as u32).to_le_bytes();
    [
        length_of_capability,
        kind,
        0, // BAR 0
        0,
        0,
        0,
        o0,
        o1,
        o2,
        o3,
        l0,
        l1,
        l2,
        l3,
    ]
}

/// A version 2 PCI Express capability (PCIe 5.0 §7.5.3) and its write masks: an endpoint behind a
/// root port, or one that is integrated into the root complex.
fn express(address: PciAddress) -> ([u8; 0x3a], [u8; 0x3a]) {
    let (mut body, mut writable) = ([0; 0x3a], [0; 0x3a]);
    // Version 2; device type 0 or 9.
    body[0] = if address.bus == 0 { 0x92 } else { 0x02 };
    // Role-based error reporting.
    body[3] = 0x80;
    // Device control: error reporting, payload and request sizes.
    writable[6] = 0xff;
    writable[7] = 0x78;
    if address.bus != 0 {
        // Link: 2.5 GT/s, one lane, and up.
        body[0x0a] = 0x11;
        body[0x10] = 0x11;
        body[0x2a] = 0x02;
        body[0x2e] = 0x01;
        writable[0x0e] = 0xcb;
    }
    (body, writable)
}

/// A trait object's shorthand for the slot.
pub(super) type Function = std::sync::Arc<dyn PciFunction>;
