//! What is saved of the PICs: every flip-flop of both chips, as the Intel 8259A datasheet names them.

use super::chip::{Chip, InitStep};
use serde::{Deserialize, Serialize};

/// Section kind.
pub const KIND: &str = "pic";
/// Version of [`PicState`].
pub const VERSION: u32 = 1;

/// Both chips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    /// Ports 0x20, 0x21, 0x4d0.
    pub master: ChipState,
    /// Ports 0xa0, 0xa1, 0x4d1.
    pub slave: ChipState,
}

/// One 8259A and its edge/level register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipState {
    /// Levels of the input wires.
    pub lines: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// In-service register.
    pub isr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// Edge/level control register: set bits are level-triggered.
    pub elcr: u8,
    /// ICW1's LTIM: all inputs are level-triggered.
    pub level_triggered: bool,
    /// Upper five bits of the vectors.
    pub vector_base: u8,
    /// The input with the highest priority.
    pub first: u8,
    /// Which initialisation word is awaited: 0 none, 2 to 4 for ICW2 to ICW4.
    pub awaits: u8,
    /// ICW1 announced an ICW4.
    pub has_icw4: bool,
    /// ICW1 said that there is no slave.
    pub single: bool,
    /// ICW4: end of interrupt is automatic.
    pub auto_eoi: bool,
    /// OCW2: priorities rotate with automatic end of interrupt.
    pub rotate_on_auto_eoi: bool,
    /// ICW4: special fully nested mode.
    pub special_nested: bool,
    /// OCW3: special mask mode.
    pub special_mask: bool,
    /// OCW3: the next read is a poll.
    pub poll: bool,
    /// OCW3: the command port reads the ISR instead of the IRR.
    pub read_isr: bool,
}

impl From<&Chip> for ChipState {
    fn from(chip: &Chip) -> Self {
        Self {
            lines: chip.lines,
            irr: chip.irr,
            isr: chip.isr,
            imr: chip.imr,
            elcr: chip.elcr,
            level_triggered: chip.level_triggered,
            vector_base: chip.vector_base,
            first: chip.first,
            awaits: chip.step as u8,
            has_icw4: chip.has_icw4,
            single: chip.single,
            auto_eoi: chip.auto_eoi,
            rotate_on_auto_eoi: chip.rotate_on_auto_eoi,
            special_nested: chip.special_nested,
            special_mask: chip.special_mask,
            poll: chip.poll,
            read_isr: chip.read_isr,
        }
    }
}

impl ChipState {
    /// The chip in this state; bits that no chip can have are dropped. `elcr_bits` are the inputs
    /// that this chip's ELCR can switch.
    pub(super) fn chip(&self, elcr_bits: u8) -> Chip {
        Chip {
            lines: self.lines,
            irr: self.irr,
            isr: self.isr,
            imr: self.imr,
            elcr: self.elcr & elcr_bits,
            elcr_bits,
            level_triggered: self.level_triggered,
            vector_base: self.vector_base & 0xf8,
            first: self.first & 7,
            step: match self.awaits {
                2 => InitStep::Icw2,
                3 => InitStep::Icw3,
                4 => InitStep::Icw4,
                _ => InitStep::Ready,
            },
            has_icw4: self.has_icw4,
            single: self.single,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            special_nested: self.special_nested,
            special_mask: self.special_mask,
            poll: self.poll,
            read_isr: self.read_isr,
        }
    }
}
