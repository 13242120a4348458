//! The 16550A: a pure state machine over its registers.
//!
//! Source: National Semiconductor PC16550D datasheet, chapter 8. What is written is on its way at
//! once, so the transmitter is always empty; the character timeout of the receive FIFO is taken to
//! have passed as soon as bytes wait below the trigger level. Interrupt priorities: line status,
//! received data or timeout, transmitter empty, modem status.

use super::state::SerialState;
use std::collections::VecDeque;

/// Bytes that the receive FIFO holds.
pub(super) const FIFO: usize = 16;

mod ier {
    pub(super) const RX: u8 = 0x01;
    pub(super) const THR: u8 = 0x02;
    pub(super) const LINE: u8 = 0x04;
    pub(super) const MODEM: u8 = 0x08;
}

mod iir {
    pub(super) const NONE: u8 = 0x01;
    pub(super) const MODEM: u8 = 0x00;
    pub(super) const THR: u8 = 0x02;
    pub(super) const RX: u8 = 0x04;
    pub(super) const LINE: u8 = 0x06;
    pub(super) const TIMEOUT: u8 = 0x0c;
    pub(super) const FIFOS: u8 = 0xc0;
}

mod fcr {
    pub(super) const ENABLE: u8 = 0x01;
    pub(super) const CLEAR_RX: u8 = 0x02;
    /// Enable, DMA mode and trigger level stay; the clear bits do not.
    pub(super) const KEPT: u8 = 0xc9;
}

mod lcr {
    pub(super) const DLAB: u8 = 0x80;
}

mod lsr {
    pub(super) const DATA: u8 = 0x01;
    pub(super) const OVERRUN: u8 = 0x02;
    pub(super) const EMPTY: u8 = 0x60;
}

mod mcr {
    pub(super) const DTR: u8 = 0x01;
    pub(super) const RTS: u8 = 0x02;
    pub(super) const OUT1: u8 = 0x04;
    pub(super) const OUT2: u8 = 0x08;
    pub(super) const LOOP: u8 = 0x10;
    pub(super) const KEPT: u8 = 0x1f;
}

mod msr {
    pub(super) const CTS: u8 = 0x10;
    pub(super) const DSR: u8 = 0x20;
    pub(super) const RI: u8 = 0x40;
    pub(super) const DCD: u8 = 0x80;
    /// The far end is there and ready.
    pub(super) const CONNECTED: u8 = CTS | DSR | DCD;
}

/// What an access wants done besides changing registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// This byte goes out.
    Transmit(u8),
    /// There is room for input again.
    Room,
}

/// The registers; fields are documented in [`SerialState`].
#[derive(Debug, Default)]
pub(super) struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    msr_delta: u8,
    overrun: bool,
    thr_interrupt: bool,
    rx: VecDeque<u8>,
}

impl Uart {
    /// A port after a master reset; 12 is the divisor of 9600 baud that PC firmware leaves.
    pub(super) fn new() -> Self {
        Self {
            divisor: 12,
            ..Self::default()
        }
    }

    pub(super) fn from_state(state: &SerialState) -> Self {
        Self {
            ier: state.ier & 0x0f,
            fcr: state.fcr & fcr::KEPT,
            lcr: state.lcr,
            mcr: state.mcr & mcr::KEPT,
            scr: state.scr,
            divisor: state.divisor,
            msr_delta: state.msr_delta & 0x0f,
            overrun: state.overrun,
            thr_interrupt: state.thr_interrupt,
            rx: state.rx.iter().copied().take(FIFO).collect(),
        }
    }

