//! The MC146818: a pure state machine over the host's time of day.
//!
//! Source: Motorola MC146818A datasheet. Times are nanoseconds since 1970, the guest's are the
//! host's plus an offset that changes when the guest sets its clock.
//!
//! ```text
//! running: fields are computed from the offset
//!    |  ^
//!    |  +-- SET = 0 and divider on: the offset is computed from the fields
//!    v
//! held: SET = 1 in B, or the divider stopped in A: fields stand and can be written
//! ```
//!
//! The update bit is on for the last 2.2 ms of each second, the length of the chip's update cycle
//! with its lead of 244 us, and the fields change when it falls: a guest that finds it off has time
//! to read, and one that finds it on waits no longer than that.

use super::calendar::DateTime;
use super::state::{BYTES, Moment, RtcState};

/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;
/// The update cycle with its lead: 1984 us and 244 us.
const UPDATE: i128 = 2_228_000;
/// An alarm field of this value or more matches everything.
const ANY: u8 = 0xc0;

mod reg {
    pub(super) const SECOND: u8 = 0x00;
    pub(super) const SECOND_ALARM: u8 = 0x01;
    pub(super) const MINUTE: u8 = 0x02;
    pub(super) const MINUTE_ALARM: u8 = 0x03;
    pub(super) const HOUR: u8 = 0x04;
    pub(super) const HOUR_ALARM: u8 = 0x05;
    pub(super) const WEEKDAY: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    pub(super) const CENTURY: u8 = super::super::CENTURY;
}

mod a {
    pub(super) const UPDATING: u8 = 0x80;
    /// 32.768 kHz, 1024 Hz square wave.
    pub(super) const FRESH: u8 = 0x26;
}

mod b {
    pub(super) const SET: u8 = 0x80;
    pub(super) const UPDATE: u8 = 0x10;
    pub(super) const INTERRUPTS: u8 = 0x70;
    pub(super) const BINARY: u8 = 0x04;
    pub(super) const HOURS_24: u8 = 0x02;
    /// Interrupts and square wave, which a reset turns off.
    pub(super) const RESET: u8 = 0x78;
}

/// Flags of register C; the enable bits of B are in the same places.
mod flag {
    pub(super) const ANY: u8 = 0x80;
    pub(super) const PERIODIC: u8 = 0x40;
    pub(super) const ALARM: u8 = 0x20;
    pub(super) const UPDATE: u8 = 0x10;
}

/// Register D: the battery is good.
const VALID: u8 = 0x80;

/// The chip; fields are documented in [`RtcState`], times in nanoseconds.
#[derive(Debug)]
pub(super) struct Chip {
    index: u8,
    a: u8,
    b: u8,
    flags: u8,
    nvram: [u8; BYTES],
    ahead: i128,
    seen: i128,
    held: Option<DateTime>,
    divider_stopped: bool,
}

fn moment(ns: i128) -> Moment {
    Moment {
        seconds: i64::try_from(ns.div_euclid(SECOND)).unwrap_or_default(),
        nanos: u32::try_from(ns.rem_euclid(SECOND)).unwrap_or_default(),
    }
}

fn nanoseconds(moment: Moment) -> i128 {
    i128::from(moment.seconds) * SECOND + i128::from(moment.nanos)
}

fn seconds(ns: i128) -> i64 {
    moment(ns).seconds
}

impl Chip {
    /// A chip with a good battery that is `ahead` seconds ahead of UTC at host time `host`.
    pub(super) fn new(ahead: i64, host: i128) -> Self {
        let ahead = i128::from(ahead) * SECOND;
        Self {
            index: 0,
            a: a::FRESH,
            b: b::HOURS_24,
            flags: 0,
            nvram: [0; BYTES],
            ahead,
            seen: host + ahead,
            held: None,
            divider_stopped: false,
        }
    }

    /// The same with these bytes, as (register, value), in its memory; what is no memory stays.
    pub(super) fn with_memory(mut self, memory: &[(u8, u8)]) -> Self {
        for (register, value) in memory {
            let own = *register <= reg::D || *register == reg::CENTURY;
            if let Some(byte) = self.nvram.get_mut(usize::from(*register))
                && !own
            {
                *byte = *value;
            }
        }
        self
    }

    pub(super) fn from_state(state: &RtcState) -> Self {
        let mut nvram = [0; BYTES];
        for (byte, saved) in nvram.iter_mut().zip(&state.nvram) {
            *byte = *saved;
        }
        let mut chip = Self {
            index: state.index & 0x7f,
            a: state.a & !a::UPDATING,
            b: state.b,
            flags: state.flags & b::INTERRUPTS,
            nvram,
            ahead: nanoseconds(state.ahead),
            seen: nanoseconds(state.seen),
            held: state.held,
            divider_stopped: state.divider_stopped,
        };
        if chip.held.is_none() && chip.must_hold() {
            chip.held = Some(DateTime::from_seconds(seconds(chip.seen)));
        }
        chip
    }

