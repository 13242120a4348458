//! The front-end: what the driver sees of the device, and how serving begins.

use super::channel;
use super::port::{End, Port};
use super::ports::{self, Ports};
use super::state;
use crate::device::DeviceError;
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::queue::Virtqueue;
use crate::virtio::worker::Worker;
use images::exec::Engine;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_api::spec::ConsoleSpec;

/// Feature bits (virtio 1.3 §5.3.3).
pub(super) mod feature {
    pub(in super::super) const MULTIPORT: u64 = 1 << 1;
    pub(in super::super) const EMERGENCY: u64 = 1 << 2;
}

/// Entries of a port's queues, and of the control queues.
const PORT_SIZE: u16 = 128;
const CONTROL_SIZE: u16 = 32;
/// Offset of the emergency character in the configuration space (virtio 1.3 §5.3.4).
const EMERGENCY: u64 = 8;

/// A console device.
pub(super) struct Console {
    info: DeviceInfo,
    max_ports: u32,
    ports: Arc<Ports>,
    /// Started with the first queue; it owns all of them, and the sockets.
    worker: Mutex<Option<Worker>>,
}

impl Console {
    pub(super) fn new(spec: &ConsoleSpec, ports: Arc<Ports>) -> Self {
        let mut features = feature::MULTIPORT;
        if ports.emergency().is_some() {
            features |= feature::EMERGENCY;
        }
        let mut queue_sizes = vec![PORT_SIZE, PORT_SIZE, CONTROL_SIZE, CONTROL_SIZE];
        for _ in 1..spec.max_ports {
            queue_sizes.extend([PORT_SIZE; 2]);
        }
        Self {
            info: DeviceInfo {
                device_id: 3,
                class: 0x07_8000,
                features,
                queue_sizes,
            },
            max_ports: spec.max_ports.into(),
            ports,
            worker: Mutex::new(None),
        }
    }

    /// The worker; with it begins the life of the sockets.
    fn begin(&self) -> io::Result<Worker> {
        // Threads: it only waits for descriptors, so no thread is started and no ring made.
        let worker = Worker::start(self.ports.id(), Engine::Threads)?;
        for port in self.ports.all() {
            if matches!(port.end, End::Socket(_)) {
                let (port, ports) = (Arc::clone(port), Arc::clone(&self.ports));
                worker.run(move || Box::pin(channel::serve(port, ports)));
            }
        }
        Ok(worker)
    }
}

/// The port and direction of a queue (virtio 1.3 §5.3.2); `None` for control queues.
fn port_of(queue: u16) -> Option<(u16, bool)> {
    let number = match queue / 2 {
        0 => 0,
        1 => return None,
        other => other - 1,
    };
    Some((number, queue.is_multiple_of(2)))
}

impl VirtioDevice for Console {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Columns and rows are not known; the number of ports is behind them.
        let mut bytes = [0; 8];
        for (target, byte) in bytes.iter_mut().skip(4).zip(self.max_ports.to_le_bytes()) {
            *target = byte;
        }
        read_config(bytes, offset, data);
    }

    /// The emergency character: said without a queue, by a kernel that is about to die.
    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, Some(byte), Some(hub)) = (offset, data.first(), self.ports.emergency()) {
            hub.write(&[*byte]);
        }
    }

    fn start(&self, features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            slot => slot.insert(self.begin()?),
        };
        let multiport = features & feature::MULTIPORT != 0;
        for queue in queues {
            let (queue, ports) = (Arc::clone(queue), Arc::clone(&self.ports));
            match (queue.index(), port_of(queue.index())) {
                (_, Some((number, incoming))) => {
                    // The queues of ports that are not there are never looked at.
                    let Some(port) = ports.find(number.into()).cloned() else {
                        continue;
                    };
                    if !multiport {
                        // Without control queues nobody says so.
                        port.set_guest_open(true);
                    }
                    if incoming {
                        worker.run(move || Box::pin(Port::receive(port, queue)));
                    } else {
                        worker.run(move || Box::pin(Port::transmit(port, queue)));
                    }
                }
                (2, None) => worker.run(move || Box::pin(ports::tell(ports, queue))),
                (_, None) => worker.run(move || Box::pin(ports::listen(ports, queue))),
            }
        }
        Ok(())
    }

    fn reset(&self) {
        self.ports.all().iter().for_each(|port| port.reset());
    }

    fn pause(&self) {
        self.ports.all().iter().for_each(|port| port.pause());
    }

    fn resume(&self) {
        self.ports.all().iter().for_each(|port| port.resume());
        self.ports.news();
    }

    fn leave(&self) {
        self.ports.hubs().for_each(|hub| hub.close());
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        state::section(self.ports.id(), &self.ports.state()).map(Some)
    }

    fn stats(&self) -> serde_json::Value {
        let ports: Vec<_> = self.ports.all().iter().map(|port| port.stats()).collect();
        serde_json::json!({ "ports": ports })
    }

    /// Nothing is shared with other hosts, but what the guest said last must be in the log.
    fn set_active(&self, active: bool) -> Result<(), DeviceError> {
        if !active {
            self.ports.hubs().for_each(|hub| hub.flush());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_belong_to_ports_as_the_specification_has_them() {
        let ports: Vec<_> = (0..8).map(port_of).collect();
        assert_eq!(
            ports,
            [
                Some((0, true)),
                Some((0, false)),
                None,
                None,
                Some((1, true)),
                Some((1, false)),
                Some((2, true)),
                Some((2, false)),
            ]
        );
    }
}
