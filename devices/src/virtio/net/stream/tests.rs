//! A card through the buses, with the other end of its socket in hand.

use super::super::create::create;
use super::super::device::feature;
use super::*;
use crate::device::Device;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, NEEDS_RESET, Ring, USUAL, peek, poke};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vmm_api::spec::{Fd, MacAddress, NetBackend, NetSpec, PciAddress};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 5,
    function: 0,
};
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;
const FEATURES: u64 = USUAL | feature::MAC | feature::MERGEABLE | feature::STATUS;

fn card_with(
    machine: &FakeMachine,
    link: bool,
    origin: Origin<'_>,
) -> (Arc<dyn Device>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    machine.context.files.add(7, ours.into());
    let mac = MacAddress([0x52, 0x54, 0, 1, 2, 3]);
    let mut spec = NetSpec::new(NetBackend::Stream(Fd(7)), mac);
    spec.link = link;
    let device = create("net0", ADDRESS, &spec, &machine.context, origin).expect("a card");
    // A test that waits for what never comes shall fail, not hang.
    let patience = Some(Duration::from_secs(60));
    theirs.set_read_timeout(patience).expect("a socket");
    (device, theirs)
}

fn card(machine: &FakeMachine) -> (Arc<dyn Device>, UnixStream) {
    card_with(machine, true, Origin::Fresh)
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at as u8).wrapping_mul(7).wrapping_add(seed);
    (0..length).map(byte).collect()
}

fn wire(frame: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

fn read_frame(socket: &mut UnixStream) -> Vec<u8> {
    let mut prefix = [0; 4];
    socket.read_exact(&mut prefix).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
    socket.read_exact(&mut frame).expect("a frame");
    frame
}

/// Offers a frame with an empty header; one byte of it tells it from others.
fn offer(machine: &FakeMachine, ring: &mut Ring, at: u64, frame: &[u8]) {
    poke(machine, at, &[0; HEADER]);
    poke(machine, at + HEADER as u64, frame);
    let (head, body) = (HEADER as u32 + 20, frame.len() as u32 - 20);
    ring.chain(
        machine,
        &[(at, head, false), (at + u64::from(head), body, false)],
    );
}

#[test]
fn nothing_that_needs_a_header_is_offered() {
    let machine = FakeMachine::new(0x20_0000);
    let (_device, _socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.offered() & feature::UNFINISHED, 0);
    let wanted = feature::MAC | feature::MERGEABLE | feature::STATUS;
    assert_eq!(driver.offered() & wanted, wanted);
    assert_eq!(driver.config::<10>(0), [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0]);
}

#[test]
fn frames_from_the_peer_fill_buffers_whatever_pieces_they_come_in() {
    let machine = FakeMachine::new(0x40_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    for at in 0..50 {
        ring.chain(&machine, &[(DATA + at * 0x1000, 2000, true)]);
    }
    driver.kick(0);
    // The longest takes 33 buffers of 2000 bytes.
    let frames = [
        frame(60, 1),
        frame(65_536, 2),
        frame(1988, 3),
        frame(1989, 4),
    ];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| wire(frame)).collect();
    let counts = [1, 33, 1, 2];
    for piece in [&bytes[..2], &bytes[2..5], &bytes[5..70], &bytes[70..]] {
        socket.write_all(piece).expect("write");
    }
    for (frame, count) in frames.iter().zip(counts) {
        let mut got = Vec::new();
        for _ in 0..count {
            let (head, length) = ring.wait_used(&machine);
            let at = DATA + u64::from(head) * 0x1000;
            got.extend(peek(&machine, at, length as usize));
        }
        assert_eq!(got[..10], [0; 10]);
        assert_eq!(got[10..12], [count, 0]);
        assert!(got[HEADER..] == frame[..], "{} bytes", frame.len());
    }
    assert_eq!(device.stats()["rx"]["packets"], 4);
    assert_eq!(device.stats()["rx"]["bytes"], bytes.len() - 4 * 4);
}

#[test]
fn frames_from_the_guest_reach_the_peer_in_their_order_also_when_it_is_slow() {
    const COUNT: usize = 2000;
    let machine = FakeMachine::new(0x40_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(1);
    let (mut offered, mut used) = (0, 0);
    // Until nothing moves any more: the socket is full, and the connection's queue.
    let mut quiet = 0;
    while offered < COUNT && quiet < 200 {
        if offered - used < 32 {
            let at = DATA + (offered as u64 % 40) * 0x1000;
            offer(&machine, &mut ring, at, &frame(1500, offered as u8));
            driver.kick(1);
            offered += 1;
        }
        match ring.used(&machine) {
            Some(_) => (used, quiet) = (used + 1, 0),
            None => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    assert!(used < offered, "a peer that does not read stops the guest");
    assert!(used * 1500 < 4 << 20, "and what waits for it is bounded");
    for number in 0..offered {
        assert!(
            read_frame(&mut socket) == frame(1500, number as u8),
            "frame {number}"
        );
    }
    while used < offered {
        ring.wait_used(&machine);
        used += 1;
    }
    assert_eq!(device.stats()["tx"]["packets"], offered);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}

#[test]
fn what_is_no_frame_is_counted_and_the_rest_goes_on() {
    let machine = FakeMachine::new(0x40_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    // Too short, nothing to read, too long.
    rings[1].chain(&machine, &[(DATA, 12, false)]);
    rings[1].chain(&machine, &[(DATA, 100, true)]);
    rings[1].chain(&machine, &[(DATA, 12 + 65_537, false)]);
    rings[0].chain(&machine, &[(DATA + 0x8_0000, 1000, true)]);
    offer(&machine, &mut rings[1], DATA, &frame(100, 9));
    driver.kick(0);
    driver.kick(1);
    for _ in 0..4 {
        assert_eq!(rings[1].wait_used(&machine).1, 0);
    }
    assert_eq!(read_frame(&mut socket), frame(100, 9));
    // From the peer: an empty one.
    socket
        .write_all(&[wire(&[]), wire(&frame(80, 3))].concat())
        .expect("write");
    assert_eq!(rings[0].wait_used(&machine), (0, 92));
    assert_eq!(device.stats()["tx"]["errors"], 3);
    assert_eq!(device.stats()["rx"]["errors"], 1);
}

#[test]
fn a_frame_waits_for_buffers_and_survives_pauses_and_resets() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    let whole = [wire(&frame(1500, 9)), wire(&frame(700, 8))].concat();
    // The second one comes in part.
    socket.write_all(&whole[..2000]).expect("write");
    ring.chain(&machine, &[(DATA, 1000, true)]);
    driver.kick(0);
    for _ in 0..3 {
        device.pause();
        assert_eq!(ring.used(&machine), None);
        let Saved::Sections(sections) = device.save().expect("state") else {
            panic!("a card has state");
        };
        assert_eq!(sections[0].payload["queues"][0]["next_available"], 0);
        device.resume();
    }
    ring.chain(&machine, &[(DATA + 0x1000, 1000, true)]);
    driver.kick(0);
    assert_eq!(ring.wait_used(&machine), (0, 1000));
    assert_eq!(ring.wait_used(&machine), (1, 512));
    driver.reset();
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 1000, true)]);
    driver.kick(0);
    socket.write_all(&whole[2000..]).expect("write");
    assert_eq!(ring.wait_used(&machine), (0, 712));
    assert!(peek(&machine, DATA + 12, 700) == frame(700, 8));
}

#[test]
fn without_mergeable_buffers_a_frame_fits_or_is_dropped() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let features = FEATURES & !feature::MERGEABLE;
    let mut ring = driver.start(features, &[64, 64], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 600, true), (DATA + 0x1000, 400, true)]);
    ring.chain(&machine, &[(DATA + 0x2000, 1000, true)]);
    driver.kick(0);
    let both = [wire(&frame(1000, 1)), wire(&frame(988, 2))].concat();
    socket.write_all(&both).expect("write");
    assert_eq!(ring.wait_used(&machine), (0, 1000));
    assert_eq!(peek(&machine, DATA + 10, 3), [1, 0, 2]);
    assert_eq!(device.stats()["rx"]["dropped"], 1);
}