    pub(super) fn state(&self) -> RtcState {
        RtcState {
            index: self.index,
            a: self.a,
            b: self.b,
            flags: self.flags,
            nvram: self.nvram.to_vec(),
            ahead: moment(self.ahead),
            seen: moment(self.seen),
            held: self.held,
            divider_stopped: self.divider_stopped,
        }
    }

    /// The reset line: interrupts off. Time and memory have a battery.
    pub(super) fn reset(&mut self) {
        self.index = 0;
        self.b &= !b::RESET;
        self.flags = 0;
    }

    /// The level of the interrupt output.
    pub(super) fn irq(&self) -> bool {
        self.flags & self.b & b::INTERRUPTS != 0
    }

    fn divider_is_stopped(&self) -> bool {
        (self.a >> 4) & 7 >= 6
    }

    fn must_hold(&self) -> bool {
        self.b & b::SET != 0 || self.divider_is_stopped()
    }

    /// Periodic interrupts per second, 0 for none.
    fn periodic_hertz(&self) -> i128 {
        if self.divider_is_stopped() {
            return 0;
        }
        match self.a & 0x0f {
            0 => 0,
            // The two slowest taps of the first divider stages come again as 8 and 9.
            rate @ (1 | 2) => 32_768 >> (rate + 6),
            rate => 32_768 >> (rate - 1),
        }
    }

    /// Raises the flags of everything that has happened up to host time `host`.
    pub(super) fn advance(&mut self, host: i128) {
        let now = host + self.ahead;
        let before = std::mem::replace(&mut self.seen, now);
        if now <= before {
            // The host's clock was set back.
            return;
        }
        let hertz = self.periodic_hertz();
        let tick = |at: i128| (at * hertz).div_euclid(SECOND);
        if tick(now) > tick(before) {
            self.flags |= flag::PERIODIC;
        }
        if self.held.is_none() && seconds(now) > seconds(before) {
            self.flags |= flag::UPDATE;
            if self
                .next_alarm(seconds(before))
                .is_some_and(|at| at <= seconds(now))
            {
                self.flags |= flag::ALARM;
            }
        }
    }

    /// Host time at which an interrupt that the guest wants comes next. An event whose flag the
    /// guest has not read yet does not come again.
    pub(super) fn next_event(&self) -> Option<i128> {
        let wanted = self.b & b::INTERRUPTS & !self.flags;
        let mut next: Option<i128> = None;
        let mut add = |at: i128| next = Some(next.map_or(at, |other| other.min(at)));
        let hertz = self.periodic_hertz();
        if wanted & flag::PERIODIC != 0 && hertz != 0 {
            let tick = (self.seen * hertz).div_euclid(SECOND) + 1;
            add((tick * SECOND + hertz - 1).div_euclid(hertz));
        }
        if self.held.is_none() {
            if wanted & flag::UPDATE != 0 {
                add((i128::from(seconds(self.seen)) + 1) * SECOND);
            }
            if wanted & flag::ALARM != 0
                && let Some(at) = self.next_alarm(seconds(self.seen))
            {
                add(i128::from(at) * SECOND);
            }
        }
        next.map(|at| at - self.ahead)
    }

