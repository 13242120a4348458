//! A card through the buses; a datagram socket stands in for the tap.

use super::create::with_backend;
use super::device::{Backend, feature};
use crate::backend::tap::{HEADER, Tap};
use crate::device::Device;
use crate::state::{Origin, Saved};
use crate::testing::{FakeMachine, clean, dirty};
use crate::virtio::testing::{Desc, Driver, NEEDS_RESET, Ring, USUAL, WRITE, peek, poke};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_memory::GuestAddressSpace;
use vmm_api::spec::{Fd, MacAddress, NetBackend, NetSpec, PciAddress};

/// How long a worker may take for anything at all.
const DEADLINE: Duration = Duration::from_secs(60);

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < DEADLINE, "waited for this: {what}");
        std::thread::yield_now();
    }
}

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 5,
    function: 0,
};
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;
const FEATURES: u64 = USUAL | feature::MAC | feature::MERGEABLE | feature::STATUS;

fn spec(pairs: usize) -> NetSpec {
    NetSpec {
        backend: NetBackend::Taps(vec![Fd(3); pairs]),
        mac: MacAddress([0x52, 0x54, 0, 1, 2, 3]),
        mtu: Some(1400),
        link: true,
        queue_size: 64,
        boot_index: None,
    }
}

/// A card, and the other ends of its taps.
fn card(
    machine: &FakeMachine,
    spec: &NetSpec,
    origin: Origin<'_>,
) -> (Arc<dyn Device>, Vec<UnixDatagram>) {
    let mut ends = Vec::new();
    let NetBackend::Taps(fds) = &spec.backend else {
        panic!("these tests are of taps");
    };
    let taps = fds.iter().map(|_| {
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        ends.push(theirs);
        Tap::socket(OwnedFd::from(ours))
    });
    let taps = Backend::Taps(taps.collect());
    let device = with_backend("net0", ADDRESS, spec, taps, (&machine.context, origin));
    (device.expect("a card"), ends)
}

/// A frame with an empty header; its bytes tell it from others.
fn frame(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend((0..length).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)));
    bytes
}

#[test]
fn the_configuration_tells_address_mtu_and_link() {
    let machine = FakeMachine::new(0x20_0000);
    let (_device, _ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(
        driver.config::<12>(0),
        [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 0x05]
    );
    assert_eq!(driver.offered() & feature::MULTIQUEUE, 0);
    assert_ne!(driver.offered() & feature::MTU, 0);
}

#[test]
fn frames_to_the_guest_fill_as_many_buffers_as_they_need() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    for at in 0..8 {
        ring.chain(&machine, &[(DATA + at * 0x1000, 1000, true)]);
    }
    driver.kick(0);
    let memory = machine.memory.memory();
    clean(&memory);
    for (frame, buffers) in [
        (frame(500, 1), vec![512]),
        (frame(2500, 2), vec![1000, 1000, 512]),
        (frame(988, 3), vec![1000]),
    ] {
        ends[0].send(&frame).expect("send");
        let mut got = Vec::new();
        for expected in &buffers {
            let (head, length) = ring.wait_used(&machine);
            assert_eq!(length, *expected);
            let at = DATA + u64::from(head) * 0x1000;
            got.extend(peek(&machine, at, length as usize));
            assert!(dirty(&memory).contains(&(0, (at / 4096) as usize)));
        }
        assert_eq!(usize::from(got[10]), buffers.len());
        assert_eq!(got[HEADER..], frame[HEADER..]);
    }
    assert_eq!(device.stats()["rx"]["packets"], 3);
    assert_eq!(device.stats()["rx"]["bytes"], 500 + 2500 + 988);
}

#[test]
fn a_frame_waits_for_buffers_and_survives_pauses() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    ends[0].send(&frame(1500, 9)).expect("send");
    ring.chain(&machine, &[(DATA, 1000, true)]);
    driver.kick(0);
    for _ in 0..3 {
        device.pause();
        assert_eq!(ring.used(&machine), None);
        // What was taken and given back is not in flight, and not parked either.
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
}