/// The link goes down, and what the guest sends is dropped.
fn is_cut_off(machine: &FakeMachine, device: &Arc<dyn Device>, mut rings: Vec<Ring>) {
    let driver = Driver::find(machine, ADDRESS);
    let deadline = Instant::now() + Duration::from_secs(60);
    while driver.config::<1>(6) != [0] {
        assert!(Instant::now() < deadline, "the link stays up");
        std::thread::yield_now();
    }
    for at in 0..3 {
        offer(machine, &mut rings[1], DATA + at * 0x1000, &frame(100, 1));
        driver.kick(1);
        rings[1].wait_used(machine);
    }
    assert_eq!(driver.status() & NEEDS_RESET, 0);
    device.pause();
    assert_eq!(device.stats()["tx"]["dropped"], 3);
    device.resume();
    // It stays so for the next driver.
    driver.reset();
    driver.start(FEATURES, &[64, 64], RINGS);
    assert_eq!(driver.config::<1>(6), [0]);
}

#[test]
fn a_peer_that_leaves_takes_the_link_down_and_the_guest_lives_on() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    rings[0].chain(&machine, &[(DATA + 0x8000, 1000, true)]);
    driver.kick(0);
    socket.write_all(&wire(&frame(60, 1))).expect("write");
    drop(socket);
    assert_eq!(rings[0].wait_used(&machine), (0, 72), "its last frame came");
    is_cut_off(&machine, &device, rings);
}

#[test]
fn a_peer_that_speaks_something_else_is_left() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let rings = driver.start(FEATURES, &[64, 64], RINGS);
    socket
        .write_all(b"HTTP/1.1 400 Bad Request\r\n")
        .expect("write");
    is_cut_off(&machine, &device, rings);
    assert_eq!(socket.read(&mut [0; 1]).expect("its end"), 0);
}