    /// The first second after `after` at which the alarm matches.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let field = |register: u8| {
            let raw = self.memory(register);
            if raw >= ANY {
                None
            } else if register == reg::HOUR_ALARM {
                Some(self.decode_hour(raw))
            } else {
                Some(self.decode(raw))
            }
        };
        let hour = field(reg::HOUR_ALARM);
        let minute = field(reg::MINUTE_ALARM);
        let second = field(reg::SECOND_ALARM);
        // What no clock shows never matches; this also bounds the search below to 24 + 60 + 60
        // steps, twice.
        if hour >= Some(24) || minute >= Some(60) || second >= Some(60) {
            return None;
        }
        let differs = |want: Option<u8>, is: i64| want.is_some_and(|want| i64::from(want) != is);
        let mut at = after.checked_add(1)?;
        let end = at.checked_add(86_400)?;
        while at < end {
            let time = at.rem_euclid(86_400);
            if differs(hour, time / 3600) {
                at += 3600 - time % 3600;
            } else if differs(minute, time / 60 % 60) {
                at += 60 - time % 60;
            } else if differs(second, time % 60) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    fn memory(&self, register: u8) -> u8 {
        self.nvram
            .get(usize::from(register))
            .copied()
            .unwrap_or_default()
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & b::BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & b::BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0x0f)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & b::HOURS_24 != 0 {
            return self.encode(hour);
        }
        let afternoon = u8::from(hour >= 12) << 7;
        let hour = if hour.is_multiple_of(12) {
            12
        } else {
            hour % 12
        };
        self.encode(hour) | afternoon
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & b::HOURS_24 != 0 {
            return self.decode(value);
        }
        let afternoon = if value & 0x80 != 0 { 12 } else { 0 };
        self.decode(value & 0x7f) % 12 + afternoon
    }

    fn fields(&self) -> DateTime {
        self.held
            .unwrap_or_else(|| DateTime::from_seconds(seconds(self.seen)))
    }

    fn is_updating(&self) -> bool {
        self.held.is_none() && self.seen.rem_euclid(SECOND) >= SECOND - UPDATE
    }

    /// Writes port 0x70. Bit 7 masks NMIs, of which there are none.
    pub(super) fn select(&mut self, value: u8) {
        self.index = value & 0x7f;
    }

    /// Reads port 0x71 at host time `host`.
    pub(super) fn read(&mut self, host: i128) -> u8 {
        self.advance(host);
        let fields = self.fields();
        let two = |value: u16| self.encode(u8::try_from(value % 100).unwrap_or_default());
        match self.index {
            reg::SECOND => self.encode(fields.second),
            reg::MINUTE => self.encode(fields.minute),
            reg::HOUR => self.encode_hour(fields.hour),
            reg::WEEKDAY => self.encode(fields.weekday()),
            reg::DAY => self.encode(fields.day),
            reg::MONTH => self.encode(fields.month),
            reg::YEAR => two(fields.year),
            reg::CENTURY => two(fields.year / 100),
            reg::A if self.is_updating() => self.a | a::UPDATING,
            reg::A => self.a,
            reg::B => self.b,
            reg::C => {
                let pending = if self.irq() { flag::ANY } else { 0 };
                std::mem::take(&mut self.flags) | pending
            }
            reg::D => VALID,
            index => self.memory(index),
        }
    }

    /// Writes port 0x71 at host time `host`.
    pub(super) fn write(&mut self, value: u8, host: i128) {
        self.advance(host);
        match self.index {
            reg::SECOND
            | reg::MINUTE
            | reg::HOUR
            | reg::WEEKDAY
            | reg::DAY
            | reg::MONTH
            | reg::YEAR
            | reg::CENTURY => self.write_field(value, host),
            reg::A => {
                self.a = value & !a::UPDATING;
                self.hold_or_run(host);
            }
            reg::B => {
                self.b = value;
                if value & b::SET != 0 {
                    self.b &= !b::UPDATE;
                }
                self.hold_or_run(host);
            }
            reg::C | reg::D => {}
            index => {
                if let Some(byte) = self.nvram.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }

    fn write_field(&mut self, value: u8, host: i128) {
        let mut fields = self.fields();
        let number = self.decode(value);
        let (century, year) = (fields.year / 100, fields.year % 100);
        match self.index {
            reg::SECOND => fields.second = number,
            reg::MINUTE => fields.minute = number,
            reg::HOUR => fields.hour = self.decode_hour(value),
            reg::DAY => fields.day = number,
            reg::MONTH => fields.month = number,
            reg::YEAR => fields.year = century * 100 + u16::from(number % 100),
            reg::CENTURY => fields.year = u16::from(number % 100) * 100 + year,
            // The day of the week follows from the date.
            _ => {}
        }
        if self.held.is_some() {
            self.held = Some(fields);
        } else {
            let part = self.seen.rem_euclid(SECOND);
            self.set_time(fields, part, host);
        }
    }

    /// From now on it is `fields` and `part` nanoseconds.
    fn set_time(&mut self, fields: DateTime, part: i128, host: i128) {
        self.seen = i128::from(fields.to_seconds()) * SECOND + part;
        self.ahead = self.seen - host;
    }

    /// Holds the fields, or lets them run, after A or B was written.
    fn hold_or_run(&mut self, host: i128) {
        if !self.must_hold() {
            if let Some(fields) = self.held.take() {
                let part = if std::mem::take(&mut self.divider_stopped) {
                    SECOND / 2
                } else {
                    self.seen.rem_euclid(SECOND)
                };
                self.set_time(fields, part, host);
            }
            return;
        }
        if self.held.is_none() {
            self.held = Some(DateTime::from_seconds(seconds(self.seen)));
        }
        self.divider_stopped |= self.divider_is_stopped();
    }
}
