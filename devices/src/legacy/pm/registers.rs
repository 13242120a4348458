//! The registers of the block: a pure state machine over machine time.

use super::state::PmState;
use crate::legacy::clock::{nanoseconds, ticks};

/// Offsets in the block.
mod at {
    pub(super) const STATUS: u64 = 0x00;
    pub(super) const ENABLE: u64 = 0x02;
    pub(super) const CONTROL: u64 = 0x04;
    pub(super) const CONTROL_END: u64 = 0x06;
    pub(super) const TIMER: u64 = 0x08;
    pub(super) const GPE_STATUS: u64 = 0x20;
    pub(super) const GPE_ENABLE: u64 = 0x28;
    pub(super) const GPE_END: u64 = 0x30;
    pub(super) const SMI_ENABLE: u64 = 0x30;
}

/// Bits of PM1 status and enable (ACPI 6.3 tables 4.13 and 4.14).
const TIMER: u16 = 1 << 0;
const POWER_BUTTON: u16 = 1 << 8;
/// Status bits that exist: timer, bus master, global, power and sleep button, RTC, wake.
const STATUS_BITS: u16 = 0x8731;
/// Enable bits that exist: timer, global, power and sleep button, RTC.
const ENABLE_BITS: u16 = 0x0721;

/// Bits of PM1 control (ACPI 6.3 table 4.15).
const SCI_EN: u16 = 1 << 0;
const SLEEP_TYPE: u16 = 7 << 10;
/// SLP_EN in the upper byte.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Bits that keep what is written: bus master reload, sleep type.
const CONTROL_KEPT: u16 = SLEEP_TYPE | 0x0002;

/// SMI_EN: writes to the command port raise SMIs (APMC_EN). There is no system management mode; the
/// bit tells firmware that setting it up was seen to.
const SMI_ENABLE: u64 = 1 << 5;

/// The guest asks for this sleep type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sleep(pub(super) u8);

/// The registers; fields are documented in [`PmState`].
#[derive(Debug, Default)]
pub(super) struct Registers {
    timer_changes: u64,
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
}

/// How often the timer's highest bit has changed.
fn changes(now: u64) -> u64 {
    ticks(now, super::TIMER_HERTZ) >> (super::TIMER_BITS - 1)
}

/// `value` with the byte at `index` replaced.
fn with_byte(value: u64, index: u64, byte: u8) -> u64 {
    let mut bytes = value.to_le_bytes();
    let place = usize::try_from(index).ok().and_then(|at| bytes.get_mut(at));
    if let Some(place) = place {
        *place = byte;
    }
    u64::from_le_bytes(bytes)
}

/// The same of a register of two bytes.
fn with_byte16(value: u16, index: u64, byte: u8) -> u16 {
    let [low, high] = value.to_le_bytes();
    match index {
        0 => u16::from_le_bytes([byte, high]),
        1 => u16::from_le_bytes([low, byte]),
        _ => value,
    }
}

impl Registers {
    pub(super) fn from_state(state: &PmState) -> Self {
        Self {
            timer_changes: state.timer_changes,
            status: state.pm1_status & STATUS_BITS,
            enable: state.pm1_enable & ENABLE_BITS,
            control: state.pm1_control & CONTROL_KEPT,
            gpe_status: state.gpe_status,
            gpe_enable: state.gpe_enable,
        }
    }

    pub(super) fn state(&self, now: u64) -> PmState {
        PmState {
            now,
            timer_changes: self.timer_changes,
            pm1_status: self.status,
            pm1_enable: self.enable,
            pm1_control: self.control,
            gpe_status: self.gpe_status,
            gpe_enable: self.gpe_enable,
        }
    }

    /// The level of the SCI.
    pub(super) fn sci(&self) -> bool {
        self.status & self.enable != 0 || self.gpe_status & self.gpe_enable != 0
    }

    /// Notes that the timer's highest bit has changed.
    pub(super) fn advance(&mut self, now: u64) {
        let changes = changes(now);
        if changes != self.timer_changes {
            self.timer_changes = changes;
            self.status |= TIMER;
        }
    }

    /// Machine time at which the timer interrupts next, if the guest wants that.
    pub(super) fn next_event(&self) -> Option<u64> {
        if self.enable & TIMER == 0 || self.status & TIMER != 0 {
            return None;
        }
        let ticks = self
            .timer_changes
            .checked_add(1)?
            .checked_mul(1 << (super::TIMER_BITS - 1))?;
        Some(nanoseconds(ticks, super::TIMER_HERTZ))
    }

    pub(super) fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    pub(super) fn raise_gpe(&mut self, event: u32) {
        self.gpe_status |= 1u64.checked_shl(event).unwrap_or(0);
    }

    /// Fills `data` from `offset` on, all of it at one moment.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], now: u64) {
        let timer = ticks(now, super::TIMER_HERTZ) & ((1 << super::TIMER_BITS) - 1);
        let registers: [(u64, u64, u64); 7] = [
            (at::STATUS, 2, self.status.into()),
            (at::ENABLE, 2, self.enable.into()),
            (at::CONTROL, 2, (self.control | SCI_EN).into()),
            (at::TIMER, 4, timer),
            (at::GPE_STATUS, 8, self.gpe_status),
            (at::GPE_ENABLE, 8, self.gpe_enable),
            (at::SMI_ENABLE, 4, SMI_ENABLE),
        ];
        for (byte, offset) in data.iter_mut().zip(offset..) {
            let register = registers
                .iter()
                .find(|(start, len, _)| (*start..start + len).contains(&offset));
            *byte = register.map_or(0, |(start, _, value)| {
                (value >> ((offset - start) * 8)).to_le_bytes()[0]
            });
        }
    }

    /// Takes one byte; the sleep that it asks for.
    pub(super) fn write(&mut self, offset: u64, value: u8) -> Option<Sleep> {
        match offset {
            // Written ones clear.
            at::STATUS..at::ENABLE => {
                self.status &= !with_byte16(0, offset - at::STATUS, value);
            }
            at::ENABLE..at::CONTROL => {
                self.enable = with_byte16(self.enable, offset - at::ENABLE, value) & ENABLE_BITS;
            }
            at::CONTROL..at::CONTROL_END => {
                let control = with_byte16(self.control, offset - at::CONTROL, value);
                self.control = control & CONTROL_KEPT;
                if offset == at::CONTROL + 1 && value & SLEEP_ENABLE != 0 {
                    return Some(Sleep((value >> 2) & 7));
                }
            }
            at::GPE_STATUS..at::GPE_ENABLE => {
                self.gpe_status &= !with_byte(0, offset - at::GPE_STATUS, value);
            }
            at::GPE_ENABLE..at::GPE_END => {
                self.gpe_enable = with_byte(self.gpe_enable, offset - at::GPE_ENABLE, value);
            }
            _ => {}
        }
        None
    }
}
