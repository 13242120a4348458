//! Input devices through the buses, typed on through a display.

use super::device::MOVEMENTS;
use crate::backend::display::{Event, Pointer, code};
use crate::device::Device;
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, NEEDS_RESET, Ring, USUAL, peek};
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, InputModel, InputSpec, PciAddress};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 7,
    function: 0,
};
const DATA: u64 = 0x8_0000;

fn device(machine: &FakeMachine, model: InputModel, origin: Origin<'_>) -> Arc<dyn Device> {
    let spec = DeviceSpec {
        id: "input0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioInput(InputSpec { model }),
    };
    registry::create(&spec, &machine.context, origin).expect("an input device")
}

fn offer(machine: &FakeMachine, ring: &mut Ring, count: u64) {
    for _ in 0..count {
        let at = DATA + u64::from(ring.next_available % 64) * 8;
        ring.chain(machine, &[(at, 8, true)]);
    }
}

/// The next event that the guest got.
fn event(machine: &FakeMachine, ring: &mut Ring) -> Event {
    let at = DATA + u64::from(ring.next_used % 64) * 8;
    assert_eq!(ring.wait_used(machine).1, 8);
    let bytes = peek(machine, at, 8);
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let value = u32::from(half(4)) | u32::from(half(6)) << 16;
    Event::new(half(0), half(2), value)
}

fn key(key: u16, down: u32) -> Event {
    Event::new(code::EV_KEY, key, down)
}

#[test]
fn keys_come_as_groups_in_their_order_and_wait_for_buffers() {
    let machine = FakeMachine::new(0x20_0000);
    let device = device(&machine, InputModel::Keyboard, Origin::Fresh);
    let display = &machine.context.display;
    assert!(
        display.key(30, true),
        "it is plugged in, though nobody drives it"
    );
    let driver = Driver::find(&machine, ADDRESS);
    driver.set_device_config(0, &[1]);
    driver.set_device_config(1, &[0]);
    assert_eq!(driver.config::<6>(8), *b"vm vir");
    let mut ring = driver.start(USUAL, &[64, 64], 0x1_0000).remove(0);
    offer(&machine, &mut ring, 3);
    driver.kick(0);
    display.key(28, true);
    display.key(28, false);
    assert_eq!(event(&machine, &mut ring), key(28, 1));
    assert_eq!(event(&machine, &mut ring), Event::SYN);
    device.pause();
    assert_eq!(ring.used(&machine), None, "no half group");
    device.resume();
    offer(&machine, &mut ring, 1);
    driver.kick(0);
    assert_eq!(event(&machine, &mut ring), key(28, 0));
    assert_eq!(event(&machine, &mut ring), Event::SYN);
    assert_eq!(device.stats()["events"], 4);
    assert_eq!(device.stats()["events_dropped"], 2);
}

#[test]
fn a_guest_that_takes_nothing_loses_whole_groups_and_the_host_nothing() {
    let machine = FakeMachine::new(0x20_0000);
    let device = device(&machine, InputModel::Tablet, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[64, 64], 0x1_0000).remove(0);
    for x in 0..1000 {
        let pointer = Pointer {
            x,
            y: 0,
            buttons: 0,
        };
        assert!(machine.context.display.pointer(pointer));
    }
    let kept = MOVEMENTS / 3;
    assert_eq!(device.stats()["events_dropped"], (1000 - kept) * 3);
    for _ in 0..kept {
        offer(&machine, &mut ring, 3);
        driver.kick(0);
        assert_eq!(event(&machine, &mut ring).kind, code::EV_ABS);
        assert_eq!(event(&machine, &mut ring).code, code::Y);
        assert_eq!(event(&machine, &mut ring), Event::SYN);
    }
    assert_eq!(driver.status() & NEEDS_RESET, 0);
    driver.reset();
    assert_eq!(driver.status(), 0);
}

#[test]
fn lamps_are_taken() {
    let machine = FakeMachine::new(0x20_0000);
    let _device = device(&machine, InputModel::Keyboard, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[64, 64], 0x1_0000).remove(1);
    for _ in 0..200 {
        ring.chain(&machine, &[(DATA, 8, false)]);
        driver.kick(1);
        assert_eq!(ring.wait_used(&machine).1, 0);
    }
}

#[test]
fn a_restored_guest_does_not_hold_keys_for_ever() {
    let machine = FakeMachine::new(0x20_0000);
    let first = device(&machine, InputModel::Keyboard, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[64, 64], 0x1_0000).remove(0);
    offer(&machine, &mut ring, 8);
    driver.kick(0);
    machine.context.display.key(42, true);
    assert_eq!(event(&machine, &mut ring), key(42, 1));
    assert_eq!(event(&machine, &mut ring), Event::SYN);
    first.pause();
    let saved = first.save().expect("state");
    let Saved::Sections(sections) = &saved else {
        panic!("it has state");
    };
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let restored = device(&other, InputModel::Keyboard, Origin::Restored(sections));
    assert_eq!(restored.save().expect("state"), saved);
    restored.resume();
    assert_eq!(event(&other, &mut ring), key(42, 0));
    assert_eq!(event(&other, &mut ring), Event::SYN);
    restored.pause();
    let Ok(Saved::Sections(again)) = restored.save() else {
        panic!("it has state");
    };
    assert_eq!(again[1].payload["down"], serde_json::json!([]));
}
