//! The keyboard controller at ports 0x60 and 0x64, and the fast A20 and reset port 0x92.
//!
//! The path of a reset, which is what most guests use it for: the guest writes 0xfe to port 0x64 ->
//! [`controller`] -> `MachineRequests::reset`. A keyboard answers on interrupt 1; there is no mouse.

mod controller;
mod state;

use super::{lock, ports};
use crate::bus::{Bus, Reservation};
use crate::device::Device;
use crate::host::{IrqLine, MachineRequests};
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
use controller::{Controller, Effect};
pub use state::{I8042State, KIND, VERSION};
use std::sync::{Arc, Mutex};

/// The GSI of the keyboard.
pub const KEYBOARD_GSI: u32 = 1;

struct Registers {
    controller: Mutex<Controller>,
    line: Arc<dyn IrqLine>,
    requests: Arc<dyn MachineRequests>,
}

impl Registers {
    /// The lock is held while the line is set, so that its level is the newest.
    fn with<T>(&self, change: impl FnOnce(&mut Controller) -> T) -> T {
        let mut controller = lock(&self.controller);
        let result = change(&mut controller);
        self.line.set_level(controller.irq());
        result
    }
}

impl ports::PortDevice for Registers {
    fn read(&self, port: u16) -> u8 {
        match port {
            0x60 => {
                // In two steps, so that each byte is an edge of its own.
                let byte = self.with(Controller::read_data);
                self.with(Controller::fill);
                byte
            }
            0x64 => self.with(|controller| controller.read_status()),
            0x92 => self.with(|controller| controller.read_fast()),
            _ => 0xff,
        }
    }

    fn write(&self, port: u16, value: u8) {
        let effect = self.with(|controller| match port {
            0x60 => controller.write_data(value),
            0x64 => controller.write_command(value),
            0x92 => controller.write_fast(value),
            _ => Effect::None,
        });
        if effect == Effect::Reset {
            self.requests.reset();
        }
    }
}

/// The controller as a device of the machine.
pub struct I8042 {
    registers: Arc<Registers>,
    _ports: Vec<Reservation>,
}

impl I8042 {
    /// Makes it with its ports; `line` is GSI [`KEYBOARD_GSI`].
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        line: Arc<dyn IrqLine>,
        requests: Arc<dyn MachineRequests>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<I8042State> = origin.payload(KIND, KIND, VERSION)?;
        let controller = state
            .as_ref()
            .map_or_else(Controller::new, Controller::from_state);
        let registers = Arc::new(Registers {
            controller: Mutex::new(controller),
            line,
            requests,
        });
        let ports = ports::claim(pio, &registers, &[(0x60, 1), (0x64, 1), (0x92, 1)]).map_err(
            |source| CreateError::Bus {
                id: KIND.into(),
                source,
            },
        )?;
        registers.with(|_| ());
        Ok(Self {
            registers,
            _ports: ports,
        })
    }
}

impl Device for I8042 {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        self.registers
            .with(|controller| *controller = Controller::new());
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = lock(&self.registers.controller).state();
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}

#[cfg(test)]
mod tests;
