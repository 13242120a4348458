//! The 8042 and an MF2 keyboard behind it: a pure state machine.
//!
//! Source: the Intel 8042 as IBM's PC/AT and PS/2 technical references program it. There is a
//! keyboard on which nobody types, so that drivers find at once what they look for, and no mouse:
//! the test of its interface reports a stuck line, and commands to it are refused at once.

use super::state::I8042State;
use std::collections::VecDeque;

/// Bytes that the keyboard keeps.
const QUEUE: usize = 16;

mod status {
    pub(super) const OUTPUT_FULL: u8 = 0x01;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const COMMAND: u8 = 0x08;
    pub(super) const UNLOCKED: u8 = 0x10;
    pub(super) const AUX: u8 = 0x20;
}

mod command_byte {
    pub(super) const KEYBOARD_IRQ: u8 = 0x01;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const KEYBOARD_OFF: u8 = 0x10;
    pub(super) const AUX_OFF: u8 = 0x20;
    pub(super) const TRANSLATE: u8 = 0x40;
    /// As firmware leaves it.
    pub(super) const FRESH: u8 = KEYBOARD_IRQ | SYSTEM | AUX_OFF | TRANSLATE;
}

mod keyboard {
    pub(super) const ACK: u8 = 0xfa;
    pub(super) const RESEND: u8 = 0xfe;
    pub(super) const PASSED: u8 = 0xaa;
}

/// Bits of the output port: not-reset, A20.
const NOT_RESET: u8 = 0x01;
const A20: u8 = 0x02;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Reset,
}

/// The controller; fields are documented in [`I8042State`].
#[derive(Debug)]
pub(super) struct Controller {
    command_byte: u8,
    output: Option<u8>,
    output_is_aux: bool,
    last_was_command: bool,
    awaits: Option<u8>,
    output_port: u8,
    queue: VecDeque<u8>,
    keyboard_awaits: Option<u8>,
    scan_set: u8,
    last_sent: u8,
}

impl Controller {
    pub(super) fn new() -> Self {
        Self {
            command_byte: command_byte::FRESH,
            output: None,
            output_is_aux: false,
            last_was_command: false,
            awaits: None,
            output_port: NOT_RESET | A20,
            queue: VecDeque::new(),
            keyboard_awaits: None,
            scan_set: 2,
            last_sent: 0,
        }
    }

    pub(super) fn from_state(state: &I8042State) -> Self {
        Self {
            command_byte: state.command_byte,
            output: state.output,
            output_is_aux: state.output_is_aux,
            last_was_command: state.last_was_command,
            awaits: state.awaits,
            output_port: state.output_port | NOT_RESET,
            queue: state.queue.iter().copied().take(QUEUE).collect(),
            keyboard_awaits: state.keyboard_awaits,
            scan_set: state.scan_set.clamp(1, 3),
            last_sent: state.last_sent,
        }
    }

    pub(super) fn state(&self) -> I8042State {
        I8042State {
            command_byte: self.command_byte,
            output: self.output,
            output_is_aux: self.output_is_aux,
            last_was_command: self.last_was_command,
            awaits: self.awaits,
            output_port: self.output_port,
            queue: self.queue.iter().copied().collect(),
            keyboard_awaits: self.keyboard_awaits,
            scan_set: self.scan_set,
            last_sent: self.last_sent,
        }
    }

    /// The level of the keyboard's interrupt.
    pub(super) fn irq(&self) -> bool {
        self.output.is_some()
            && !self.output_is_aux
            && self.command_byte & command_byte::KEYBOARD_IRQ != 0
    }

    /// Moves the keyboard's next byte into the output buffer when that is free.
    pub(super) fn fill(&mut self) {
        let on = self.command_byte & command_byte::KEYBOARD_OFF == 0;
        if self.output.is_none()
            && on
            && let Some(byte) = self.queue.pop_front()
        {
            self.last_sent = byte;
            self.answer(byte);
        }
    }

    /// Puts a byte into the output buffer; what the guest did not fetch is overwritten, as in the
    /// chip.
    fn answer(&mut self, byte: u8) {
        self.output = Some(byte);
        self.output_is_aux = false;
    }

