//! Limits: requests wait, are parked by a pause, are in saved state, and go on under other limits.

use super::{ADDRESS, DATA, FEATURES, RINGS, attach, blk, image, open, spec, submit};
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::block::request::status;
use crate::virtio::testing::{Driver, peek};
use vmm_api::spec::IoLimits;

/// One request in half a year: the first goes through, and nobody waits for the second.
fn limits(way: &str) -> Box<IoLimits> {
    let mut limits = IoLimits::default();
    *limits.number(&format!("{way}_bytes_sec")).expect("a name") = 1;
    Box::new(limits)
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const LARGE: u32 = 64 << 10;

#[test]
fn a_held_request_is_parked_saved_and_done_when_the_limits_are_gone() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let mut blk = blk();
    blk.limits = limits("total");
    let device = attach(&machine, &file, blk.clone());
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    let mut send = |at: u64, flags: (u32, bool)| {
        let part = (DATA + at * u64::from(LARGE), LARGE, flags.1);
        submit(&machine, &driver, &mut ring, (flags.0, at * 8), &[part])
    };
    let first = send(0, (READ, true));
    let held = [send(1, (READ, true)), send(2, (WRITE, false))];
    ring.wait_used(&machine);
    assert_eq!(peek(&machine, first, 1), [status::OK]);
    // A pause does not wait for its time.
    device.pause();
    assert_eq!(ring.used(&machine), None);
    let Saved::Sections(saved) = device.save().expect("state") else {
        panic!("a disk has state");
    };
    let text = serde_json::to_string(&saved).expect("json");
    assert!(text.contains(r#""parked":[3,6]"#), "{text}");
    device.inactivate().expect("flushed");
    // Where it is restored, it waits for the limits of there.
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    other.context.files.add(5, open(&file));
    blk.limits = limits("read");
    let spec = spec(blk);
    let restored = registry::create(&spec, &other.context, Origin::Restored(&saved));
    let restored = restored.expect("restored");
    restored.activate().expect("locks are free");
    restored.resume();
    ring.wait_used(&other);
    ring.wait_used(&other);
    for status in held {
        assert_eq!(peek(&other, status, 1), [status::OK]);
    }
}

#[test]
fn reads_do_not_wait_for_the_limits_of_writes() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let mut blk = blk();
    blk.limits = limits("write");
    let device = attach(&machine, &file, blk);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    let mut send = |at: u64, kind: u32| {
        let part = (DATA + at * u64::from(LARGE), LARGE, kind == READ);
        submit(&machine, &driver, &mut ring, (kind, at * 8), &[part])
    };
    let (first, held) = (send(0, WRITE), send(1, WRITE));
    let reads = [send(2, READ), send(3, READ)];
    for _ in 0..3 {
        ring.wait_used(&machine);
    }
    for status in [first, reads[0], reads[1]] {
        assert_eq!(peek(&machine, status, 1), [status::OK]);
    }
    assert_eq!(peek(&machine, held, 1), [0xaa]);
    // What waits hears of other limits by itself.
    assert!(device.limit(&IoLimits::default()));
    ring.wait_used(&machine);
    assert_eq!(peek(&machine, held, 1), [status::OK]);
}

/// The worker sleeps for a write that is due in half a day: only the doorbell can wake it.
#[test]
fn a_worker_that_holds_a_request_hears_the_doorbell() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let mut blk = blk();
    blk.limits = limits("write");
    let device = attach(&machine, &file, blk);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    let data = [(DATA, LARGE, false)];
    let first = submit(&machine, &driver, &mut ring, (WRITE, 0), &data);
    ring.wait_used(&machine);
    assert_eq!(peek(&machine, first, 1), [status::OK]);
    let held = submit(&machine, &driver, &mut ring, (WRITE, 8), &data);
    let mut send = |at: u64, kind: u32, parts: &[(u64, u32, bool)]| {
        let status = submit(&machine, &driver, &mut ring, (kind, at * 8), parts);
        ring.wait_used(&machine);
        assert_eq!(peek(&machine, status, 1), [status::OK]);
    };
    for at in 2..8 {
        send(at, READ, &[(DATA + u64::from(LARGE), 512, true)]);
        send(0, FLUSH, &[]);
    }
    assert_eq!(peek(&machine, held, 1), [0xaa]);
    device.pause();
    device.resume();
    send(1, READ, &[(DATA + u64::from(LARGE), 512, true)]);
    assert_eq!(peek(&machine, held, 1), [0xaa]);
}

#[test]
fn a_reset_forgets_what_is_held() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let mut blk = blk();
    blk.limits = limits("total");
    let device = attach(&machine, &file, blk);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    for at in 0..3 {
        let part = (DATA + at * u64::from(LARGE), LARGE, true);
        submit(&machine, &driver, &mut ring, (READ, at * 8), &[part]);
    }
    ring.wait_used(&machine);
    device.pause();
    device.reset();
    device.resume();
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    assert!(device.limit(&IoLimits::default()));
    let at = submit(
        &machine,
        &driver,
        &mut ring,
        (READ, 0),
        &[(DATA, 512, true)],
    );
    ring.wait_used(&machine);
    assert_eq!(peek(&machine, at, 1), [status::OK]);
}
