//! ACPI power management: power button, power off, the PM timer and general-purpose events.
//!
//! ```text
//! press_power_button --> PM1 status --+
//! timer's highest bit -> PM1 status --+-- & enable --> SCI (GSI 9, level) --> the guest's ACPI driver
//! raise_gpe ----------> GPE0 status --+
//!
//! the guest writes SLP_TYP = 0 with SLP_EN to PM1 control --> MachineRequests::power_off
//! ```
//!
//! The layout is that of an ICH9 with its block at 0x600 (ICH9 datasheet, 13.8.3), which stock
//! firmware expects; the constants below are what the FADT must say. There is no SMI command port,
//! so the machine is in ACPI mode from the start and SCI_EN always reads 1 (ACPI 6.3 §4.8.2.5). The
//! reset register is the root complex's port 0xcf9. SMI_EN reads as if firmware had done with system
//! management mode, which is not there. Registers of the ICH9 that are not named here
//! read 0 and drop writes.

mod registers;
mod state;

use super::alarm::Alarm;
use super::clock::Clock;
use super::lock;
use crate::bus::{Bus, BusDevice, Reservation};
use crate::device::Device;
use crate::host::{IrqLine, MachineRequests};
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
use registers::{Registers, Sleep};
pub use state::{KIND, PmState, VERSION};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// First port of the block.
pub const BASE: u16 = 0x600;
/// Length of the block in ports.
pub const LEN: u16 = 0x80;
/// PM1a event block: status, then enable, 2 bytes each.
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control block, 2 bytes.
pub const PM1A_CONTROL: u16 = 0x604;
/// PM timer block, 4 bytes.
pub const TIMER: u16 = 0x608;
/// Bits of the PM timer: the FADT sets TMR_VAL_EXT.
pub const TIMER_BITS: u32 = 32;
/// Ticks of the PM timer per second (ACPI 6.3 §4.8.3.3).
pub const TIMER_HERTZ: u64 = 3_579_545;
/// GPE0 block: status, then enable, half of it each.
pub const GPE0: u16 = 0x620;
/// Length of the GPE0 block in ports.
pub const GPE0_LEN: u8 = 16;
/// The GSI of the SCI; level-triggered, active high.
pub const SCI: u32 = 9;
/// SLP_TYP of power off.
pub const SLEEP_TYPE_S5: u8 = 0;
/// The reset register, which the root complex serves.
pub const RESET_PORT: u16 = 0xcf9;
/// What a guest writes there to be reset.
pub const RESET_VALUE: u8 = 6;

struct Inner {
    clock: Clock,
    registers: Registers,
}

/// The block as the rest of the machine sees it.
pub struct Controller {
    inner: Mutex<Inner>,
    line: Arc<dyn IrqLine>,
    requests: Arc<dyn MachineRequests>,
    /// Set once, right after construction.
    alarm: OnceLock<Alarm>,
    sleep_told: AtomicBool,
}

impl Controller {
    /// Does `change`, then sets the SCI and the alarm to what follows from it.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = change(&mut inner);
        self.line.set_level(inner.registers.sci());
        let when = inner
            .registers
            .next_event()
            .and_then(|at| inner.clock.when(at));
        if let Some(alarm) = self.alarm.get() {
            alarm.set(when);
        }
        result
    }

    /// Presses and releases the power button; the guest decides what follows.
    pub fn press_power_button(&self) {
        self.with(|inner| inner.registers.press_power_button());
    }

    /// Raises general-purpose event `event` (0 to 63).
    pub fn raise_gpe(&self, event: u32) {
        self.with(|inner| inner.registers.raise_gpe(event));
    }

    fn sleep(&self, Sleep(kind): Sleep) {
        if kind == SLEEP_TYPE_S5 {
            self.requests.power_off();
        } else if !self.sleep_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                kind,
                "the guest asks for a sleep state that this machine does not announce"
            );
        }
    }
}

impl BusDevice for Controller {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.with(|inner| {
            // Only a running guest gets here.
            inner.clock.start();
            let now = inner.clock.now();
            inner.registers.advance(now);
            inner.registers.read(offset, data, now);
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let sleep = self.with(|inner| {
            inner.clock.start();
            let now = inner.clock.now();
            inner.registers.advance(now);
            data.iter().zip(offset..).fold(None, |asked, (byte, at)| {
                inner.registers.write(at, *byte).or(asked)
            })
        });
        if let Some(sleep) = sleep {
            self.sleep(sleep);
        }
    }
}

/// The block as a device of the machine.
pub struct Pm {
    controller: Arc<Controller>,
    _ports: Reservation,
}

impl Pm {
    /// Makes it with its ports; `line` is GSI [`SCI`]. A restored timer stands until it is resumed.
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        line: Arc<dyn IrqLine>,
        requests: Arc<dyn MachineRequests>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<PmState> = origin.payload(KIND, KIND, VERSION)?;
        let inner = match &state {
            None => Inner {
                clock: Clock::running(0),
                registers: Registers::default(),
            },
            Some(state) => Inner {
                clock: Clock::stopped(state.now),
                registers: Registers::from_state(state),
            },
        };
        let controller = Arc::new(Controller {
            inner: Mutex::new(inner),
            line,
            requests,
            alarm: OnceLock::new(),
            sleep_told: AtomicBool::new(false),
        });
        let weak: Weak<Controller> = Arc::downgrade(&controller);
        controller.alarm.get_or_init(|| {
            Alarm::new("pm-timer", move || {
                if let Some(controller) = weak.upgrade() {
                    controller.with(|inner| inner.registers.advance(inner.clock.now()));
                }
            })
        });
        let ports = pio
            .insert(BASE.into(), LEN.into(), controller.clone())
            .map_err(|source| CreateError::Bus {
                id: KIND.into(),
                source,
            })?;
        controller.with(|_| ());
        Ok(Self {
            controller,
            _ports: ports,
        })
    }

    /// What presses its button.
    pub fn controller(&self) -> Arc<Controller> {
        Arc::clone(&self.controller)
    }
}

impl Device for Pm {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        self.controller.with(|inner| inner.clock.stop());
    }

    fn resume(&self) {
        self.controller.with(|inner| inner.clock.start());
    }

    fn reset(&self) {
        self.controller.with(|inner| {
            *inner = Inner {
                clock: Clock::stopped(0),
                registers: Registers::default(),
            };
        });
    }

    fn save(&self) -> Result<Saved, StateError> {
        let inner = lock(&self.controller.inner);
        let state = inner.registers.state(inner.clock.now());
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}

#[cfg(test)]
mod tests;