#[test]
fn an_unplugged_cable_carries_nothing() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card_with(&machine, false, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.config::<1>(6), [0]);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    rings[0].chain(&machine, &[(DATA, 1000, true)]);
    offer(&machine, &mut rings[1], DATA, &frame(100, 1));
    socket.write_all(&wire(&frame(100, 1))).expect("write");
    driver.kick(0);
    driver.kick(1);
    rings[1].wait_used(&machine);
    while device.stats()["rx"]["dropped"] != 1 {
        std::thread::yield_now();
    }
    assert_eq!(rings[0].used(&machine), None);
    assert_eq!(device.stats()["tx"]["dropped"], 1);
}

#[test]
fn a_card_is_restored_on_another_connection() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, _socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 1000, true)]);
    driver.kick(0);
    device.pause();
    let saved = device.save().expect("state");
    let Saved::Sections(sections) = &saved else {
        panic!("a card has state");
    };
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let (restored, mut socket) = card_with(&other, true, Origin::Restored(sections));
    assert_eq!(restored.save().expect("state"), saved);
    socket.write_all(&wire(&frame(50, 6))).expect("write");
    restored.resume();
    assert_eq!(ring.wait_used(&other), (0, 62));
}

#[test]
fn a_restored_guest_is_told_to_look_at_its_link_again() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    driver.unmask(2);
    driver.write(0x10, &2_u16.to_le_bytes());
    drop(socket);
    machine.msis.by_data(0x42).expect("it is on").wait(0);
    assert_eq!(driver.config::<1>(6), [0]);
    device.pause();
    let Saved::Sections(sections) = device.save().expect("state") else {
        panic!("a card has state");
    };
    let [before] = driver.read::<1>(0x15);
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let (restored, mut socket) = card_with(&other, true, Origin::Restored(&sections));
    let driver = Driver::find(&other, ADDRESS);
    let vector = other.msis.by_data(0x42).expect("it is on");
    assert_eq!(vector.fired(), 0);
    restored.resume();
    assert_eq!(vector.wait(0), 1);
    assert_eq!(driver.config::<1>(6), [1]);
    assert_ne!(driver.read::<1>(0x15), [before]);
    rings[0].chain(&other, &[(DATA, 1000, true)]);
    driver.kick(0);
    socket.write_all(&wire(&frame(50, 6))).expect("write");
    assert_eq!(rings[0].wait_used(&other), (0, 62));
    // Once: the next pause is none that anything changes in.
    restored.pause();
    restored.resume();
    assert_eq!(vector.fired(), 1);
}

#[test]
fn a_peer_that_leaves_is_missed_also_while_the_guest_takes_no_frames() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut socket) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let rings = driver.start(FEATURES, &[64, 64], RINGS);
    socket.write_all(&wire(&frame(60, 1))).expect("write");
    drop(socket);
    is_cut_off(&machine, &device, rings);
}

#[test]
fn a_card_goes_on_with_another_peer() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, first) = card(&machine);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    driver.unmask(2);
    driver.write(0x10, &2_u16.to_le_bytes());
    let vector = machine.msis.by_data(0x42).expect("it is on");
    drop(first);
    assert_eq!(vector.wait(0), 1);
    assert_eq!(driver.config::<1>(6), [0]);
    assert_eq!(device.stats()["connected"], false);
    // What is no connection changes nothing.
    let (datagram, _) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
    assert!(device.connect(datagram.into()).is_err());
    assert_eq!(device.stats()["connected"], false);
    let connect = || {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let patience = Some(Duration::from_secs(60));
        theirs.set_read_timeout(patience).expect("a socket");
        device.connect(ours.into()).expect("another peer");
        theirs
    };
    let mut second = connect();
    assert_eq!(vector.wait(1), 2);
    assert_eq!(driver.config::<1>(6), [1]);
    assert_eq!(device.stats()["connected"], true);
    let mut talk = |peer: &mut UnixStream, at: u64, seed: u8| {
        rings[0].chain(&machine, &[(DATA + at, 1000, true)]);
        driver.kick(0);
        peer.write_all(&wire(&frame(50, seed))).expect("write");
        rings[0].wait_used(&machine);
        assert!(peek(&machine, DATA + at + 12, 50) == frame(50, seed));
        offer(
            &machine,
            &mut rings[1],
            DATA + 0x8000 + at,
            &frame(100, seed),
        );
        driver.kick(1);
        rings[1].wait_used(&machine);
        assert!(read_frame(peer) == frame(100, seed));
    };
    talk(&mut second, 0, 3);
    // One that is still there is left for the next.
    let mut third = connect();
    assert_eq!(second.read(&mut [0; 1]).expect("its end"), 0);
    talk(&mut third, 0x1000, 4);
    assert_eq!(driver.config::<1>(6), [1]);
    let lost = Event::CardLost {
        device: "net0".into(),
    };
    assert_eq!(*machine.requests.events.lock().unwrap(), [lost]);
}
