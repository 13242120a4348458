//! Entropy through the buses.

use crate::device::Device;
use crate::registry::{self, CreateError};
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, USUAL, peek, poke};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, Fd, PciAddress, RngSpec};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 3,
    function: 0,
};

fn spec(rate: Option<(u64, u32)>) -> DeviceSpec {
    DeviceSpec {
        id: "rng0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioRng(RngSpec {
            source: Fd(7),
            rate_bytes: rate.map(|(bytes, _)| bytes),
            period_ms: rate.map(|(_, period)| period),
        }),
    }
}

fn rng(machine: &FakeMachine, source: OwnedFd, rate: Option<(u64, u32)>) -> Arc<dyn Device> {
    machine.context.files.add(7, source);
    registry::create(&spec(rate), &machine.context, Origin::Fresh).expect("an entropy device")
}

fn urandom() -> OwnedFd {
    std::fs::File::open("/dev/urandom").expect("urandom").into()
}

#[test]
fn requests_are_filled_and_signalled() {
    let machine = FakeMachine::new(0x20_0000);
    let device = rng(&machine, urandom(), None);
    let driver = Driver::find(&machine, ADDRESS);
    assert!(machine.msis.live().is_empty() && machine.doorbells.live().is_empty());
    let mut ring = driver.start(USUAL, &[8], 0x1_0000).remove(0);
    for round in 0..40_u32 {
        poke(&machine, 0x4_0000, &[0; 0x2000]);
        let head = ring.chain(&machine, &[(0x4_0000, 16, true), (0x4_1000, 48, true)]);
        driver.kick(0);
        driver.vector(0).wait(round);
        assert_eq!(ring.wait_used(&machine), (u32::from(head), 64));
        assert_ne!(peek(&machine, 0x4_0000, 16), [0; 16]);
        assert_ne!(peek(&machine, 0x4_1000, 48), [0; 48]);
    }
    assert_eq!(device.stats()["bytes"], 40 * 64);
}

#[test]
fn a_big_request_gets_a_chunk() {
    let machine = FakeMachine::new(0x20_0000);
    let _device = rng(&machine, urandom(), None);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[8], 0x1_0000).remove(0);
    ring.chain(&machine, &[(0x4_0000, 0x1_0000, true)]);
    driver.kick(0);
    assert_eq!(ring.wait_used(&machine).1, super::device::CHUNK as u32);
}

#[test]
fn a_dry_source_holds_up_neither_pause_nor_reset() {
    let machine = FakeMachine::new(0x20_0000);
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    let device = rng(&machine, reader.into(), None);
    let driver = Driver::find(&machine, ADDRESS);
    for _ in 0..3 {
        let mut ring = driver.start(USUAL, &[8], 0x1_0000).remove(0);
        ring.chain(&machine, &[(0x4_0000, 8, true)]);
        driver.kick(0);
        device.pause();
        device.resume();
        assert_eq!(ring.used(&machine), None);
        driver.reset();
        assert!(machine.doorbells.live().is_empty());
    }
    let mut ring = driver.start(USUAL, &[8], 0x1_0000).remove(0);
    ring.chain(&machine, &[(0x4_0000, 8, true)]);
    driver.kick(0);
    writer.write_all(b"12345678").expect("write");
    assert_eq!(ring.wait_used(&machine), (0, 8));
    assert_eq!(peek(&machine, 0x4_0000, 8), b"12345678");
}

#[test]
fn a_request_offered_while_paused_is_served_after_a_restore() {
    let machine = FakeMachine::new(0x20_0000);
    let device = rng(&machine, urandom(), None);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[8], 0x1_0000).remove(0);
    ring.chain(&machine, &[(0x4_0000, 8, true)]);
    driver.kick(0);
    ring.wait_used(&machine);
    device.pause();
    let head = ring.chain(&machine, &[(0x4_0000, 8, true)]);
    driver.kick(0);
    let Saved::Sections(saved) = device.save().expect("state") else {
        panic!("an entropy device has a transport");
    };
    assert_eq!(
        device.save().expect("state"),
        Saved::Sections(saved.clone())
    );
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    other.context.files.add(7, urandom());
    let restored =
        registry::create(&spec(None), &other.context, Origin::Restored(&saved)).expect("restored");
    assert_eq!(restored.save().expect("state"), Saved::Sections(saved));
    assert_eq!(ring.used(&other), None);
    restored.resume();
    assert_eq!(ring.wait_used(&other), (u32::from(head), 8));
}

#[test]
fn a_missing_source_is_named_and_nothing_stays_behind() {
    let machine = FakeMachine::new(0x20_0000);
    let error = registry::create(&spec(None), &machine.context, Origin::Fresh);
    assert!(matches!(error, Err(CreateError::File { .. })));
    let device = rng(&machine, urandom(), None);
    drop(device);
    assert_eq!(machine.config::<4>(ADDRESS, 0), [0xff; 4]);
    let _again = rng(&machine, urandom(), None);
}
