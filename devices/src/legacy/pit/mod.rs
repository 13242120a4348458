//! The 8254 timer at ports 0x40 to 0x43, and port 0x61 with the speaker gate.
//!
//! Channel 0 is wired to the timer interrupt, channel 2 to the speaker; channel 1 counts for
//! nobody. The path of a tick: the [`super::alarm`] rings at the next rise of channel 0's output ->
//! [`Timer::ring`] pulses the line -> PIC and IOAPIC pin 2. The alarm's thread exists only while
//! channel 0 is counting towards a rise.
//!
//! Counts are computed from machine time ([`super::clock`]), which stands while the machine is
//! paused: after a pause there is nothing to catch up. Ticks that the host was too late for are
//! not repeated but counted (`ticks_lost`), and a period shorter than [`SHORTEST_PERIOD`] is
//! stretched to it, so that no guest can turn its timer into a storm on the host.
//!
//! Sources: Intel 8254 datasheet; ICH9 datasheet 13.7.1 for port 0x61.

mod channel;
mod state;

use super::alarm::Alarm;
use super::clock::Clock;
use super::{lock, ports};
use crate::bus::{Bus, Reservation};
use crate::device::Device;
use crate::host::IrqLine;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
use channel::Channel;
pub use state::{Access, ChannelState, KIND, PitState, VERSION};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Shortest time between two timer interrupts, in nanoseconds.
const SHORTEST_PERIOD: u64 = 200_000;
/// Port 0x61 bit 4 changes with each refresh of the memory, every 15.085 us.
const REFRESH: u64 = 15_085;

struct Registers {
    clock: Clock,
    channels: [Channel; 3],
    speaker: bool,
    last_irq: Option<u64>,
    given: u64,
    lost: u64,
}

impl Registers {
    fn fresh() -> Self {
        Self {
            clock: Clock::running(0),
            // The gates of channels 0 and 1 are wired high, that of channel 2 is in port 0x61.
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker: false,
            last_irq: None,
            given: 0,
            lost: 0,
        }
    }

    fn from_state(state: &PitState) -> Self {
        let mut registers = Self {
            clock: Clock::stopped(state.now),
            speaker: state.speaker,
            last_irq: state.last_irq.map(|last| last.min(state.now)),
            ..Self::fresh()
        };
        for (channel, saved) in registers.channels.iter_mut().zip(&state.channels) {
            *channel = Channel::from_state(saved, state.now);
        }
        registers
    }

    fn state(&self) -> PitState {
        PitState {
            now: self.clock.now(),
            channels: [
                self.channels[0].state(),
                self.channels[1].state(),
                self.channels[2].state(),
            ],
            last_irq: self.last_irq,
            speaker: self.speaker,
        }
    }

    /// Machine time of the next timer interrupt.
    fn next_irq(&self) -> Option<u64> {
        let rise = self.channels[0].next_rise(self.last_irq.unwrap_or(0))?;
        let earliest = self
            .last_irq
            .map_or(0, |last| last.saturating_add(SHORTEST_PERIOD));
        Some(rise.max(earliest))
    }

    /// Whether a tick is due; if so it counts as given.
    fn take_tick(&mut self) -> bool {
        let now = self.clock.now();
        if self.next_irq().is_none_or(|at| at > now) {
            return false;
        }
        let mut passed: u64 = 0;
        // Only to tell how late the host is; bounded, since a long delay holds many periods.
        let mut at = self.last_irq.unwrap_or(0);
        while passed < 1000
            && let Some(next) = self.channels[0].next_rise(at)
            && next <= now
        {
            at = next;
            passed += 1;
        }
        self.lost = self.lost.saturating_add(passed.saturating_sub(1));
        self.last_irq = Some(now);
        self.given = self.given.saturating_add(1);
        true
    }

    fn read(&mut self, port: u16) -> u8 {
        let now = self.clock.now();
        match port {
            0x40 => self.channels[0].read(now),
            0x41 => self.channels[1].read(now),
            0x42 => self.channels[2].read(now),
            0x61 => {
                u8::from(self.channels[2].state().gate)
                    | (u8::from(self.speaker) << 1)
                    | (u8::from((now / REFRESH) % 2 == 1) << 4)
                    | (u8::from(self.channels[2].output(now)) << 5)
            }
            // The control word cannot be read.
            _ => 0xff,
        }
    }

