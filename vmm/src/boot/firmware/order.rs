//! The boot order: a line per device, in the form of Open Firmware device paths as SeaBIOS matches
//! them, such as `/pci@i0cf8/pci-bridge@2,1/scsi@0/disk@0,0`. Slots and functions are hexadecimal, and
//! function 0 is left out. What is not listed is not booted: the last line is `HALT`.

use crate::boot::{BootDevice, BootDeviceKind};
use vmm_api::spec::PciAddress;

/// The file, with the zero that ends it; none without devices.
pub(super) fn lines(order: &[BootDevice]) -> Option<Vec<u8>> {
    if order.is_empty() {
        return None;
    }
    let paths = order.iter().map(path).chain(["HALT".into()]);
    let mut text = paths.collect::<Vec<_>>().join("\n");
    text.push('\0');
    Some(text.into_bytes())
}

fn path(device: &BootDevice) -> String {
    let bridge = device.port.map(|port| node("pci-bridge", port));
    let (kind, unit) = match device.kind {
        BootDeviceKind::Disk => ("scsi", "disk@0,0"),
        BootDeviceKind::Network => ("ethernet", "ethernet-phy@0"),
    };
    format!(
        "/pci@i0cf8{}{}/{unit}",
        bridge.unwrap_or_default(),
        node(kind, device.address)
    )
}

fn node(kind: &str, address: PciAddress) -> String {
    match address.function {
        0 => format!("/{kind}@{:x}", address.slot),
        function => format!("/{kind}@{:x},{function:x}", address.slot),
    }
}
