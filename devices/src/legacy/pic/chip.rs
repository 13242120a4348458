//! One 8259A: a pure state machine over its registers and input wires.
//!
//! Source: Intel 8259A datasheet (order 231468): initialisation words ICW1-4, operation words
//! OCW1-3. The edge/level control register beside it is the ICH's (ICH9 datasheet, 13.4.8).
//!
//! ```text
//! Ready --ICW1--> Icw2 --ICW2--> Icw3 --ICW3--> Icw4 --ICW4--> Ready
//!                   |  single      \ no ICW4 -> Ready
//!                   +------------> Icw4, or Ready without ICW4
//! ```
//!
//! An input that is edge-triggered keeps its request after the wire has fallen: the datasheet's
//! spurious interrupt for too short a pulse is left out, so that a timer may pulse its line.

/// Which initialisation word the data port awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InitStep {
    Ready = 0,
    Icw2 = 2,
    Icw3 = 3,
    Icw4 = 4,
}

/// The registers; fields are documented in [`super::state::ChipState`].
#[derive(Debug)]
pub(super) struct Chip {
    pub(super) lines: u8,
    pub(super) irr: u8,
    pub(super) isr: u8,
    pub(super) imr: u8,
    pub(super) elcr: u8,
    pub(super) elcr_bits: u8,
    pub(super) level_triggered: bool,
    pub(super) vector_base: u8,
    pub(super) first: u8,
    pub(super) step: InitStep,
    pub(super) has_icw4: bool,
    pub(super) single: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_on_auto_eoi: bool,
    pub(super) special_nested: bool,
    pub(super) special_mask: bool,
    pub(super) poll: bool,
    pub(super) read_isr: bool,
}

/// The input that stands for "nothing was there" when an acknowledge finds no request.
const SPURIOUS: u8 = 7;

fn bit(input: u8) -> u8 {
    1 << (input & 7)
}

impl Chip {
    /// Inputs that are level-triggered.
    fn levels(&self) -> u8 {
        if self.level_triggered {
            0xff
        } else {
            self.elcr
        }
    }

    /// The wire of `input` has this level now.
    pub(super) fn set_line(&mut self, input: u8, level: bool) {
        let bit = bit(input);
        let rose = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        if self.levels() & bit != 0 {
            self.irr = (self.irr & !bit) | (self.lines & bit);
        } else if rose {
            self.irr |= bit;
        }
    }

    /// Requests of level-triggered inputs follow their wires.
    fn follow_levels(&mut self) {
        let levels = self.levels();
        self.irr = (self.irr & !levels) | (self.lines & levels);
    }

    /// Input with the highest priority among `set`, counted from the first in rotation.
    fn rank(&self, set: u8) -> u8 {
        // Rotating right by `first` puts the input of highest priority into bit 0.
        u8::try_from(set.rotate_right(u32::from(self.first)).trailing_zeros()).unwrap_or(8)
    }

    fn input_of(&self, rank: u8) -> u8 {
        self.first.wrapping_add(rank) & 7
    }

    /// The request that the output announces, if any. `cascade` is the input that a slave drives.
    pub(super) fn pending(&self, cascade: Option<u8>) -> Option<u8> {
        let request = self.rank(self.irr & !self.imr);
        if request == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_nested
            && let Some(cascade) = cascade
        {
            in_service &= !bit(cascade);
        }
        (request < self.rank(in_service)).then(|| self.input_of(request))
    }

    /// An acknowledge cycle took `input`.
    pub(super) fn take(&mut self, input: u8) {
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = input.wrapping_add(1) & 7;
            }
        } else {
            self.isr |= bit(input);
        }
        if self.levels() & bit(input) == 0 {
            self.irr &= !bit(input);
        }
    }

    /// The vector of `input`; `None` gives the spurious one.
    pub(super) fn vector(&self, input: Option<u8>) -> u8 {
        self.vector_base | (input.unwrap_or(SPURIOUS) & 7)
    }

    fn poll_result(&mut self, cascade: Option<u8>) -> u8 {
        self.poll = false;
        match self.pending(cascade) {
            Some(input) => {
                self.take(input);
                0x80 | input
            }
            None => SPURIOUS,
        }
    }

    /// Reads the command port (A0 = 0).
    pub(super) fn read_command(&mut self, cascade: Option<u8>) -> u8 {
        if self.poll {
            self.poll_result(cascade)
        } else if self.read_isr {
            self.isr
        } else {
            self.irr
        }
    }

    /// Reads the data port (A0 = 1).
    pub(super) fn read_data(&mut self, cascade: Option<u8>) -> u8 {
        if self.poll {
            self.poll_result(cascade)
        } else {
            self.imr
        }
    }

    /// Writes the command port: ICW1, OCW2 or OCW3.
    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.init(value);
        } else if value & 0x08 != 0 {
            self.ocw3(value);
        } else {
            self.ocw2(value);
        }
    }

    fn init(&mut self, icw1: u8) {
        self.has_icw4 = icw1 & 0x01 != 0;
        self.single = icw1 & 0x02 != 0;
        self.level_triggered = icw1 & 0x08 != 0;
        self.step = InitStep::Icw2;
        self.irr = 0;
        self.isr = 0;
        self.imr = 0;
        self.first = 0;
        self.auto_eoi = false;
        self.rotate_on_auto_eoi = false;
        self.special_nested = false;
        self.special_mask = false;
        self.poll = false;
        self.read_isr = false;
        self.follow_levels();
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = true;
        }
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
    }

    fn ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            command @ (1 | 5) => {
                let rank = self.rank(self.isr);
                if rank < 8 {
                    let ended = self.input_of(rank);
                    self.isr &= !bit(ended);
                    if command == 5 {
                        self.first = ended.wrapping_add(1) & 7;
                    }
                }
            }
            3 => self.isr &= !bit(input),
            6 => self.first = input.wrapping_add(1) & 7,
            7 => {
                self.isr &= !bit(input);
                self.first = input.wrapping_add(1) & 7;
            }
            _ => {}
        }
    }

    /// Writes the data port: ICW2 to ICW4, or OCW1.
    pub(super) fn write_data(&mut self, value: u8) {
        self.step = match self.step {
            InitStep::Ready => {
                self.imr = value;
                InitStep::Ready
            }
            InitStep::Icw2 => {
                self.vector_base = value & 0xf8;
                if !self.single {
                    InitStep::Icw3
                } else {
                    self.after_icw3()
                }
            }
            // The wiring of the cascade is fixed on this board.
            InitStep::Icw3 => self.after_icw3(),
            InitStep::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_nested = value & 0x10 != 0;
                InitStep::Ready
            }
        };
    }

    fn after_icw3(&self) -> InitStep {
        if self.has_icw4 {
            InitStep::Icw4
        } else {
            InitStep::Ready
        }
    }

    /// Writes the edge/level control register.
    pub(super) fn write_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_bits;
        self.follow_levels();
    }
}