    fn write(&mut self, port: u16, value: u8) {
        let now = self.clock.now();
        match port {
            0x40 => self.channels[0].write(value, now),
            0x41 => self.channels[1].write(value, now),
            0x42 => self.channels[2].write(value, now),
            0x43 => self.control(value, now),
            0x61 => {
                self.channels[2].set_gate(value & 1 != 0, now);
                self.speaker = value & 2 != 0;
            }
            _ => {}
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        let select = value >> 6;
        if let Some(channel) = self.channels.get_mut(usize::from(select)) {
            if value & 0x30 == 0 {
                channel.latch_count(now);
            } else {
                channel.set_control(value);
            }
            return;
        }
        // Read-back: latches what is asked for in each channel named.
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(now);
            }
            if value & 0x10 == 0 {
                channel.latch_status(now);
            }
        }
    }
}

struct Timer {
    registers: Mutex<Registers>,
    line: Arc<dyn IrqLine>,
    /// Set once, right after construction.
    alarm: OnceLock<Alarm>,
}

impl Timer {
    /// Does `change`, then sets the alarm to the next tick.
    fn with<T>(&self, change: impl FnOnce(&mut Registers) -> T) -> T {
        let mut registers = lock(&self.registers);
        let result = change(&mut registers);
        let when = registers.next_irq().and_then(|at| registers.clock.when(at));
        if let Some(alarm) = self.alarm.get() {
            alarm.set(when);
        }
        result
    }

    /// The alarm rang.
    fn ring(&self) {
        self.with(|registers| {
            if registers.take_tick() {
                // Under the lock, so that nothing is under way once a pause has returned.
                self.line.set_level(true);
                self.line.set_level(false);
            }
        });
    }
}

impl ports::PortDevice for Timer {
    fn read(&self, port: u16) -> u8 {
        self.with(|registers| {
            // Only a running guest gets here.
            registers.clock.start();
            registers.read(port)
        })
    }

    fn write(&self, port: u16, value: u8) {
        self.with(|registers| {
            registers.clock.start();
            registers.write(port, value);
        });
    }
}

/// The timer as a device of the machine.
pub struct Pit {
    timer: Arc<Timer>,
    _ports: Vec<Reservation>,
}

impl Pit {
    /// Makes it with its ports; `line` is GSI 0. A restored one stands until it is resumed.
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        line: Arc<dyn IrqLine>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<PitState> = origin.payload(KIND, KIND, VERSION)?;
        let timer = Arc::new(Timer {
            registers: Mutex::new(
                state
                    .as_ref()
                    .map_or_else(Registers::fresh, Registers::from_state),
            ),
            line,
            alarm: OnceLock::new(),
        });
        let weak: Weak<Timer> = Arc::downgrade(&timer);
        timer.alarm.get_or_init(|| {
            Alarm::new("pit", move || {
                if let Some(timer) = weak.upgrade() {
                    timer.ring();
                }
            })
        });
        let ports = ports::claim(pio, &timer, &[(0x40, 4), (0x61, 1)]).map_err(|source| {
            CreateError::Bus {
                id: KIND.into(),
                source,
            }
        })?;
        Ok(Self {
            timer,
            _ports: ports,
        })
    }
}

impl Device for Pit {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        self.timer.with(|registers| registers.clock.stop());
    }

    fn resume(&self) {
        self.timer.with(|registers| registers.clock.start());
    }

    fn reset(&self) {
        self.timer.with(|registers| {
            *registers = Registers {
                clock: Clock::stopped(0),
                ..Registers::fresh()
            };
        });
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = lock(&self.timer.registers).state();
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }

    fn stats(&self) -> serde_json::Value {
        let registers = lock(&self.timer.registers);
        serde_json::json!({ "ticks": registers.given, "ticks_lost": registers.lost })
    }
}

#[cfg(test)]
mod tests;
