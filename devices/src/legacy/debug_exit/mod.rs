//! The test device at port 0xf4: a byte N written there ends the process with exit code N.
//!
//! It has no state: what it asks for is the machine's to remember.

use super::ports;
use crate::bus::Reservation;
use crate::device::Device;
use crate::host::MachineRequests;
use crate::registry::{Context, CreateError};
use crate::state::{Saved, StateError};
use std::sync::Arc;

/// Where the byte goes.
pub const PORT: u16 = 0xf4;
/// Guests that know the device elsewhere may write four bytes; the first one counts.
const LEN: u16 = 4;

struct Register {
    requests: Arc<dyn MachineRequests>,
}

impl ports::PortDevice for Register {
    fn read(&self, _port: u16) -> u8 {
        0xff
    }

    fn write(&self, port: u16, value: u8) {
        if port == PORT {
            self.requests.debug_exit(value);
        }
    }
}

/// The device.
pub struct DebugExit {
    id: String,
    _ports: Vec<Reservation>,
}

impl DebugExit {
    /// Makes it.
    ///
    /// # Errors
    /// [`CreateError::Bus`] when the port is taken.
    pub fn create(id: &str, context: &Context) -> Result<Self, CreateError> {
        let register = Arc::new(Register {
            requests: Arc::clone(&context.requests),
        });
        let ports = ports::claim(&context.pio, &register, &[(PORT, LEN)]).map_err(|source| {
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

impl Device for DebugExit {
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
    fn the_first_byte_is_the_exit_code() {
        let machine = FakeMachine::new(4096);
        let device = DebugExit::create("exit0", &machine.context).expect("a free port");
        machine.context.pio.write(0xf4, &[3]);
        machine.context.pio.write(0xf4, &[7, 1, 1, 1]);
        machine.context.pio.write(0xf5, &[9]);
        assert_eq!(*machine.requests.exits.lock().unwrap(), [3, 7]);
        let mut byte = [0];
        assert!(machine.context.pio.read(0xf4, &mut byte));
        assert_eq!(byte, [0xff]);
        assert_eq!(device.save().expect("nothing to save"), Saved::Stateless);
    }
}
