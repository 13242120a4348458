//! The I/O APIC: 24 pins at 0xfec00000, version 0x20, for KVM's split irqchip.
//!
//! The path of an interrupt: a device's line -> [`super::gsi`] -> [`Controller::set_pin`] -> the
//! [`table`] decides -> `ApicBus::send`. The path of its end: the local APIC in the kernel sees that
//! the vector belongs to a level-triggered route -> the VMM calls [`Controller::eoi`] -> sent again
//! when the pin is still high.
//!
//! Registers (Intel 82093AA, 3.1): IOREGSEL at 0, IOWIN at 0x10, and the EOI register of version
//! 0x20 at 0x40. Reads of anything else give 0, writes are dropped.

mod state;
mod table;

use super::lock;
use crate::bus::{Bus, BusDevice, Reservation};
use crate::device::Device;
use crate::host::ApicBus;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
pub use state::{IoapicState, KIND, VERSION};
use std::sync::{Arc, Mutex};
pub use table::PINS;
use table::{Action, Table};

/// Where the registers are.
pub const BASE: u64 = 0xfec0_0000;
/// Length of their range in bytes.
pub const LEN: u64 = 0x1000;

/// Version 0x20 and the highest pin.
const VERSION_REGISTER: u32 = 0x20 | ((PINS - 1) << 16);

struct Registers {
    id: u8,
    select: u8,
    table: Table,
}

/// The chip as the rest of the board sees it.
pub struct Controller {
    registers: Mutex<Registers>,
    apic: Arc<dyn ApicBus>,
}

impl Controller {
    fn run(&self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Send(message) => self.apic.send(message),
                Action::Route(pin, message) => self.apic.route_pin(pin, message),
            }
        }
    }

    /// The wire of `pin` (0 to 23) has this level now.
    pub fn set_pin(&self, pin: u32, level: bool) {
        // The lock is held while sending, so that two changes arrive in their order.
        let mut registers = lock(&self.registers);
        self.run(registers.table.set_level(pin, level));
    }

    /// A local APIC has ended the interrupt with this vector (KVM_EXIT_IOAPIC_EOI).
    pub fn eoi(&self, vector: u8) {
        let mut registers = lock(&self.registers);
        self.run(registers.table.eoi(vector));
    }
}

impl Registers {
    fn read_window(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id & 0xf) << 24,
            1 => VERSION_REGISTER,
            0x10..=0xff => {
                let index = u32::from(self.select - 0x10);
                self.table.read(index / 2, index % 2 == 1)
            }
            _ => 0,
        }
    }

    fn write_window(&mut self, value: u32) -> Vec<Action> {
        match self.select {
            0 => {
                self.id = value.to_be_bytes()[0] & 0xf;
                Vec::new()
            }
            0x10..=0xff => {
                let index = u32::from(self.select - 0x10);
                self.table.write(index / 2, index % 2 == 1, value)
            }
            _ => Vec::new(),
        }
    }
}

impl BusDevice for Controller {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = lock(&self.registers);
        let value = match offset {
            0x00 => u32::from(registers.select),
            0x10 => registers.read_window(),
            _ => 0,
        };
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(data) {
            *byte = *value;
        }
        let value = u32::from_le_bytes(bytes);
        let mut registers = lock(&self.registers);
        match offset {
            0x00 => registers.select = bytes[0],
            0x10 => self.run(registers.write_window(value)),
            0x40 => self.run(registers.table.eoi(bytes[0])),
            _ => {}
        }
    }
}

/// The IOAPIC as a device of the machine.
pub struct Ioapic {
    controller: Arc<Controller>,
    _range: Reservation,
}

impl Ioapic {
    /// Makes it with its registers; restored pins are routed at once.
    ///
    /// # Errors
    /// [`CreateError`] when the range is taken or the saved state cannot be used.
    pub fn create(
        mmio: &Bus,
        apic: Arc<dyn ApicBus>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<IoapicState> = origin.payload(KIND, KIND, VERSION)?;
        let mut registers = Registers {
            id: 0,
            select: 0,
            table: Table::new(&[], 0),
        };
        let mut actions = Vec::new();
        if let Some(state) = state {
            if state.entries.len() != PINS as usize {
                return Err(StateError::Invalid {
                    device: KIND.into(),
                    kind: KIND.into(),
                    reason: format!("{} entries instead of {PINS}", state.entries.len()),
                }
                .into());
            }
            registers.id = state.id & 0xf;
            registers.select = state.select;
            registers.table = Table::new(&state.entries, state.levels);
            actions = registers.table.announce();
        }
        let controller = Arc::new(Controller {
            registers: Mutex::new(registers),
            apic,
        });
        let range = mmio
            .insert(BASE, LEN, controller.clone())
            .map_err(|source| CreateError::Bus {
                id: KIND.into(),
                source,
            })?;
        controller.run(actions);
        Ok(Self {
            controller,
            _range: range,
        })
    }

    /// What the wires and the vCPUs talk to.
    pub fn controller(&self) -> Arc<Controller> {
        Arc::clone(&self.controller)
    }
}

impl Device for Ioapic {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {
        let mut registers = lock(&self.controller.registers);
        registers.id = 0;
        registers.select = 0;
        let actions = registers.table.reset();
        self.controller.run(actions);
    }

    fn save(&self) -> Result<Saved, StateError> {
        let registers = lock(&self.controller.registers);
        let state = registers.table.state(registers.id, registers.select);
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}

#[cfg(test)]
mod tests;
