//! The battery-backed clock and its memory at ports 0x70 and 0x71.
//!
//! It shows the host's time of day plus an offset, which starts with the machine's (UTC or local
//! time) and moves when the guest sets its clock. It does not stand while the machine is paused:
//! after a restore it shows what time it is. Interrupts (update, alarm, periodic) go to GSI 8; an
//! event that the guest has not taken note of is not repeated, so nothing piles up in a pause. The
//! [`super::alarm`]'s thread exists only while the guest wants an interrupt.
//!
//! Files: [`chip`] is the MC146818 itself, [`calendar`] its dates. Byte 0x0f, the shutdown code of
//! PC firmware, is memory like the rest; byte 0x32 is the century, as the FADT says.

mod calendar;
mod chip;
mod state;

use super::alarm::Alarm;
use super::{lock, ports};
use crate::bus::{Bus, Reservation};
use crate::device::Device;
use crate::host::IrqLine;
use crate::registry::CreateError;
use crate::state::{Origin, Saved, Section, StateError};
pub use calendar::DateTime;
use chip::Chip;
pub use state::{BYTES, KIND, Moment, RtcState, VERSION};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The GSI of its interrupts.
pub const GSI: u32 = 8;
/// The register of the century, for the FADT.
pub const CENTURY: u8 = 0x32;
/// Longest time for which the alarm is set at once: the host's clock may be set meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The host's time of day in nanoseconds since 1970.
fn host_time() -> i128 {
    let ns = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => ns(after),
        Err(before) => -ns(before.duration()),
    }
}

struct Inner {
    chip: Chip,
    running: bool,
    /// The event that the alarm is set for.
    awaited: Option<i128>,
}

struct Clock {
    inner: Mutex<Inner>,
    line: Arc<dyn IrqLine>,
    /// Set once, right after construction.
    alarm: OnceLock<Alarm>,
}

impl Clock {
    /// Does `change`, then sets the line and the alarm to what follows from it.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = lock(&self.inner);
        let result = change(&mut inner);
        self.line.set_level(inner.chip.irq());
        let next = inner.chip.next_event().filter(|_| inner.running);
        if next != inner.awaited {
            inner.awaited = next;
            let when = next.map(|at| {
                let left = u64::try_from((at - host_time()).max(0)).unwrap_or(u64::MAX);
                Instant::now() + Duration::from_nanos(left).min(LOOK_AGAIN)
            });
            if let Some(alarm) = self.alarm.get() {
                alarm.set(when);
            }
        }
        result
    }

    fn ring(&self) {
        self.with(|inner| {
            inner.awaited = None;
            // A pause that came first has the word: resuming looks again.
            if inner.running {
                inner.chip.advance(host_time());
            }
        });
    }
}

impl ports::PortDevice for Clock {
    fn read(&self, port: u16) -> u8 {
        if port != 0x71 {
            // The index cannot be read.
            return 0xff;
        }
        self.with(|inner| {
            // Only a running guest gets here.
            inner.running = true;
            inner.chip.read(host_time())
        })
    }

    fn write(&self, port: u16, value: u8) {
        self.with(|inner| {
            inner.running = true;
            if port == 0x71 {
                inner.chip.write(value, host_time());
            } else {
                inner.chip.select(value);
            }
        });
    }
}

/// What a clock starts with that was never on before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fresh<'a> {
    /// Seconds that it is ahead of UTC.
    pub ahead: i64,
    /// What its memory holds, as (register, value); registers of the time and of control are left out.
    pub memory: &'a [(u8, u8)],
}

/// The clock as a device of the machine.
pub struct Rtc {
    clock: Arc<Clock>,
    _ports: Vec<Reservation>,
}

impl Rtc {
    /// Makes it with its ports; `line` is GSI [`GSI`]. A fresh one is as `fresh` says;
    /// a restored one keeps its own offset and raises no interrupt until it is resumed.
    ///
    /// # Errors
    /// [`CreateError`] when the ports are taken or the saved state cannot be used.
    pub fn create(
        pio: &Bus,
        line: Arc<dyn IrqLine>,
        fresh: Fresh<'_>,
        origin: Origin<'_>,
    ) -> Result<Self, CreateError> {
        let state: Option<RtcState> = origin.payload(KIND, KIND, VERSION)?;
        let running = state.is_none();
        let chip = match &state {
            None => Chip::new(fresh.ahead, host_time()).with_memory(fresh.memory),
            Some(state) => Chip::from_state(state),
        };
        let clock = Arc::new(Clock {
            inner: Mutex::new(Inner {
                chip,
                running,
                awaited: None,
            }),
            line,
            alarm: OnceLock::new(),
        });
        let weak: Weak<Clock> = Arc::downgrade(&clock);
        clock.alarm.get_or_init(|| {
            Alarm::new("rtc", move || {
                if let Some(clock) = weak.upgrade() {
                    clock.ring();
                }
            })
        });
        let ports = ports::claim(pio, &clock, &[(0x70, 2)]).map_err(|source| CreateError::Bus {
            id: KIND.into(),
            source,
        })?;
        clock.with(|_| ());
        Ok(Self {
            clock,
            _ports: ports,
        })
    }
}

impl Device for Rtc {
    fn id(&self) -> &str {
        KIND
    }

    fn pause(&self) {
        self.clock.with(|inner| inner.running = false);
    }

    fn resume(&self) {
        self.clock.with(|inner| {
            inner.running = true;
            inner.chip.advance(host_time());
        });
    }

    fn reset(&self) {
        self.clock.with(|inner| inner.chip.reset());
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = lock(&self.clock.inner).chip.state();
        Ok(Saved::Sections(vec![Section::new(
            KIND, KIND, VERSION, &state,
        )?]))
    }
}

#[cfg(test)]
mod tests;
