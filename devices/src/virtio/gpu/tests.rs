//! A graphics card through the buses, looked at through the machine's display.

use super::card::{MAX_PIECES, MAX_RESOURCES};
use super::device::{SIZES, feature};
use crate::backend::display::{Display, NO_SIGNAL, Rect};
use crate::device::Device;
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, NEEDS_RESET, Ring, USUAL, peek, poke};
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, GpuSpec, PciAddress};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 2,
    function: 0,
};
const FEATURES: u64 = USUAL | feature::EDID;
/// Where commands, answers and pictures are.
const COMMAND: u64 = 0x4_0000;
const ANSWER: u64 = 0x5_0000;
const PICTURE: u64 = 0x8_0000;
const RAM: usize = 0x40_0000;

const DONE: u32 = 0x1100;
const UNSPECIFIED: u32 = 0x1200;
const OUT_OF_MEMORY: u32 = 0x1201;
const BAD_SCANOUT: u32 = 0x1202;
const BAD_RESOURCE: u32 = 0x1203;
const BAD_PARAMETER: u32 = 0x1205;

fn card(machine: &FakeMachine, origin: Origin<'_>) -> Arc<dyn Device> {
    let spec = DeviceSpec {
        id: "video0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioGpu(GpuSpec {
            width: 800,
            height: 600,
            memory: 1 << 20,
        }),
    };
    registry::create(&spec, &machine.context, origin).expect("a graphics card")
}

/// A driver of the card.
struct Guest<'m> {
    machine: &'m FakeMachine,
    driver: Driver<'m>,
    rings: Vec<Ring>,
}

impl<'m> Guest<'m> {
    fn start(machine: &'m FakeMachine) -> Self {
        let driver = Driver::find(machine, ADDRESS);
        let rings = driver.start(FEATURES, &SIZES, 0x1_0000);
        Self {
            machine,
            driver,
            rings,
        }
    }

    fn command(&self, kind: u32, numbers: &[u32]) -> u32 {
        let head = [kind, 0, 0, 0, 0, 0];
        let all = head.iter().chain(numbers);
        let bytes: Vec<u8> = all.flat_map(|number| number.to_le_bytes()).collect();
        poke(self.machine, COMMAND, &bytes);
        bytes.len() as u32
    }

    /// The kind of the answer to a command on the control queue.
    fn ask(&mut self, kind: u32, numbers: &[u32]) -> u32 {
        let length = self.command(kind, numbers);
        self.rings[0].chain(
            self.machine,
            &[(COMMAND, length, false), (ANSWER, 2048, true)],
        );
        self.driver.kick(0);
        let (_, written) = self.rings[0].wait_used(self.machine);
        assert!(written >= 24, "an answer has a header");
        self.number(0)
    }

