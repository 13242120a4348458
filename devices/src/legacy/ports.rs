//! Byte-wide registers on the port bus.
//!
//! The devices of the PC's first days have registers of one byte at fixed ports. A wider access is
//! what the ISA bridge made of it: one byte access per port, lowest first.

use crate::bus::{Bus, BusDevice, BusError, Reservation};
use std::sync::Arc;

/// Something with byte-wide registers at fixed ports.
pub(crate) trait PortDevice: Send + Sync {
    /// The byte at `port`.
    fn read(&self, port: u16) -> u8;
    /// Takes `value` at `port`.
    fn write(&self, port: u16, value: u8);
}

struct Window {
    base: u16,
    device: Arc<dyn PortDevice>,
}

impl Window {
    fn ports(&self, offset: u64) -> impl Iterator<Item = u16> {
        // The bus never lets an access leave the range, so nothing wraps here in practice.
        let first = self
            .base
            .wrapping_add(u16::try_from(offset).unwrap_or(u16::MAX));
        (0..).map(move |step| first.wrapping_add(step))
    }
}

impl BusDevice for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(self.ports(offset)) {
            *byte = self.device.read(port);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (byte, port) in data.iter().zip(self.ports(offset)) {
            self.device.write(port, *byte);
        }
    }
}

/// Lets `device` answer at each `(first port, count)` of `ranges`.
pub(crate) fn claim(
    pio: &Bus,
    device: &Arc<impl PortDevice + 'static>,
    ranges: &[(u16, u16)],
) -> Result<Vec<Reservation>, BusError> {
    ranges
        .iter()
        .map(|&(base, len)| {
            let window = Window {
                base,
                device: device.clone(),
            };
            pio.insert(base.into(), len.into(), Arc::new(window))
        })
        .collect()
}
