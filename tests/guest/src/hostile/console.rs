//! What a console device is told over its control queue, and what makes no sense there (virtio 1.3,
//! 5.3.6.2): a message is a port, an event and a value.

use super::victim::{NEXT, Victim, WRITE};
use crate::memory::store;

/// Bytes of a message.
pub const MESSAGE: u32 = 8;
/// The driver can take ports.
pub const DEVICE_READY: u16 = 0;
/// Events of the specification, and behind them.
const EVENTS: [u16; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x7fff, 0xffff];
/// Ports that there are, and many that there are not.
const PORTS: [u32; 9] = [0, 1, 2, 30, 31, 32, 0x1_0000, 0x8000_0000, u32::MAX];
const VALUES: [u16; 3] = [0, 1, 0xffff];

/// Writes a message to where requests have their data.
pub fn message(v: &Victim, (port, event, value): (u32, u16, u16)) {
    store(v.data, port);
    store(v.data + 4, event);
    store(v.data + 6, value);
}

/// Every event about every port, and messages of every length.
pub fn attack(v: &mut Victim) {
    for port in PORTS {
        for event in EVENTS {
            for value in VALUES {
                v.wait_for_all();
                message(v, (port, event, value));
                v.send(&[(v.data, MESSAGE, 0, 0)]);
            }
        }
    }
    for event in EVENTS {
        v.wait_for_all();
        message(v, (1, event, 1));
        for length in (0..MESSAGE).chain([9, 4096, 65536]) {
            v.wait_for_all();
            v.send(&[(v.data, length, 0, 0)]);
        }
        // Byte by byte, with room to write behind, and nothing but room to write.
        v.wait_for_all();
        let bytes: [_; 8] = core::array::from_fn(|at| (v.data + at as u64, 1, NEXT, 0));
        v.send(&bytes);
        v.wait_for_all();
        v.send(&[(v.data, MESSAGE, 0, 0), (v.data, MESSAGE, WRITE, 0)]);
        v.wait_for_all();
        v.send(&[(v.data, MESSAGE, WRITE, 0)]);
    }
    // Ports that are opened and closed without end.
    for round in 0..2000u32 {
        v.wait_for_all();
        message(v, (round % 3, 6, (round / 3 % 2) as u16));
        v.send(&[(v.data, MESSAGE, 0, 0)]);
    }
    v.wait_for_all();
}