#[test]
fn without_mergeable_buffers_a_frame_fits_or_is_dropped() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let features = FEATURES & !feature::MERGEABLE;
    let mut ring = driver.start(features, &[64, 64], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 600, true), (DATA + 0x1000, 400, true)]);
    driver.kick(0);
    ends[0].send(&frame(1000, 1)).expect("send");
    ends[0].send(&frame(988, 2)).expect("send");
    assert_eq!(ring.wait_used(&machine), (0, 1000));
    assert_eq!(peek(&machine, DATA + 10, 2), [1, 0]);
    assert_eq!(peek(&machine, DATA + 12, 1), [2], "the second one");
    assert_eq!(device.stats()["rx"]["dropped"], 1);
}

#[test]
fn frames_from_the_guest_reach_the_tap() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(1);
    for seed in 0..200_u8 {
        let bytes = frame(1200, seed);
        poke(&machine, DATA, &bytes);
        ring.chain(
            &machine,
            &[
                (DATA, 12, false),
                (DATA + 12, 700, false),
                (DATA + 712, 500, false),
            ],
        );
        driver.kick(1);
        let mut got = [0; 2000];
        assert_eq!(ends[0].recv(&mut got).expect("receive"), bytes.len());
        assert_eq!(got[..bytes.len()], bytes);
        assert_eq!(ring.wait_used(&machine).1, 0);
    }
    // Frames that are none: too short, and nothing but room to write.
    ring.chain(&machine, &[(DATA, 12, false)]);
    ring.chain(&machine, &[(DATA, 100, true)]);
    driver.kick(1);
    ring.wait_used(&machine);
    ring.wait_used(&machine);
    let stats = device.stats();
    assert_eq!(stats["tx"]["packets"], 200);
    assert_eq!(stats["tx"]["bytes"], 200 * 1200);
    assert_eq!(stats["tx"]["errors"], 2);
    let classes = stats["tx"]["latency_log2_us"].as_array().expect("classes");
    let counted: u64 = classes.iter().filter_map(serde_json::Value::as_u64).sum();
    // The last burst is counted after the driver has seen it.
    let bursts = stats["tx"]["bursts"].as_u64().expect("a number");
    assert!(counted.abs_diff(bursts) <= 1 && (200..=202).contains(&bursts));
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}

fn command(machine: &FakeMachine, driver: &Driver<'_>, ring: &mut Ring, bytes: &[u8]) -> u8 {
    poke(machine, DATA, bytes);
    poke(machine, DATA + 0x100, &[0xaa]);
    ring.chain(
        machine,
        &[(DATA, bytes.len() as u32, false), (DATA + 0x100, 1, true)],
    );
    driver.kick(ring.index);
    assert_eq!(ring.wait_used(machine).1, 1);
    peek(machine, DATA + 0x100, 1)[0]
}

