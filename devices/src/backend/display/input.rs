//! What is typed and pointed, on its way from viewers to the input devices of the guest.

use std::sync::Weak;
use vmm_api::spec::InputModel;

/// Types and codes of Linux input events, as far as they are used here (virtio 1.3 §5.8 takes them
/// as they are).
pub mod code {
    /// Ends a group of events.
    pub const EV_SYN: u16 = 0;
    /// Keys and buttons.
    pub const EV_KEY: u16 = 1;
    /// Movements.
    pub const EV_REL: u16 = 2;
    /// Positions.
    pub const EV_ABS: u16 = 3;
    /// Lamps of a keyboard.
    pub const EV_LED: u16 = 0x11;
    /// The guest repeats keys that are held.
    pub const EV_REP: u16 = 0x14;
    /// Horizontal.
    pub const X: u16 = 0;
    /// Vertical.
    pub const Y: u16 = 1;
    /// The wheel, in `EV_REL`.
    pub const WHEEL: u16 = 8;
    /// The left button; right, middle, side and extra follow.
    pub const BTN_LEFT: u16 = 0x110;
    /// The right button.
    pub const BTN_RIGHT: u16 = 0x111;
    /// The middle button.
    pub const BTN_MIDDLE: u16 = 0x112;
    /// The last button.
    pub const BTN_EXTRA: u16 = 0x114;
    /// The highest key that a keyboard has.
    pub const KEY_LAST: u16 = 0xff;
}

/// Largest value of a position of a tablet: the whole picture, whatever its size.
pub const POSITION_MAX: u32 = 0x7fff;

/// One event, as Linux has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// `EV_*`.
    pub kind: u16,
    /// What of that kind.
    pub code: u16,
    /// Pressed, moved or where; negative numbers as two's complement.
    pub value: u32,
}

impl Event {
    /// The end of a group.
    pub const SYN: Self = Self::new(code::EV_SYN, 0, 0);

    /// An event.
    pub const fn new(kind: u16, code: u16, value: u32) -> Self {
        Self { kind, code, value }
    }
}

/// An input device of the guest.
pub trait InputSink: Send + Sync {
    /// What it is.
    fn model(&self) -> InputModel;
    /// Takes a group of events that ends in [`Event::SYN`], whole or not at all. Never waits.
    fn group(&self, events: &[Event]);
}

/// Where a pointer is and what is pressed, as RFB has it: bits 0 to 2 are left, middle and right, 3
/// and 4 the wheel up and down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pointer {
    /// Column of the picture.
    pub x: u32,
    /// Row of the picture.
    pub y: u32,
    /// Buttons.
    pub buttons: u8,
}

const BUTTONS: [(u8, u16); 3] = [
    (1, code::BTN_LEFT),
    (2, code::BTN_MIDDLE),
    (4, code::BTN_RIGHT),
];
const WHEEL_UP: u8 = 8;
const WHEEL_DOWN: u8 = 16;

/// The input devices that there are.
#[derive(Default)]
pub(super) struct Inputs {
    sinks: Vec<Weak<dyn InputSink>>,
    last: Pointer,
}

impl Inputs {
    pub(super) fn add(&mut self, sink: Weak<dyn InputSink>) {
        self.sinks.retain(|sink| sink.strong_count() > 0);
        self.sinks.push(sink);
    }

    /// The first device of this model.
    pub(super) fn find(&self, model: InputModel) -> Option<std::sync::Arc<dyn InputSink>> {
        let mut sinks = self.sinks.iter().filter_map(Weak::upgrade);
        sinks.find(|sink| sink.model() == model)
    }

    /// Where the pointer was last.
    pub(super) fn last(&self) -> Pointer {
        self.last
    }

    /// The events of a pointer that has moved in a picture of this size, for a tablet or a mouse.
    pub(super) fn pointer(&mut self, now: Pointer, size: (u32, u32), absolute: bool) -> Vec<Event> {
        let before = std::mem::replace(&mut self.last, now);
        let mut events = Vec::new();
        if absolute {
            for (axis, at, whole) in [(code::X, now.x, size.0), (code::Y, now.y, size.1)] {
                events.push(Event::new(code::EV_ABS, axis, position(at, whole)));
            }
        } else {
            for (axis, at, was) in [(code::X, now.x, before.x), (code::Y, now.y, before.y)] {
                if at != was {
                    events.push(Event::new(code::EV_REL, axis, at.wrapping_sub(was)));
                }
            }
        }
        let changed = now.buttons ^ before.buttons;
        for (bit, button) in BUTTONS {
            if changed & bit != 0 {
                let down = u32::from(now.buttons & bit != 0);
                events.push(Event::new(code::EV_KEY, button, down));
            }
        }
        for (bit, step) in [(WHEEL_UP, 1), (WHEEL_DOWN, u32::MAX)] {
            if changed & now.buttons & bit != 0 {
                events.push(Event::new(code::EV_REL, code::WHEEL, step));
            }
        }
        events.push(Event::SYN);
        events
    }
}

/// A column or row of a picture as a tablet says it.
fn position(at: u32, whole: u32) -> u32 {
    let last = u64::from(whole.saturating_sub(1).max(1));
    let scaled = u64::from(at) * u64::from(POSITION_MAX) / last;
    u32::try_from(scaled).unwrap_or(u32::MAX).min(POSITION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_becomes_positions_buttons_and_turns_of_the_wheel() {
        let mut inputs = Inputs::default();
        let at = |x, y, buttons| Pointer { x, y, buttons };
        let events = inputs.pointer(at(799, 0, 1), (800, 600), true);
        assert_eq!(
            events,
            [
                Event::new(code::EV_ABS, code::X, POSITION_MAX),
                Event::new(code::EV_ABS, code::Y, 0),
                Event::new(code::EV_KEY, code::BTN_LEFT, 1),
                Event::SYN,
            ]
        );
        let events = inputs.pointer(at(789, 5, 16), (800, 600), false);
        assert_eq!(
            events,
            [
                Event::new(code::EV_REL, code::X, (-10_i32) as u32),
                Event::new(code::EV_REL, code::Y, 5),
                Event::new(code::EV_KEY, code::BTN_LEFT, 0),
                Event::new(code::EV_REL, code::WHEEL, u32::MAX),
                Event::SYN,
            ]
        );
        // Nothing of a picture, and outside of it.
        assert_eq!(position(7, 0), POSITION_MAX);
        assert_eq!(position(u32::MAX, 640), POSITION_MAX);
    }
}
