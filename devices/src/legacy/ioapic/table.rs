//! The redirection table: a pure state machine that answers with what is to be sent and routed.
//!
//! Source: Intel 82093AA datasheet (order 290566), 3.2.4 for the entries; version 0x20 adds the EOI
//! register (ICH9 datasheet, 13.5). One pin's life:
//!
//! ```text
//! edge:   pin rises, unmasked -> send                       (a masked edge is lost, 3.4.2)
//! level:  idle --pin high, unmasked--> send, remote IRR = 1 --eoi(vector)--> remote IRR = 0
//!           ^                                                                  |
//!           +------- pin low, or masked ------------------ pin still high: send again
//! ```
//!
//! The polarity bit is kept but not looked at: a line here is "asserted", whatever its voltage.

use super::state::IoapicState;
use crate::host::MsiMessage;

/// Pins of the IOAPIC.
pub const PINS: u32 = 24;
const SLOTS: usize = PINS as usize;

const VECTOR: u64 = 0xff;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR cannot be written.
const READ_ONLY: u64 = (1 << 12) | REMOTE_IRR;
/// Bits 17 to 55 are reserved.
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;
/// Delivery mode 7: the vector comes from the PIC, which has its own way to the processor.
const EXT_INT: u64 = 7;

/// What the table wants done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Send(MsiMessage),
    Route(u32, Option<MsiMessage>),
}

#[derive(Debug, Clone, Copy)]
struct Pin {
    entry: u64,
    /// What the host was told last.
    route: Option<MsiMessage>,
}

/// The table with the pins' levels.
#[derive(Debug)]
pub(super) struct Table {
    pins: [Pin; SLOTS],
    levels: u32,
}

/// The message that an entry stands for (Intel SDM 3A, 12.11).
fn message(entry: u64) -> MsiMessage {
    let destination = (entry >> 56) << 12;
    let logical = u64::from(entry & LOGICAL != 0) << 2;
    let level = entry & LEVEL;
    let assert = u64::from(level != 0) << 14;
    let data = (entry & 0x7ff) | level | assert;
    MsiMessage {
        address: 0xfee0_0000 | destination | logical,
        data: u32::try_from(data).unwrap_or_default(),
    }
}

impl Pin {
    fn is_level(&self) -> bool {
        self.entry & LEVEL != 0
    }

    fn is_masked(&self) -> bool {
        self.entry & MASKED != 0
    }

    fn in_service(&self) -> bool {
        self.entry & REMOTE_IRR != 0
    }

    fn fire(&self) -> Option<Action> {
        ((self.entry >> 8) & 7 != EXT_INT).then(|| Action::Send(message(self.entry)))
    }

    /// The route that the host needs: only of level-triggered pins, whose end it must report. A
    /// pin that is masked while in service keeps it, or its end would never be heard of.
    fn wanted_route(&self) -> Option<MsiMessage> {
        if !self.is_level() {
            None
        } else if !self.is_masked() {
            Some(message(self.entry))
        } else if self.in_service() {
            self.route
        } else {
            None
        }
    }
}

impl Table {
    pub(super) fn new(entries: &[u64], levels: u32) -> Self {
        let mut pins = [Pin {
            entry: MASKED,
            route: None,
        }; SLOTS];
        for (pin, entry) in pins.iter_mut().zip(entries) {
            pin.entry = entry & (WRITABLE | READ_ONLY);
        }
        Self {
            pins,
            levels: levels & ((1 << PINS) - 1),
        }
    }

    /// What must be routed after the table was made from saved state.
    pub(super) fn announce(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..PINS {
            // Masked in service: the entry is all that is known of the message.
            if let Some(pin) = self.pins.get_mut(index as usize)
                && pin.is_level()
                && pin.in_service()
            {
                let message = message(pin.entry);
                pin.route = Some(message);
                actions.push(Action::Route(index, Some(message)));
            }
            self.update_route(index, &mut actions);
        }
        actions
    }

    /// Back to power-on, levels kept: the wires belong to the devices behind them.
    pub(super) fn reset(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..PINS {
            if let Some(pin) = self.pins.get_mut(index as usize) {
                pin.entry = MASKED;
            }
            self.update_route(index, &mut actions);
        }
        actions
    }

    pub(super) fn state(&self, id: u8, select: u8) -> IoapicState {
        IoapicState {
            id,
            select,
            entries: self.pins.iter().map(|pin| pin.entry).collect(),
            levels: self.levels,
        }
    }

    /// The wire of `pin` has this level now.
    pub(super) fn set_level(&mut self, pin: u32, level: bool) -> Option<Action> {
        if pin >= PINS {
            return None;
        }
        let bit = 1 << pin;
        let rose = level && self.levels & bit == 0;
        if level {
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
        let slot = self.pins.get(pin as usize)?;
        if slot.is_level() {
            self.serve(pin)
        } else if rose && !slot.is_masked() {
            slot.fire()
        } else {
            None
        }
    }

    /// Sends for a level-triggered pin that is high, unmasked and not in service.
    fn serve(&mut self, pin: u32) -> Option<Action> {
        let high = self.levels & (1 << pin) != 0;
        let slot = self.pins.get_mut(pin as usize)?;
        if !slot.is_level() || !high || slot.is_masked() || slot.in_service() {
            return None;
        }
        let action = slot.fire()?;
        slot.entry |= REMOTE_IRR;
        Some(action)
    }

    /// A local APIC has ended the interrupt with this vector.
    pub(super) fn eoi(&mut self, vector: u8) -> Vec<Action> {
        let mut actions = Vec::new();
        for index in 0..PINS {
            let Some(pin) = self.pins.get_mut(index as usize) else {
                break;
            };
            if pin.is_level() && pin.in_service() && pin.entry & VECTOR == u64::from(vector) {
                pin.entry &= !REMOTE_IRR;
                self.update_route(index, &mut actions);
                actions.extend(self.serve(index));
            }
        }
        actions
    }

    /// Reads half an entry.
    pub(super) fn read(&self, pin: u32, high: bool) -> u32 {
        let entry = self.pins.get(pin as usize).map_or(0, |pin| pin.entry);
        let half = if high {
            entry >> 32
        } else {
            entry & 0xffff_ffff
        };
        u32::try_from(half).unwrap_or_default()
    }

    /// Writes half an entry.
    pub(super) fn write(&mut self, pin: u32, high: bool, value: u32) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(slot) = self.pins.get_mut(pin as usize) else {
            return actions;
        };
        let value = u64::from(value);
        let (kept, new) = if high {
            (slot.entry & 0xffff_ffff, value << 32)
        } else {
            (slot.entry & !0xffff_ffff, value)
        };
        slot.entry = kept | (new & WRITABLE) | (slot.entry & READ_ONLY);
        if !slot.is_level() {
            // What is edge-triggered is never in service; guests use this to force an end.
            slot.entry &= !REMOTE_IRR;
        }
        // The route goes first, so that the end of what is sent next is reported.
        self.update_route(pin, &mut actions);
        actions.extend(self.serve(pin));
        actions
    }

    fn update_route(&mut self, index: u32, actions: &mut Vec<Action>) {
        if let Some(pin) = self.pins.get_mut(index as usize) {
            let wanted = pin.wanted_route();
            if pin.route != wanted {
                pin.route = wanted;
                actions.push(Action::Route(index, wanted));
            }
        }
    }
}