#[test]
fn queue_pairs_are_chosen_over_the_control_queue_and_saved() {
    let machine = FakeMachine::new(0x40_0000);
    let spec = spec(2);
    let (device, ends) = card(&machine, &spec, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let features = FEATURES | feature::CONTROL | feature::MULTIQUEUE;
    let mut rings = driver.start(features, &[64; 5], RINGS);
    let control = &mut rings[4];
    assert_eq!(command(&machine, &driver, control, &[4, 0, 2, 0]), 0);
    assert_eq!(command(&machine, &driver, control, &[4, 0, 3, 0]), 1);
    assert_eq!(command(&machine, &driver, control, &[4, 0, 2, 0, 0]), 1);
    assert_eq!(command(&machine, &driver, control, &[1, 1]), 1);
    let ring = &mut rings[2];
    ring.chain(&machine, &[(DATA + 0x1000, 1000, true)]);
    driver.kick(2);
    ends[1].send(&frame(100, 5)).expect("send");
    assert_eq!(ring.wait_used(&machine), (0, 112));
    device.pause();
    let saved = device.save().expect("state");
    let Saved::Sections(sections) = &saved else {
        panic!("a card has state");
    };
    assert_eq!(sections[1].payload["pairs"], 2);
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let (restored, ends) = card(&other, &spec, Origin::Restored(sections));
    assert_eq!(restored.save().expect("state"), saved);
    restored.resume();
    ring.chain(&other, &[(DATA + 0x2000, 1000, true)]);
    Driver::find(&other, ADDRESS).kick(2);
    ends[1].send(&frame(50, 6)).expect("send");
    assert_eq!(ring.wait_used(&other), (1, 62));
    restored.pause();
    restored.reset();
    let Ok(Saved::Sections(sections)) = restored.save() else {
        panic!("a card has state");
    };
    assert_eq!(sections[1].payload["pairs"], 1);
}

#[test]
fn an_unplugged_cable_carries_nothing() {
    let machine = FakeMachine::new(0x20_0000);
    let mut spec = spec(1);
    spec.link = false;
    let (device, ends) = card(&machine, &spec, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.config::<1>(6), [0]);
    let mut rings = driver.start(FEATURES, &[64, 64], RINGS);
    rings[0].chain(&machine, &[(DATA, 1000, true)]);
    rings[1].chain(&machine, &[(DATA, 100, false)]);
    ends[0].send(&frame(100, 1)).expect("send");
    driver.kick(0);
    driver.kick(1);
    rings[1].wait_used(&machine);
    until("a frame is dropped", || {
        device.stats()["rx"]["dropped"] == 1
    });
    assert_eq!(rings[0].used(&machine), None);
    assert_eq!(device.stats()["tx"]["dropped"], 1);
}

#[test]
fn resets_in_the_middle_of_traffic_leave_one_reader() {
    let machine = FakeMachine::new(0x20_0000);
    let (_device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    for seed in 0..30 {
        let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
        ring.chain(&machine, &[(DATA, 1000, true)]);
        driver.kick(0);
        ends[0].send(&frame(100, seed)).expect("send");
        assert_eq!(ring.wait_used(&machine), (0, 112));
        assert_eq!(peek(&machine, DATA + 12, 1), [seed]);
        driver.reset();
    }
}

/// Lengths that are spread over what cards carry, the same in each run.
fn lengths(count: usize, most: u64) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) % most + 1) as usize
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn frames_of_all_sizes_stay_whole_and_in_order_however_scarce_buffers_are() {
    const ROOM: u32 = 700;
    let machine = FakeMachine::new(0x20_0000);
    let (device, mut ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    let lengths = lengths(300, 4000);
    let frames = lengths
        .iter()
        .zip(0_u32..)
        .map(|(length, seed)| frame(*length, seed as u8));
    let frames: Vec<Vec<u8>> = frames.collect();
    let (end, theirs) = (ends.remove(0), frames.clone());
    let sender = std::thread::spawn(move || {
        for frame in theirs {
            end.send(&frame).expect("send");
        }
    });
    // From too few for one large frame to enough for a burst.
    let at = |head: u16| DATA + u64::from(head) * 0x1000;
    let mut free: Vec<u16> = (0..64).collect();
    let mut pauses = 0;
    for (frame, number) in frames.iter().zip(0_u32..) {
        let mut left = frame.len();
        let mut got = Vec::new();
        while left > 0 {
            let wanted = number as usize % 44 + 6;
            while ring.used_index(&machine) == ring.next_used && 64 - free.len() < wanted {
                let head = free.pop().expect("there are 64");
                ring.set(&machine, head, Desc::new(at(head), ROOM, WRITE, 0));
                ring.offer(&machine, head);
                driver.kick(0);
            }
            if number % 40 == 7 && pauses < number {
                device.pause();
                device.resume();
                pauses = number;
            }
            let (head, length) = ring.wait_used(&machine);
            let head = head as u16;
            free.push(head);
            got.extend(peek(&machine, at(head), length as usize));
            left = left.saturating_sub(length as usize);
        }
        assert_eq!(
            got[10..12],
            (frame.len().div_ceil(ROOM as usize) as u16).to_le_bytes()
        );
        assert_eq!(got[HEADER..], frame[HEADER..], "frame {number}");
    }
    sender.join().expect("all were sent");
    assert_eq!(device.stats()["rx"]["dropped"], 0);
}

#[test]
fn a_dropped_frame_costs_no_buffer() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let features = FEATURES & !feature::MERGEABLE;
    let mut ring = driver.start(features, &[64, 64], RINGS).remove(0);
    for round in 0..12_u8 {
        for at in 0..4 {
            ring.chain(&machine, &[(DATA + at * 0x1000, 200, true)]);
        }
        // They are there before the card looks, so that it reads several at once.
        device.pause();
        for (large, seed) in [
            (true, 0),
            (false, 1),
            (true, 2),
            (false, 3),
            (false, 4),
            (false, 5),
        ] {
            let length = if large { 500 } else { 100 };
            ends[0]
                .send(&frame(length, round * 8 + seed))
                .expect("send");
        }
        device.resume();
        let mut heads = Vec::new();
        for seed in [1, 3, 4, 5] {
            let (head, length) = ring.wait_used(&machine);
            assert_eq!(length, 112);
            let at = DATA + u64::from(head % 4) * 0x1000;
            assert_eq!(peek(&machine, at + 12, 1), [round * 8 + seed]);
            heads.push(head);
        }
        heads.sort_unstable();
        let first = u32::from(round) * 4;
        assert_eq!(heads, [first, first + 1, first + 2, first + 3]);
    }
    assert_eq!(device.stats()["rx"]["dropped"], 24);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}

