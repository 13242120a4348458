//! Neighbours that become one transfer, and what is left of them when it fails.

use super::{ADDRESS, DATA, FEATURES, RINGS, attach, blk, faulty, image, submit};
use crate::testing::{FakeMachine, clean, dirty};
use crate::virtio::block::request::status;
use crate::virtio::testing::{Driver, peek, poke};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use vm_memory::GuestAddressSpace;
use vmm_api::spec::ErrorPolicy;

const COUNT: u64 = 32;

#[test]
fn neighbours_are_answered_and_counted_by_themselves() {
    let (machine, file) = (FakeMachine::new(0x40_0000), image());
    let device = attach(&machine, &file, blk());
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[128], RINGS).remove(0);
    let memory = machine.memory.memory();
    let mut rounds = 0;
    // Whether the worker takes them together is a matter of time: some time it does.
    while device.stats()["merged"].as_u64() < Some(COUNT) {
        rounds += 1;
        clean(&memory);
        device.pause();
        for at in 0..COUNT {
            let part = (DATA + at * 4096, 512, true);
            submit(&machine, &driver, &mut ring, (0, 100 + at), &[part]);
        }
        device.resume();
        for _ in 0..COUNT {
            assert_eq!(ring.wait_used(&machine).1, 513);
        }
        for at in 0..COUNT {
            let place = DATA + at * 4096;
            assert_eq!(peek(&machine, place, 8), (100 + at).to_le_bytes());
            assert!(dirty(&memory).contains(&(0, (place / 4096) as usize)));
        }
    }
    let stats = device.stats();
    assert_eq!(stats["read"]["requests"], rounds * COUNT);
    assert_eq!(stats["read"]["bytes"], rounds * COUNT * 512);
}

#[test]
fn writes_of_neighbours_reach_the_image_in_one_and_in_order() {
    let (machine, file) = (FakeMachine::new(0x40_0000), image());
    let device = attach(&machine, &file, blk());
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[128], RINGS).remove(0);
    device.pause();
    for at in 0..COUNT {
        let place = DATA + at * 4096;
        poke(&machine, place, &[at as u8 + 1; 1024]);
        submit(
            &machine,
            &driver,
            &mut ring,
            (1, 200 + at * 2),
            &[(place, 1024, false)],
        );
    }
    device.resume();
    for _ in 0..COUNT {
        assert_eq!(ring.wait_used(&machine).1, 1);
    }
    let bytes = std::fs::read(file.path()).expect("the image");
    for at in 0..COUNT as usize {
        let from = (200 + at * 2) * 512;
        assert_eq!(bytes[from..from + 1024], [at as u8 + 1; 1024]);
    }
}

#[test]
fn a_transfer_that_fails_is_done_again_one_by_one() {
    let machine = FakeMachine::new(0x40_0000);
    let errno = Arc::new(AtomicI32::new(libc::EIO));
    let (device, _storage) = faulty(&machine, ErrorPolicy::Report, &errno);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[128], RINGS).remove(0);
    device.pause();
    let places: Vec<u64> = (0..8)
        .map(|at| submit(&machine, &driver, &mut ring, (1, at), &[(DATA, 512, false)]))
        .collect();
    device.resume();
    for _ in &places {
        ring.wait_used(&machine);
    }
    for place in places {
        assert_eq!(peek(&machine, place, 1), [status::IOERR]);
    }
    assert_eq!(device.stats()["write"]["errors"], 8);
    errno.store(0, Ordering::SeqCst);
}