    fn queue(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.queue.len() < QUEUE {
                self.queue.push_back(*byte);
            }
        }
        self.fill();
    }

    /// Reads port 0x60 and leaves the buffer empty: [`Controller::fill`] follows once the interrupt
    /// line has fallen. An empty buffer gives the keyboard's last byte.
    pub(super) fn read_data(&mut self) -> u8 {
        self.output_is_aux = false;
        self.output.take().unwrap_or(self.last_sent)
    }

    /// Reads port 0x64.
    pub(super) fn read_status(&self) -> u8 {
        let mut status = status::UNLOCKED;
        let bits = [
            (self.output.is_some(), status::OUTPUT_FULL),
            (self.output_is_aux, status::AUX),
            (
                self.command_byte & command_byte::SYSTEM != 0,
                status::SYSTEM,
            ),
            (self.last_was_command, status::COMMAND),
        ];
        for (set, bit) in bits {
            if set {
                status |= bit;
            }
        }
        status
    }

    /// Writes port 0x64.
    pub(super) fn write_command(&mut self, command: u8) -> Effect {
        self.last_was_command = true;
        self.awaits = None;
        match command {
            0x20 => self.answer(self.command_byte),
            0x60 | 0xd1..=0xd4 => self.awaits = Some(command),
            0xa7 => self.command_byte |= command_byte::AUX_OFF,
            0xa8 => self.command_byte &= !command_byte::AUX_OFF,
            // The mouse's clock line is stuck: there is none.
            0xa9 => self.answer(0x02),
            0xaa => {
                self.command_byte |= command_byte::SYSTEM;
                self.answer(0x55);
            }
            0xab => self.answer(0x00),
            0xad => self.command_byte |= command_byte::KEYBOARD_OFF,
            0xae => {
                self.command_byte &= !command_byte::KEYBOARD_OFF;
                self.fill();
            }
            // Input port: not locked, no manufacturing jumper.
            0xc0 => self.answer(0xa0),
            0xd0 => self.answer(self.output_port),
            // Pulses the lines whose bit is 0; line 0 is reset.
            0xf0..=0xff if command & 1 == 0 => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }

    /// Writes port 0x60.
    pub(super) fn write_data(&mut self, byte: u8) -> Effect {
        self.last_was_command = false;
        match self.awaits.take() {
            Some(0x60) => {
                self.command_byte = byte;
                self.fill();
            }
            Some(0xd1) => return self.write_output_port(byte),
            // As if from the keyboard; and as if from a mouse, which nobody has: the answer lacks
            // the mark of one.
            Some(0xd2 | 0xd3) => self.answer(byte),
            Some(0xd4) => {
                self.answer(keyboard::RESEND);
                self.output_is_aux = true;
            }
            _ => {
                self.command_byte &= !command_byte::KEYBOARD_OFF;
                self.keyboard(byte);
            }
        }
        Effect::None
    }

    fn write_output_port(&mut self, byte: u8) -> Effect {
        self.output_port = byte | NOT_RESET;
        if byte & NOT_RESET == 0 {
            Effect::Reset
        } else {
            Effect::None
        }
    }

    /// Reads port 0x92. A20 is remembered and has no effect: the processors ignore it.
    pub(super) fn read_fast(&self) -> u8 {
        self.output_port & A20
    }

    /// Writes port 0x92.
    pub(super) fn write_fast(&mut self, value: u8) -> Effect {
        self.output_port = (self.output_port & !A20) | (value & A20);
        if value & 1 != 0 {
            Effect::Reset
        } else {
            Effect::None
        }
    }

    /// A byte reaches the keyboard.
    fn keyboard(&mut self, byte: u8) {
        use keyboard::{ACK, PASSED, RESEND};
        match (self.keyboard_awaits.take(), byte) {
            // Scan code set: 0 asks which it is.
            (Some(0xf0), 0) => self.queue(&[ACK, self.translated(self.scan_set)]),
            (Some(0xf0), 1..=3) => {
                self.scan_set = byte;
                self.queue(&[ACK]);
            }
            (Some(0xf0), _) => self.queue(&[RESEND]),
            // Lights, repeat rate: nobody sees them.
            (Some(_), _) => self.queue(&[ACK]),
            (None, 0xed | 0xf0 | 0xf3) => {
                self.keyboard_awaits = Some(byte);
                self.queue(&[ACK]);
            }
            (None, 0xee) => self.queue(&[0xee]),
            (None, 0xf2) => self.queue(&[ACK, 0xab, self.translated(0x83)]),
            (None, 0xf4..=0xfd) => self.queue(&[ACK]),
            (None, 0xfe) => self.queue(&[self.last_sent]),
            (None, 0xff) => {
                self.queue.clear();
                self.scan_set = 2;
                self.queue(&[ACK, PASSED]);
            }
            (None, _) => self.queue(&[RESEND]),
        }
    }

    /// What becomes of the keyboard's bytes when the controller translates them to set 1.
    fn translated(&self, byte: u8) -> u8 {
        if self.command_byte & command_byte::TRANSLATE == 0 {
            return byte;
        }
        match byte {
            2 | 0x83 => 0x41,
            1 => 0x43,
            3 => 0x3f,
            other => other,
        }
    }
}