    pub(super) fn state(&self) -> SerialState {
        SerialState {
            ier: self.ier,
            fcr: self.fcr,
            lcr: self.lcr,
            mcr: self.mcr,
            scr: self.scr,
            divisor: self.divisor,
            msr_delta: self.msr_delta,
            overrun: self.overrun,
            thr_interrupt: self.thr_interrupt,
            rx: self.rx.iter().copied().collect(),
        }
    }

    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn looped(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    /// How many bytes of input fit. None while the wires are looped back.
    pub(super) fn room(&self) -> usize {
        if self.looped() {
            0
        } else {
            self.capacity().saturating_sub(self.rx.len())
        }
    }

    /// A byte arrives; one too many sets the overrun bit.
    pub(super) fn receive(&mut self, byte: u8) {
        if self.rx.len() < self.capacity() {
            self.rx.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    fn trigger(&self) -> usize {
        match (self.fifos(), self.fcr >> 6) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    /// The interrupt with the highest priority, as IIR names it.
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        if enabled(ier::LINE) && self.overrun {
            iir::LINE
        } else if enabled(ier::RX) && self.rx.len() >= self.trigger() {
            iir::RX
        } else if enabled(ier::RX) && !self.rx.is_empty() {
            iir::TIMEOUT
        } else if enabled(ier::THR) && self.thr_interrupt {
            iir::THR
        } else if enabled(ier::MODEM) && self.msr_delta != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// The level of the interrupt output.
    pub(super) fn irq(&self) -> bool {
        self.interrupt() != iir::NONE
    }

    fn modem_lines(&self) -> u8 {
        if !self.looped() {
            return msr::CONNECTED;
        }
        let wires = [
            (mcr::RTS, msr::CTS),
            (mcr::DTR, msr::DSR),
            (mcr::OUT1, msr::RI),
            (mcr::OUT2, msr::DCD),
        ];
        wires
            .iter()
            .filter(|(from, _)| self.mcr & from != 0)
            .fold(0, |lines, (_, to)| lines | to)
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value & mcr::KEPT;
        let after = self.modem_lines();
        let mut changed = before ^ after;
        if after & msr::RI != 0 {
            // The ring indicator reports its end only.
            changed &= !msr::RI;
        }
        self.msr_delta |= changed >> 4;
    }

    fn write_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.fcr) & fcr::ENABLE != 0;
        if toggled || value & (fcr::ENABLE | fcr::CLEAR_RX) == fcr::ENABLE | fcr::CLEAR_RX {
            self.rx.clear();
        }
        // The other bits are taken only together with the enable bit.
        self.fcr = if value & fcr::ENABLE != 0 {
            value & fcr::KEPT
        } else {
            0
        };
    }

    /// Reads register `offset` (0 to 7).
    pub(super) fn read(&mut self, offset: u64) -> (u8, Effect) {
        let latch = self.lcr & lcr::DLAB != 0;
        let value = match offset {
            0 if latch => self.divisor.to_le_bytes()[0],
            1 if latch => self.divisor.to_le_bytes()[1],
            0 => {
                let byte = self.rx.pop_front().unwrap_or(0);
                return (byte, Effect::Room);
            }
            1 => self.ier,
            2 => {
                let source = self.interrupt();
                if source == iir::THR {
                    self.thr_interrupt = false;
                }
                source | if self.fifos() { iir::FIFOS } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr,
            5 => {
                let data = if self.rx.is_empty() { 0 } else { lsr::DATA };
                let overrun = if std::mem::take(&mut self.overrun) {
                    lsr::OVERRUN
                } else {
                    0
                };
                lsr::EMPTY | data | overrun
            }
            6 => self.modem_lines() | std::mem::take(&mut self.msr_delta),
            _ => self.scr,
        };
        (value, Effect::None)
    }

    /// Writes register `offset` (0 to 7).
    pub(super) fn write(&mut self, offset: u64, value: u8) -> Effect {
        let latch = self.lcr & lcr::DLAB != 0;
        let [low, high] = self.divisor.to_le_bytes();
        match offset {
            0 if latch => self.divisor = u16::from_le_bytes([value, high]),
            1 if latch => self.divisor = u16::from_le_bytes([low, value]),
            0 => {
                self.thr_interrupt = true;
                if !self.looped() {
                    return Effect::Transmit(value);
                }
                self.receive(value);
            }
            1 => {
                // Enabling it while the transmitter is empty raises it at once.
                if value & !self.ier & ier::THR != 0 {
                    self.thr_interrupt = true;
                }
                self.ier = value & 0x0f;
            }
            2 => {
                self.write_fcr(value);
                return Effect::Room;
            }
            3 => self.lcr = value,
            4 => {
                self.write_mcr(value);
                return Effect::Room;
            }
            7 => self.scr = value,
            // Line and modem status cannot be written.
            _ => {}
        }
        Effect::None
    }
}
