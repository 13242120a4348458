//! What an input device says of itself: the driver selects a question and reads the answer
//! (virtio 1.3 §5.8.4 and §5.8.5). Pure.

use crate::backend::display::{POSITION_MAX, code};
use vmm_api::spec::InputModel;

/// Bytes in front of the answer: what is selected, and how long the answer is.
const HEADER: usize = 8;
/// Bytes of the longest answer.
const ANSWER: usize = 128;

mod select {
    pub(super) const NAME: u8 = 1;
    pub(super) const SERIAL: u8 = 2;
    pub(super) const IDS: u8 = 3;
    pub(super) const EVENTS: u8 = 0x11;
    pub(super) const AXIS: u8 = 0x12;
}

/// Bus, vendor, product and version: a virtual device.
const BUS_VIRTUAL: u16 = 6;
const VENDOR: u16 = 0x0627;

/// The configuration space while `selected` and `sub` are selected.
pub(super) fn space(model: InputModel, id: &str, selected: u8, sub: u8) -> Vec<u8> {
    let mut answer = answer(model, id, selected, sub);
    answer.truncate(ANSWER);
    let length = u8::try_from(answer.len()).unwrap_or(0);
    let mut bytes = vec![selected, sub, length, 0, 0, 0, 0, 0];
    bytes.append(&mut answer);
    bytes.resize(HEADER + ANSWER, 0);
    bytes
}

fn answer(model: InputModel, id: &str, selected: u8, sub: u8) -> Vec<u8> {
    match (selected, sub) {
        (select::NAME, 0) => name(model).into(),
        (select::SERIAL, 0) => id.into(),
        (select::IDS, 0) => {
            let product = match model {
                InputModel::Keyboard => 1,
                InputModel::Mouse => 2,
                InputModel::Tablet => 3,
            };
            let ids = [BUS_VIRTUAL, VENDOR, product, 1];
            ids.iter().flat_map(|id: &u16| id.to_le_bytes()).collect()
        }
        (select::EVENTS, kind) => bitmap(&codes(model, kind.into())),
        (select::AXIS, axis) => {
            let axes = codes(model, code::EV_ABS);
            if !axes.contains(&axis.into()) {
                return Vec::new();
            }
            // Least, most, noise, flat part, resolution.
            let facts = [0, POSITION_MAX, 0, 0, 0];
            facts.iter().flat_map(|fact| fact.to_le_bytes()).collect()
        }
        _ => Vec::new(),
    }
}

fn name(model: InputModel) -> &'static str {
    match model {
        InputModel::Keyboard => "vm virtio keyboard",
        InputModel::Tablet => "vm virtio tablet",
        InputModel::Mouse => "vm virtio mouse",
    }
}

/// Everything of one kind that the device may say.
fn codes(model: InputModel, kind: u16) -> Vec<u16> {
    match (model, kind) {
        (InputModel::Keyboard, code::EV_KEY) => (1..=code::KEY_LAST).collect(),
        (InputModel::Keyboard, code::EV_LED) => vec![0, 1, 2],
        // The guest repeats keys; what the bit says does not matter.
        (InputModel::Keyboard, code::EV_REP) => vec![0, 1],
        (InputModel::Tablet | InputModel::Mouse, code::EV_KEY) => {
            (code::BTN_LEFT..=code::BTN_EXTRA).collect()
        }
        (InputModel::Tablet, code::EV_ABS) => vec![code::X, code::Y],
        (InputModel::Tablet, code::EV_REL) => vec![code::WHEEL],
        (InputModel::Mouse, code::EV_REL) => vec![code::X, code::Y, code::WHEEL],
        _ => Vec::new(),
    }
}

fn bitmap(codes: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for code in codes {
        let at = usize::from(code / 8);
        if bytes.len() <= at {
            bytes.resize(at + 1, 0);
        }
        if let Some(byte) = bytes.get_mut(at) {
            *byte |= 1_u8 << (code % 8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(model: InputModel, selected: u8, sub: u8) -> Vec<u8> {
        let space = space(model, "input0", selected, sub);
        assert_eq!((space[0], space[1], space.len()), (selected, sub, 136));
        space[8..8 + usize::from(space[2])].to_vec()
    }

    #[test]
    fn each_device_says_what_it_can_do() {
        use InputModel::{Keyboard, Mouse, Tablet};
        assert_eq!(read(Keyboard, 1, 0), b"vm virtio keyboard");
        assert_eq!(read(Keyboard, 2, 0), b"input0");
        assert_eq!(read(Tablet, 3, 0), [6, 0, 0x27, 6, 3, 0, 1, 0]);
        let keys = read(Keyboard, 0x11, 1);
        assert_eq!((keys.len(), keys[0], keys[31]), (32, 0xfe, 0xff));
        assert_eq!(read(Keyboard, 0x11, 0x11), [7]);
        assert_eq!(read(Tablet, 0x11, 3), [3]);
        assert_eq!(read(Tablet, 0x11, 2), [0, 1]);
        assert_eq!(read(Mouse, 0x11, 2), [3, 1]);
        let buttons = read(Mouse, 0x11, 1);
        assert_eq!((buttons.len(), buttons[34]), (35, 0x1f));
        assert_eq!(read(Tablet, 0x12, 1)[4..8], [0xff, 0x7f, 0, 0]);
        for (model, selected, sub) in [(Mouse, 0x12, 0), (Tablet, 0x12, 2), (Keyboard, 0xff, 9)] {
            assert!(read(model, selected, sub).is_empty());
        }
    }
}
