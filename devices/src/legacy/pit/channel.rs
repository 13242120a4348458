//! One channel of the 8254: a pure function of its registers and machine time.
//!
//! Source: Intel 8254 datasheet (order 231164). Times are nanoseconds of machine time; the count
//! is never stepped, it is computed from the time at which it began.
//!
//! | mode | output after the count is loaded                     | gate                    |
//! |------|------------------------------------------------------|-------------------------|
//! | 0    | low, high when it has run out                        | low holds the count     |
//! | 1    | low from a trigger until it has run out              | a rise triggers         |
//! | 2    | high, low for the last tick, again and again         | low stops, a rise starts|
//! | 3    | high for one half, low for the other, again and again| low stops, a rise starts|
//! | 4    | high, low for one tick when it has run out           | low holds the count     |
//! | 5    | as 4                                                 | a rise triggers         |
//!
//! Left out: in modes 2 and 3 a new count takes over at once instead of at the end of the period.

use super::state::{Access, ChannelState};
use crate::legacy::clock::{nanoseconds, ticks};

/// Ticks per second of the PC's timer: a third of the colour subcarrier.
pub(super) const HERTZ: u64 = 1_193_182;

/// A channel; fields are documented in [`ChannelState`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    mode: u8,
    bcd: bool,
    access: Access,
    reload: u32,
    start: Option<u64>,
    held: Option<u64>,
    gate: bool,
    low_byte: Option<u8>,
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |number, digit| {
        number * 10 + u32::from((value >> (digit * 4)) & 0xf)
    })
}

fn to_bcd(value: u32) -> u16 {
    let (mut rest, mut result) = (value % 10_000, 0);
    for digit in 0..4 {
        result |= (rest % 10) << (digit * 4);
        rest /= 10;
    }
    u16::try_from(result).unwrap_or_default()
}

impl Channel {
    /// A channel that counts nothing yet.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: Access::LowHigh,
            reload: 0x1_0000,
            start: None,
            held: None,
            gate,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    pub(super) fn state(&self) -> ChannelState {
        ChannelState {
            mode: self.mode,
            bcd: self.bcd,
            access: self.access,
            reload: self.reload,
            start: self.start,
            held: self.held,
            gate: self.gate,
            low_byte: self.low_byte,
            read_high: self.read_high,
            latched_count: self.latched_count,
            latched_status: self.latched_status,
        }
    }

    /// The channel in this state, at machine time `now`; impossible values are brought into range.
    pub(super) fn from_state(state: &ChannelState, now: u64) -> Self {
        let mut channel = Self {
            mode: state.mode.min(5),
            bcd: state.bcd,
            access: state.access,
            reload: 0,
            start: state.start.map(|start| start.min(now)),
            held: state.held.map(|held| held.min(now)),
            gate: state.gate,
            low_byte: state.low_byte,
            read_high: state.read_high,
            latched_count: state.latched_count,
            latched_status: state.latched_status,
        };
        channel.reload = state.reload.clamp(1, channel.modulus());
        channel
    }

    /// How many counts there are.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Ticks since the count began, or `None` while nothing is loaded or triggered.
    fn elapsed(&self, now: u64) -> Option<u64> {
        let start = self.start?;
        let until = self.held.unwrap_or(now);
        Some(ticks(until.saturating_sub(start), HERTZ))
    }

