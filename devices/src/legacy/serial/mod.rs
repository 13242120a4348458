//! A 16550A serial port on a console.
//!
//! The path of a byte out: the guest writes THR -> [`uart`] -> [`Hub::write`], which never blocks
//! -> log, pty, viewers, plain output. The path of a byte in: a viewer or the pty -> the hub's
//! thread asks [`Front::room`] -> receive FIFO -> interrupt line. When the guest makes room, the
//! hub is told to go on reading.
//!
//! The hub is the back-end: reset and restore make a new front-end on the same one. The interrupt
//! is not gated by MCR's OUT2 as on PC boards, for guests that never set it.

mod state;
mod uart;

use super::lock;
use crate::backend::char::{Front, Hub, HubFiles};
use crate::bus::{BusDevice, Reservation};
use crate::device::{Device, DeviceError};
use crate::host::IrqLine;
use crate::registry::{Context, CreateError};
use crate::state::{Origin, Saved, Section, StateError};
pub use state::{KIND, SerialState, VERSION};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use uart::{Effect, Uart};
use vmm_api::spec::SerialSpec;

/// Base port and GSI of COM1 to COM4.
const PORTS: [(u64, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];
/// Length of a port's range.
const LEN: u64 = 8;

struct Port {
    uart: Mutex<Uart>,
    line: Arc<dyn IrqLine>,
    hub: Arc<Hub>,
    paused: AtomicBool,
    written: AtomicU64,
    received: AtomicU64,
}

impl Port {
    /// The lock is held while the line is set, so that its level is the newest.
    fn with<T>(&self, change: impl FnOnce(&mut Uart) -> T) -> T {
        let mut uart = lock(&self.uart);
        let result = change(&mut uart);
        self.line.set_level(uart.irq());
        result
    }

    fn run(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Transmit(byte) => {
                self.written.fetch_add(1, Ordering::Relaxed);
                self.hub.write(&[byte]);
            }
            Effect::Room => self.hub.input_wanted(),
        }
    }
}

impl BusDevice for Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (byte, offset) in data.iter_mut().zip(offset..) {
            let (value, effect) = self.with(|uart| uart.read(offset));
            *byte = value;
            self.run(effect);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (byte, offset) in data.iter().zip(offset..) {
            let effect = self.with(|uart| uart.write(offset, *byte));
            self.run(effect);
        }
    }
}

impl Front for Port {
    fn room(&self) -> usize {
        if self.paused.load(Ordering::Acquire) {
            0
        } else {
            lock(&self.uart).room()
        }
    }

    fn receive(&self, bytes: &[u8]) {
        let count = u64::try_from(bytes.len()).unwrap_or_default();
        self.received.fetch_add(count, Ordering::Relaxed);
        self.with(|uart| {
            for byte in bytes {
                uart.receive(*byte);
            }
        });
    }
}

/// The serial port as a device of the machine.
pub struct Serial {
    id: String,
    port: Arc<Port>,
    _range: Reservation,
}

impl Serial {
    /// Makes the port that `spec` describes, with a console hub of its own.
    ///
    /// # Errors
    /// [`CreateError`]: a port number beyond COM4, descriptors missing, ports taken, saved state
    /// that cannot be used.
    pub fn create(
        id: &str,
        spec: &SerialSpec,
        context: &Context,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let (base, gsi) = *PORTS
            .get(usize::from(spec.port))
            .ok_or_else(|| CreateError::Spec {
                id: id.into(),
                reason: format!("port {}; 0 to 3 are COM1 to COM4", spec.port),
            })?;
        let state: Option<SerialState> = origin.payload(id, KIND, VERSION)?;
        let files = HubFiles::take(spec, &context.files).map_err(|source| CreateError::File {
            id: id.into(),
            source,
        })?;
        let hub = Hub::new(id, files).map_err(|source| CreateError::Host {
            id: id.into(),
            what: "cannot set up its console".into(),
            source,
        })?;
        let port = Arc::new(Port {
            uart: Mutex::new(state.as_ref().map_or_else(Uart::new, Uart::from_state)),
            line: context.irqs.line(gsi),
            hub,
            // What is restored is paused until it is resumed.
            paused: AtomicBool::new(state.is_some()),
            written: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let range = context
            .pio
            .insert(base, LEN, port.clone())
            .map_err(|source| CreateError::Bus {
                id: id.into(),
                source,
            })?;
        port.with(|_| ());
        let front: Weak<Port> = Arc::downgrade(&port);
        port.hub.attach(front);
        Ok(Self {
            id: id.into(),
            port,
            _range: range,
        })
    }
}

impl Device for Serial {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self) {
        self.port.paused.store(true, Ordering::Release);
        // A byte that the hub's thread is handing over is in the FIFO before this returns.
        self.port.hub.quiesce();
    }

    fn resume(&self) {
        self.port.paused.store(false, Ordering::Release);
        self.port.hub.input_wanted();
    }

    fn reset(&self) {
        self.port.with(|uart| *uart = Uart::new());
    }

    /// Nothing is shared with other hosts, but what the guest said last must be in the log.
    fn inactivate(&self) -> Result<(), DeviceError> {
        self.port.hub.flush();
        Ok(())
    }

    fn leave(&self) {
        self.port.hub.close();
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = lock(&self.port.uart).state();
        Ok(Saved::Sections(vec![Section::new(
            &self.id, KIND, VERSION, &state,
        )?]))
    }

    fn stats(&self) -> serde_json::Value {
        let counters = self.port.hub.counters();
        serde_json::json!({
            "bytes_written": self.port.written.load(Ordering::Relaxed),
            "bytes_received": self.port.received.load(Ordering::Relaxed),
            "log_bytes_lost": counters.log_lost,
            "viewers": counters.viewers,
        })
    }
}

#[cfg(test)]
mod tests;