    fn number(&self, at: u64) -> u32 {
        let bytes = peek(self.machine, ANSWER + at, 4);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// A picture in one piece of memory.
    fn picture(&mut self, number: u32, width: u32, height: u32) {
        assert_eq!(self.ask(0x101, &[number, 2, width, height]), DONE);
        let piece = [number, 1, PICTURE as u32, 0, width * height * 4, 0];
        assert_eq!(self.ask(0x106, &piece), DONE);
    }

    /// Shows a picture of this size in which every pixel is `colour`.
    fn show(&mut self, number: u32, width: u32, height: u32, colour: u8) {
        self.picture(number, width, height);
        self.draw(number, width, height, colour);
        assert_eq!(self.ask(0x103, &[0, 0, width, height, 0, number]), DONE);
    }

    fn draw(&mut self, number: u32, width: u32, height: u32, colour: u8) {
        poke(
            self.machine,
            PICTURE,
            &vec![colour; (width * height * 4) as usize],
        );
        let all = [0, 0, width, height, 0, 0, number, 0];
        assert_eq!(self.ask(0x105, &all), DONE);
    }
}

fn pixel(display: &Display, x: u32, y: u32) -> [u8; 4] {
    let one = Rect {
        x,
        y,
        width: 1,
        height: 1,
    };
    display.copy(one).try_into().expect("a pixel")
}

#[test]
fn the_driver_learns_of_its_output() {
    let machine = FakeMachine::new(RAM);
    let _card = card(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    assert_eq!(
        guest.driver.config::<16>(0),
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(guest.ask(0x100, &[]), 0x1101);
    assert_eq!([32, 36, 40].map(|at| guest.number(at)), [800, 600, 1]);
    assert_eq!(guest.ask(0x10a, &[0, 0]), 0x1104);
    assert_eq!((guest.number(24), guest.number(32)), (128, 0xffff_ff00));
    assert_eq!(guest.ask(0x10a, &[1, 0]), BAD_SCANOUT);
}

#[test]
fn a_rectangle_is_seen_when_it_is_flushed() {
    let machine = FakeMachine::new(RAM);
    let _card = card(&machine, Origin::Fresh);
    let display = &machine.context.display;
    let viewer = display.look();
    let mut guest = Guest::start(&machine);
    guest.show(1, 320, 200, 0x11);
    assert_eq!(display.size(), (320, 200));
    let news = viewer.take().expect("news");
    assert_eq!(
        (news.size, news.rects),
        (Some((320, 200)), vec![Rect::of(320, 200)])
    );
    assert_eq!(pixel(display, 319, 199), [0x11; 4]);
    // A part of it, from the middle of the guest's memory.
    poke(&machine, PICTURE, &vec![0x22; 320 * 200 * 4]);
    let offset = (100 * 320 + 64) * 4;
    assert_eq!(guest.ask(0x105, &[64, 100, 10, 5, offset, 0, 1, 0]), DONE);
    assert!(viewer.take().is_none(), "nothing is shown before the flush");
    assert_eq!(guest.ask(0x104, &[64, 100, 10, 5, 1, 0]), DONE);
    assert!(viewer.take().is_some());
    assert_eq!(pixel(display, 64, 100), [0x22; 4]);
    assert_eq!(pixel(display, 73, 104), [0x22; 4]);
    for (x, y) in [(63, 100), (74, 100), (64, 99), (64, 105)] {
        assert_eq!(pixel(display, x, y), [0x11; 4], "{x},{y}");
    }
    // What is shown is taken away.
    assert_eq!(guest.ask(0x102, &[1, 0]), DONE);
    assert_eq!(display.size(), NO_SIGNAL);
    assert_eq!(pixel(display, 0, 0), [0; 4]);
}

#[test]
fn commands_that_cannot_be_get_an_error_and_change_nothing() {
    let machine = FakeMachine::new(RAM);
    let card = card(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    guest.show(1, 100, 100, 7);
    let big = u32::MAX;
    for (kind, numbers, expected) in [
        (0x101, &[0, 1, 8, 8][..], BAD_RESOURCE),
        (0x101, &[1, 1, 8, 8], BAD_RESOURCE),
        (0x101, &[2, 5, 8, 8], BAD_PARAMETER),
        (0x101, &[2, 1, 0, 8], BAD_PARAMETER),
        (0x101, &[2, 1, big, big], BAD_PARAMETER),
        (0x101, &[2, 1, 16384, 16], OUT_OF_MEMORY),
        (0x102, &[9, 0], BAD_RESOURCE),
        (0x103, &[0, 0, 100, 101, 0, 1], BAD_PARAMETER),
        (0x103, &[big, 0, 2, 1, 0, 1], BAD_PARAMETER),
        (0x103, &[0, 0, 0, 0, 0, 1], BAD_PARAMETER),
        (0x103, &[0, 0, 1, 1, 1, 1], BAD_SCANOUT),
        (0x104, &[1, 1, big, big, 1, 0], BAD_PARAMETER),
        (0x105, &[0, 0, 100, 100, 4, 0, 1, 0], BAD_PARAMETER),
        (0x105, &[0, 0, 100, 100, big, big, 1, 0], BAD_PARAMETER),
        (0x105, &[99, 99, 2, 1, 0, 0, 1, 0], BAD_PARAMETER),
        (0x106, &[1, 1, 0, 0, 4, 0], UNSPECIFIED),
        (0x106, &[9, 0], BAD_RESOURCE),
        (0x106, &[1, big], OUT_OF_MEMORY),
        (0x106, &[1, 2, 0, 0, 4, 0], BAD_PARAMETER),
        (0x108, &[0, 0], UNSPECIFIED),
        (0x200, &[0; 8], UNSPECIFIED),
        (0x105, &[0, 0, 1], UNSPECIFIED),
        (0, &[], UNSPECIFIED),
    ] {
        assert_eq!(guest.ask(kind, numbers), expected, "{kind:#x} {numbers:?}");
    }
    assert_eq!(pixel(&machine.context.display, 99, 99), [7; 4]);
    assert_eq!(card.stats()["bytes"], 100 * 100 * 4);
    assert_eq!(guest.driver.status() & NEEDS_RESET, 0);
    // Memory that is not there.
    assert_eq!(guest.ask(0x101, &[3, 1, 8, 8]), DONE);
    assert_eq!(guest.ask(0x106, &[3, 1, 0xf000_0000, 0, 0x1_0000, 0]), DONE);
    assert_eq!(guest.ask(0x105, &[0, 0, 8, 8, 0, 0, 3, 0]), BAD_PARAMETER);
}

#[test]
fn pictures_and_pieces_are_bounded() {
    let machine = FakeMachine::new(RAM);
    let card = card(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    for number in 1..=MAX_RESOURCES as u32 {
        assert_eq!(guest.ask(0x101, &[number, 1, 1, 1]), DONE);
    }
    assert_eq!(guest.ask(0x101, &[u32::MAX, 1, 1, 1]), OUT_OF_MEMORY);
    let many = (MAX_PIECES + 1) as u32;
    assert_eq!(guest.ask(0x106, &[1, many]), OUT_OF_MEMORY);
    guest.driver.reset();
    assert_eq!(card.stats()["bytes"], 0);
}

#[test]
fn the_pointer_looks_as_the_guest_says() {
    let machine = FakeMachine::new(RAM);
    let _card = card(&machine, Origin::Fresh);
    let display = &machine.context.display;
    let mut guest = Guest::start(&machine);
    guest.picture(5, 64, 64);
    guest.draw(5, 64, 64, 0x80);
    let mut move_cursor = |kind: u32, resource: u32, hot: u32| {
        let length = guest.command(kind, &[0, 10, 20, 0, resource, hot, 4, 0]);
        guest.rings[1].chain(&machine, &[(COMMAND, length, false)]);
        guest.driver.kick(1);
        assert_eq!(guest.rings[1].wait_used(&machine).1, 0);
    };
    move_cursor(0x300, 5, 900);
    let cursor = display.cursor().expect("a pointer");
    assert_eq!((cursor.width, cursor.height, cursor.hot), (64, 64, (63, 4)));
    assert_eq!(cursor.pixels, vec![0x80; 64 * 64 * 4]);
    move_cursor(0x301, 0, 0);
    move_cursor(0x300, 77, 0);
    assert!(display.cursor().is_some());
    move_cursor(0x300, 0, 0);
    assert!(display.cursor().is_none());
}

#[test]
fn a_wish_for_another_size_reaches_the_driver() {
    let machine = FakeMachine::new(RAM);
    let _card = card(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    let display = &machine.context.display;
    assert!(display.wish(640, 400));
    assert_eq!(guest.driver.config::<1>(0), [1]);
    assert_eq!(guest.ask(0x100, &[]), 0x1101);
    assert_eq!([32, 36].map(|at| guest.number(at)), [640, 400]);
    guest.driver.set_device_config(4, &1_u32.to_le_bytes());
    assert_eq!(guest.driver.config::<1>(0), [0]);
    // As much as the card has no memory for is not asked of the guest.
    display.wish(4000, 4000);
    assert_eq!(guest.driver.config::<1>(0), [0]);
}

#[test]
fn a_restored_card_shows_what_it_showed() {
    let machine = FakeMachine::new(RAM);
    let first = card(&machine, Origin::Fresh);
    let mut guest = Guest::start(&machine);
    guest.show(1, 300, 200, 0x33);
    guest.picture(2, 64, 64);
    first.pause();
    let saved = first.save().expect("state");
    assert_eq!(saved, first.save().expect("state"));
    let Saved::Sections(sections) = &saved else {
        panic!("it has state");
    };
    let length = sections[1].payload.to_string().len();
    assert!(length < 8192, "{length} bytes for one colour");
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let second = card(&other, Origin::Restored(sections));
    assert_eq!(second.save().expect("state"), saved);
    assert_eq!(other.context.display.size(), (300, 200));
    assert_eq!(pixel(&other.context.display, 299, 199), [0x33; 4]);
    second.resume();
    let mut guest = Guest {
        machine: &other,
        driver: Driver::find(&other, ADDRESS),
        rings: guest.rings,
    };
    guest.draw(1, 300, 200, 0x44);
    assert_eq!(guest.ask(0x104, &[0, 0, 300, 200, 1, 0]), DONE);
    assert_eq!(pixel(&other.context.display, 0, 0), [0x44; 4]);
    // Pixels that do not fit their picture are refused.
    let mut spoilt = sections.clone();
    spoilt[1].payload["resources"][0]["height"] = 100.into();
    let third = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let spec = DeviceSpec {
        id: "video0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioGpu(GpuSpec::default()),
    };
    let refused = registry::create(&spec, &third.context, Origin::Restored(&spoilt));
    assert!(
        refused
            .err()
            .expect("a refusal")
            .to_string()
            .contains("unpack")
    );
}
