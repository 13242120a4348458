//! The two 8259A interrupt controllers of a PC, cascaded, with the edge/level registers.
//!
//! The path of an interrupt: a device's line -> [`super::gsi`] -> [`Controller::set_input`] -> the
//! chip decides -> `ExtInt::set_output` -> the boot vCPU's thread asks [`Controller::acknowledge`]
//! for the vector and injects it.
//!
//! Ports: 0x20/0x21 and 0xa0/0xa1 ([`chip`]), 0x4d0/0x4d1 (ELCR, ICH9 datasheet). At power-on all
//! inputs are masked, since the datasheet leaves the mask undefined before ICW1.

mod chip;
mod state;

use super::{lock, ports};
use crate::bus::{Bus, Reservation};
use crate::device::Device;
use crate::host::ExtInt;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
use chip::Chip;
pub use state::{ChipState, KIND, PicState, VERSION};
use std::sync::{Arc, Mutex};

/// The input of the master that the slave drives.
const CASCADE: u8 = 2;
/// Inputs whose trigger mode can be switched: not the timer, keyboard and cascade...
const MASTER_ELCR_BITS: u8 = 0xf8;
/// ...and not the RTC and the coprocessor error.
const SLAVE_ELCR_BITS: u8 = 0xde;

impl Default for PicState {
    fn default() -> Self {
        let masked = ChipState {
            imr: 0xff,
            ..ChipState::default()
        };
        Self {
            master: masked,
            slave: masked,
        }
    }
}

#[derive(Debug)]
struct Pair {
    master: Chip,
    slave: Chip,
    /// What the processor was told last.
    output: bool,
}

impl Pair {
    fn new(state: &PicState) -> Self {
        let mut pair = Self {
            master: state.master.chip(MASTER_ELCR_BITS),
            slave: state.slave.chip(SLAVE_ELCR_BITS),
            output: false,
        };
        pair.settle();
        pair
    }

    fn state(&self) -> PicState {
        PicState {
            master: (&self.master).into(),
            slave: (&self.slave).into(),
        }
    }

    /// Carries the slave's output to the master; true while the processor is asked for attention.
    fn settle(&mut self) -> bool {
        let slave = self.slave.pending(None).is_some();
        self.master.set_line(CASCADE, slave);
        self.master.pending(Some(CASCADE)).is_some()
    }

    fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.pending(Some(CASCADE)) else {
            return self.master.vector(None);
        };
        self.master.take(input);
        if input != CASCADE {
            return self.master.vector(Some(input));
        }
        let input = self.slave.pending(None);
        if let Some(input) = input {
            self.slave.take(input);
        }
        self.slave.vector(input)
    }

    fn read(&mut self, port: u16) -> u8 {
        match port {
            0x20 => self.master.read_command(Some(CASCADE)),
            0x21 => self.master.read_data(Some(CASCADE)),
            0xa0 => self.slave.read_command(None),
            0xa1 => self.slave.read_data(None),
            0x4d0 => self.master.elcr,
            0x4d1 => self.slave.elcr,
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_command(value),
            0x21 => self.master.write_data(value),
            0xa0 => self.slave.write_command(value),
            0xa1 => self.slave.write_data(value),
            0x4d0 => self.master.write_elcr(value),
            0x4d1 => self.slave.write_elcr(value),
            _ => {}
        }
    }
}

/// The chips as the rest of the board sees them.
pub struct Controller {
    pair: Mutex<Pair>,
    ext_int: Arc<dyn ExtInt>,
}

impl Controller {
    /// Does `change` and tells the processor when the output changed.
    fn with<T>(&self, change: impl FnOnce(&mut Pair) -> T) -> T {
        let mut pair = lock(&self.pair);
        let result = change(&mut pair);
        let output = pair.settle();
        if pair.output != output {
            pair.output = output;
            self.ext_int.set_output(output);
        }
        result
    }

    /// The wire of ISA interrupt `irq` (0 to 15, not 2) has this level now.
    pub fn set_input(&self, irq: u32, level: bool) {
        let Ok(irq) = u8::try_from(irq) else { return };
        match irq {
            0..8 => self.with(|pair| pair.master.set_line(irq, level)),
            8..16 => self.with(|pair| pair.slave.set_line(irq - 8, level)),
            _ => {}
        }
    }

    /// Whether the processor is asked for attention.
    pub fn pending(&self) -> bool {
        lock(&self.pair).output
    }

    /// The processor's acknowledge cycle: the vector of the request with the highest priority, or
    /// the spurious vector when none is left.
    pub fn acknowledge(&self) -> u8 {
        self.with(Pair::acknowledge)
    }
}

impl ports::PortDevice for Controller {
    fn read(&self, port: u16) -> u8 {
        self.with(|pair| pair.read(port))
    }

    fn write(&self, port: u16, value: u8) {
        self.with(|pair| pair.write(port, value));
    }
}

/// The PICs as a device of the machine.
pub struct Pic {
    controller: Arc<Controller>,
    _ports: Vec<Reservation>,
}

impl Pic {
    /// Makes the pair and its ports; `ext_int` hears of its output at once when it is asserted.
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        ext_int: Arc<dyn ExtInt>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state = origin.payload(KIND, KIND, VERSION)?.unwrap_or_default();
        let controller = Arc::new(Controller {
            pair: Mutex::new(Pair::new(&state)),
            ext_int,
        });
        let ports = ports::claim(pio, &controller, &[(0x20, 2), (0xa0, 2), (0x4d0, 2)]).map_err(
            |source| CreateError::Bus {
                id: KIND.into(),
                source,
            },
        )?;
        controller.with(|_| ());
        Ok(Self {
            controller,
            _ports: ports,
        })
    }

    /// What the wires and the vCPUs talk to.
    pub fn controller(&self) -> Arc<Controller> {
        Arc::clone(&self.controller)
    }
}

impl Device for Pic {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        self.controller.with(|pair| {
            // The wires keep their levels: they belong to the devices behind them.
            let mut fresh = PicState::default();
            fresh.master.lines = pair.master.lines & !(1 << CASCADE);
            fresh.slave.lines = pair.slave.lines;
            let output = pair.output;
            *pair = Pair::new(&fresh);
            pair.output = output;
        });
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = lock(&self.controller.pair).state();
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}

#[cfg(test)]
mod tests;