    /// The control word of this channel: mode, access and number system.
    pub(super) fn set_control(&mut self, word: u8) {
        self.bcd = word & 1 != 0;
        self.mode = match (word >> 1) & 7 {
            // The upper bit does not matter in modes 2 and 3.
            6 => 2,
            7 => 3,
            mode => mode,
        };
        self.access = match (word >> 4) & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::LowHigh,
        };
        self.reload = self.modulus();
        self.start = None;
        self.held = None;
        self.low_byte = None;
        self.read_high = false;
        self.latched_count = None;
        self.latched_status = None;
    }

    /// A byte of a count.
    pub(super) fn write(&mut self, value: u8, now: u64) {
        let value = u16::from(value);
        let count = match (self.access, self.low_byte) {
            (Access::Low, _) => value,
            (Access::High, _) => value << 8,
            (Access::LowHigh, Some(low)) => u16::from(low) | (value << 8),
            (Access::LowHigh, None) => {
                self.low_byte = Some(value.to_le_bytes()[0]);
                if self.mode == 0 {
                    // The first byte stops a count of mode 0.
                    self.start = None;
                    self.held = None;
                }
                return;
            }
        };
        self.low_byte = None;
        self.load(count, now);
    }

    fn load(&mut self, count: u16, now: u64) {
        let count = if self.bcd {
            from_bcd(count)
        } else {
            u32::from(count)
        };
        self.reload = if count == 0 {
            self.modulus()
        } else {
            count.min(self.modulus())
        };
        match self.mode {
            // These wait for their trigger; a count under way is not disturbed.
            1 | 5 => {}
            2 | 3 if !self.gate => self.start = None,
            _ => {
                self.start = Some(now);
                self.held = (!self.gate).then_some(now);
            }
        }
    }

    /// The gate input has this level now.
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        let was = std::mem::replace(&mut self.gate, gate);
        if was == gate {
            return;
        }
        match (self.mode, gate) {
            (1 | 5 | 2 | 3, true) => self.start = Some(now),
            (2 | 3, false) => self.start = None,
            (0 | 4, false) => self.held = self.start.map(|_| now),
            (0 | 4, true) => {
                if let (Some(start), Some(held)) = (self.start, self.held.take()) {
                    self.start = Some(start.saturating_add(now.saturating_sub(held)));
                }
            }
            _ => {}
        }
    }

    /// The count as the guest reads it.
    fn count(&self, now: u64) -> u16 {
        let modulus = u64::from(self.modulus());
        let reload = u64::from(self.reload);
        let count = match self.elapsed(now) {
            None => reload % modulus,
            Some(elapsed) => match self.mode {
                2 => reload - elapsed % reload,
                // Steps of two, twice per period.
                3 => {
                    let even = reload.saturating_sub(reload % 2).max(2);
                    even - (elapsed.wrapping_mul(2)) % even
                }
                // Runs on below zero.
                _ => (reload % modulus + modulus - elapsed % modulus) % modulus,
            },
        };
        let count = u32::try_from(count % modulus).unwrap_or_default();
        if self.bcd {
            to_bcd(count)
        } else {
            u16::try_from(count).unwrap_or_default()
        }
    }

    /// The output.
    pub(super) fn output(&self, now: u64) -> bool {
        let reload = u64::from(self.reload);
        let Some(elapsed) = self.elapsed(now) else {
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => elapsed >= reload,
            2 => elapsed % reload != reload - 1,
            3 => elapsed % reload < reload.div_ceil(2),
            _ => elapsed != reload,
        }
    }

    /// Machine time of the first rise of the output after `after`.
    pub(super) fn next_rise(&self, after: u64) -> Option<u64> {
        if self.held.is_some() {
            return None;
        }
        let start = self.start?;
        let reload = u64::from(self.reload);
        let at = |ticks: u64| start.saturating_add(nanoseconds(ticks, HERTZ));
        if self.is_periodic() {
            let periods = ticks(after.saturating_sub(start), HERTZ) / reload;
            let next = at((periods + 1).saturating_mul(reload));
            return Some(next);
        }
        let strobe = u64::from(matches!(self.mode, 4 | 5));
        let rise = at(reload + strobe);
        (rise > after).then_some(rise)
    }

    /// Latches the count, unless one is latched already.
    pub(super) fn latch_count(&mut self, now: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count(now));
        }
    }

    /// Latches the status, unless one is latched already.
    pub(super) fn latch_status(&mut self, now: u64) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::LowHigh => 3,
        };
        // Null count: the count that was written is not in the counter yet.
        let null = u8::from(self.start.is_none());
        let status = (u8::from(self.output(now)) << 7)
            | (null << 6)
            | (access << 4)
            | (self.mode << 1)
            | u8::from(self.bcd);
        self.latched_status.get_or_insert(status);
    }

    /// A byte of status or count.
    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self.latched_count.unwrap_or_else(|| self.count(now));
        let [low, high] = count.to_le_bytes();
        let (byte, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::LowHigh => {
                let was_high = self.read_high;
                self.read_high = !was_high;
                (if was_high { high } else { low }, was_high)
            }
        };
        if done {
            self.latched_count = None;
        }
        byte
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_round_trips() {
        for value in 0..10_000 {
            assert_eq!(from_bcd(to_bcd(value)), value);
        }
    }

    fn at(ticks: u64) -> u64 {
        nanoseconds(ticks, HERTZ)
    }

    fn loaded(control: u8, count: u16) -> Channel {
        let mut channel = Channel::new(true);
        channel.set_control(control);
        let [low, high] = count.to_le_bytes();
        channel.write(low, 0);
        channel.write(high, 0);
        channel
    }

    #[test]
    fn mode_0_rises_once_when_the_count_has_run_out() {
        let channel = loaded(0x30, 1000);
        assert!(!channel.output(at(999)) && channel.output(at(1000)) && channel.output(at(90_000)));
        assert_eq!(channel.next_rise(0), Some(at(1000)));
        assert_eq!(channel.next_rise(at(1000)), None);
        assert_eq!(
            (channel.count(at(400)), channel.count(at(1001))),
            (600, 0xffff)
        );
    }

    #[test]
    fn mode_2_is_low_for_the_last_tick_of_each_period() {
        let channel = loaded(0x34, 1000);
        assert!(channel.output(at(998)) && !channel.output(at(999)) && channel.output(at(1000)));
        assert_eq!(channel.next_rise(0), Some(at(1000)));
        assert_eq!(channel.next_rise(at(1000)), Some(at(2000)));
        assert_eq!(
            channel.next_rise(at(5500)),
            Some(at(6000)),
            "missed ones are gone"
        );
        assert_eq!((channel.count(0), channel.count(at(1999))), (1000, 1));
    }

    #[test]
    fn mode_3_is_high_for_the_longer_half() {
        let channel = loaded(0x36, 7);
        let levels: Vec<_> = (0..7).map(|tick| channel.output(at(tick))).collect();
        assert_eq!(levels, [true, true, true, true, false, false, false]);
        assert_eq!(channel.next_rise(0), Some(at(7)));
    }

    #[test]
    fn a_low_gate_holds_mode_0_and_restarts_mode_2() {
        let mut held = loaded(0x30, 1000);
        held.set_gate(false, at(100));
        assert_eq!((held.count(at(5000)), held.next_rise(0)), (900, None));
        held.set_gate(true, at(5000));
        assert_eq!(held.count(at(5100)), 800);
        let mut periodic = loaded(0x34, 1000);
        periodic.set_gate(false, at(100));
        assert!(periodic.output(at(999)) && periodic.next_rise(0).is_none());
        periodic.set_gate(true, at(3000));
        assert_eq!(periodic.next_rise(at(3000)), Some(at(3000) + at(1000)));
    }

    #[test]
    fn a_gate_rise_triggers_mode_1_and_mode_5() {
        for (control, ticks) in [(0x32, 10), (0x3a, 11)] {
            let mut channel = Channel::new(false);
            channel.set_control(control);
            channel.write(10, 0);
            channel.write(0, 0);
            assert_eq!(channel.next_rise(0), None);
            channel.set_gate(true, 0);
            assert_eq!(channel.next_rise(0), Some(at(ticks)));
        }
    }

    #[test]
    fn reads_alternate_and_latches_hold() {
        let mut channel = loaded(0x30, 0x1234);
        assert_eq!((channel.read(0), channel.read(0)), (0x34, 0x12));
        channel.latch_count(0);
        channel.latch_count(at(50));
        channel.latch_status(0);
        assert_eq!(channel.read(at(100)), 0x30, "status first");
        assert_eq!((channel.read(at(100)), channel.read(at(100))), (0x34, 0x12));
        assert_eq!(channel.read(at(4)), 0x30, "live again");
    }

    #[test]
    fn a_count_of_zero_is_the_largest() {
        assert_eq!(loaded(0x34, 0).next_rise(0), Some(at(65_536)));
        assert_eq!(loaded(0x35, 0).next_rise(0), Some(at(10_000)));
    }

    proptest! {
        #[test]
        fn the_next_rise_is_a_rise(control in 0u8..0x40, count: u16, gate: bool, now in 0u64..1 << 40) {
            let mut channel = Channel::new(gate);
            channel.set_control(control | 0x30);
            let [low, high] = count.to_le_bytes();
            channel.write(low, 0);
            channel.write(high, 0);
            channel.set_gate(true, 5);
            if let Some(rise) = channel.next_rise(now) {
                prop_assert!(rise > now);
                prop_assert!(channel.output(rise));
                // Just before it was low, unless the whole period is one tick long.
                prop_assert!(channel.reload < 2 || !channel.output(rise - 1));
            }
        }
    }
}