#[test]
fn what_was_no_frame_is_marked_where_it_was_written() {
    let machine = FakeMachine::new(0x20_0000);
    let (device, ends) = card(&machine, &spec(1), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64, 64], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 1000, true)]);
    driver.kick(0);
    let memory = machine.memory.memory();
    clean(&memory);
    ends[0].send(&[9; 5]).expect("send");
    until("an error is counted", || {
        device.stats()["rx"]["errors"] == 1
    });
    assert_eq!(peek(&machine, DATA, 6), [9, 9, 9, 9, 9, 0]);
    assert!(dirty(&memory).contains(&(0, (DATA / 4096) as usize)));
    assert_eq!(ring.used(&machine), None);
}

#[test]
fn frames_for_many_queues_that_all_offer_too_little_arrive_whole() {
    const PAIRS: usize = 4;
    let machine = FakeMachine::new(0x80_0000);
    let (device, ends) = card(&machine, &spec(PAIRS), Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let features = FEATURES | feature::CONTROL | feature::MULTIQUEUE;
    let mut rings = driver.start(features, &[64; 2 * PAIRS + 1], RINGS);
    let control = &mut rings[2 * PAIRS];
    assert_eq!(
        command(&machine, &driver, control, &[4, 0, PAIRS as u8, 0]),
        0
    );
    let large = |pair: usize, number: u8| frame(20_000, number * 16 + pair as u8);
    let mut free: Vec<Vec<u16>> = vec![(0..64).collect(); PAIRS];
    for (pair, end) in ends.iter().enumerate() {
        end.set_nonblocking(true).expect("a socket");
        for number in 0..3 {
            end.send(&large(pair, number)).expect("the socket has room");
        }
    }
    // Buffers of 700 bytes, 29 a frame, a few at a time, by turns.
    let at = |pair: usize, head: u16| DATA + pair as u64 * 0x8_0000 + u64::from(head) * 0x1000;
    let mut got = vec![Vec::new(); PAIRS];
    let begun = Instant::now();
    while got.iter().any(|bytes: &Vec<u8>| bytes.len() < 3 * 20_012) {
        assert!(begun.elapsed() < DEADLINE, "frames are missing");
        for pair in 0..PAIRS {
            let ring = &mut rings[pair * 2];
            for head in free[pair].drain(..) {
                ring.set(&machine, head, Desc::new(at(pair, head), 700, WRITE, 0));
                ring.offer(&machine, head);
            }
            driver.kick(ring.index);
            while let Some((head, length)) = ring.used(&machine) {
                let head = head as u16;
                free[pair].push(head);
                got[pair].extend(peek(&machine, at(pair, head), length as usize));
            }
        }
    }
    for (pair, bytes) in got.iter().enumerate() {
        for number in 0..3 {
            let bytes = &bytes[usize::from(number) * 20_012..][..20_012];
            assert_eq!(bytes[10..12], 29_u16.to_le_bytes());
            assert!(bytes[HEADER..] == large(pair, number)[HEADER..], "{pair}");
        }
    }
    assert_eq!(device.stats()["rx"]["dropped"], 0);
    driver.reset();
}
