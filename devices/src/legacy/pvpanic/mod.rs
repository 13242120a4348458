//! The paravirtual panic device at port 0x505: how a guest says that its kernel has crashed.
//!
//! The interface is the pvpanic device of QEMU's specifications (docs/specs/pvpanic): reading gives
//! the events that are known, writing raises them. Linux and Windows drivers find it as ACPI device
//! `QEMU0001` with its port. It has no state: what it reports is the machine's to remember.

use super::ports;
use crate::bus::Reservation;
use crate::device::Device;
use crate::host::MachineRequests;
use crate::registry::{Context, CreateError};
use crate::state::{Saved, StateError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The port.
pub const PORT: u16 = 0x505;
/// The guest's kernel has crashed and does nothing more.
const PANICKED: u8 = 1 << 0;
/// It has crashed and its crash kernel now writes a dump: it must not be disturbed.
const CRASH_LOADED: u8 = 1 << 1;

struct Register {
    requests: Arc<dyn MachineRequests>,
    dump_told: AtomicBool,
}

impl ports::PortDevice for Register {
    fn read(&self, _port: u16) -> u8 {
        PANICKED | CRASH_LOADED
    }

    fn write(&self, _port: u16, value: u8) {
        if value & PANICKED != 0 {
            self.requests.crashed("the guest's kernel has panicked");
        } else if value & CRASH_LOADED != 0 && !self.dump_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("the guest's kernel has panicked and its crash kernel takes over");
        }
    }
}

/// The device.
pub struct PvPanic {
    id: String,
    _ports: Vec<Reservation>,
}

impl PvPanic {
    /// Makes it.
    ///
    /// # Errors
    /// [`CreateError::Bus`] when the port is taken, as by a second one.
    pub fn create(id: &str, context: &Context) -> Result<Self, CreateError> {
        let register = Arc::new(Register {
            requests: Arc::clone(&context.requests),
            dump_told: AtomicBool::new(false),
        });
        let ports = ports::claim(&context.pio, &register, &[(PORT, 1)]).map_err(|source| {
            CreateError::Bus {
                id: id.into(),
                source,
            }
        })?;
        Ok(Self {
            id: id.into(),
            _ports: ports,
        })
    }
}

impl Device for PvPanic {
    fn id(&self) -> &str {
        &self.id
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        Ok(Saved::Stateless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeMachine;

    #[test]
    fn a_panic_is_a_crash_and_a_crash_kernel_is_not() {
        let machine = FakeMachine::new(4096);
        let device = PvPanic::create("panic0", &machine.context).expect("a free port");
        let crashes = || machine.requests.crashes.lock().unwrap().len();
        let mut events = [0];
        assert!(machine.context.pio.read(PORT.into(), &mut events));
        assert_eq!(events, [3]);
        machine.context.pio.write(PORT.into(), &[CRASH_LOADED]);
        machine.context.pio.write(PORT.into(), &[0xf0]);
        assert_eq!(crashes(), 0);
        machine.context.pio.write(PORT.into(), &[PANICKED]);
        assert_eq!(crashes(), 1);
        assert!(PvPanic::create("panic1", &machine.context).is_err());
        assert_eq!(device.save().expect("nothing to save"), Saved::Stateless);
    }
}
