//! The balloon through the buses.

use super::device::feature;
use super::serve::{Role, role};
use crate::device::Device;
use crate::registry;
use crate::state::{Origin, Saved};
use crate::testing::{FakeMachine, clean, dirty};
use crate::virtio::testing::{Driver, NEEDS_RESET, Ring, USUAL, peek, poke};
use std::sync::Arc;
use vm_memory::GuestAddressSpace;
use vmm_api::spec::{BalloonSpec, DeviceKind, DeviceSpec, PciAddress};
use vmm_api::state::Adjustment;

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 3,
    function: 0,
};
/// RAM at 0; another MiB lies at 4 GiB.
const LOW: usize = 0x40_0000;
const RAM: u64 = LOW as u64 + (1 << 20);
/// What Linux agrees on.
const LINUX: u64 = USUAL | feature::STATISTICS | feature::REPORTING;
const QUEUES: [u16; 4] = [16; 4];
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTING: usize = 3;
/// Where requests are, and the pages that come and go.
const DATA: u64 = 0x4_0000;
const PAGES: u64 = 0x20_0000;

fn balloon(machine: &FakeMachine, part: BalloonSpec) -> Arc<dyn Device> {
    let spec = spec(part);
    registry::create(&spec, &machine.context, Origin::Fresh).expect("a balloon")
}

fn spec(part: BalloonSpec) -> DeviceSpec {
    DeviceSpec {
        id: "balloon0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioBalloon(part),
    }
}

fn reporting() -> BalloonSpec {
    BalloonSpec {
        free_page_reporting: true,
        ..BalloonSpec::default()
    }
}

/// Offers page frames and waits until they are used.
fn frames(machine: &FakeMachine, driver: &Driver<'_>, ring: &mut Ring, frames: &[u32]) {
    let bytes: Vec<u8> = frames.iter().flat_map(|f| f.to_le_bytes()).collect();
    poke(machine, DATA, &bytes);
    ring.chain(machine, &[(DATA, bytes.len() as u32, false)]);
    driver.kick(ring.index);
    ring.wait_used(machine);
}

fn fill(machine: &FakeMachine, pages: u64) {
    poke(machine, PAGES, &vec![0xaa; (pages * 4096) as usize]);
    clean(&machine.memory.memory());
}

/// Pages from [`PAGES`] on that read as zero.
fn gone(machine: &FakeMachine, pages: u64) -> Vec<u64> {
    let zero = |page: &u64| peek(machine, PAGES + page * 4096, 4096) == [0; 4096];
    (0..pages).filter(zero).collect()
}

fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}

fn sections(device: &dyn Device) -> Vec<crate::state::Section> {
    match device.save().expect("state") {
        Saved::Sections(sections) => sections,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_that_are_given_up_read_as_zero_and_are_dirty() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, BalloonSpec::default());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(USUAL, &[16, 16], 0x1_0000);
    fill(&machine, 16);
    let first = (PAGES / 4096) as u32;
    let given = [first + 9, first + 2, first + 3, first + 2, first + 4];
    frames(&machine, &driver, &mut rings[INFLATE], &given);
    assert_eq!(gone(&machine, 16), [2, 3, 4, 9]);
    let marked = dirty(&machine.memory.memory());
    for page in [2, 3, 4, 9] {
        assert!(marked.contains(&(0, (PAGES / 4096) as usize + page)));
    }
    assert!(!marked.contains(&(0, (PAGES / 4096) as usize + 5)));
    frames(&machine, &driver, &mut rings[DEFLATE], &given);
    assert_eq!(gone(&machine, 16), [2, 3, 4, 9]);
    let stats = device.stats();
    assert_eq!(stats["returned_bytes"], 4 * 4096);
    assert_eq!(
        (&stats["inflated_pages"], &stats["deflated_pages"]),
        (&4.into(), &4.into())
    );
    assert_eq!(stats["outside"], 0);
}

#[test]
fn frames_that_are_no_ram_are_ignored() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, BalloonSpec::default());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(USUAL, &[16, 16], 0x1_0000);
    fill(&machine, 2);
    let wrong = [
        0xffff_ffff,
        (LOW / 4096) as u32,
        1 << 21,
        (PAGES / 4096) as u32,
    ];
    for _ in 0..20 {
        frames(&machine, &driver, &mut rings[INFLATE], &wrong);
        frames(&machine, &driver, &mut rings[DEFLATE], &wrong);
    }
    assert_eq!(gone(&machine, 2), [0]);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
    assert!(device.stats()["outside"].as_u64() >= Some(20));
    // Neither does a request without a whole number do harm, nor one without end.
    for parts in [
        &[(DATA, 3, false)][..],
        &[(DATA, 0x1000, true)],
        &[(0x10_0000, 0x20_0000, false), (0x10_0000, 0x20_0000, false)],
    ] {
        rings[INFLATE].chain(&machine, parts);
        driver.kick(0);
        rings[INFLATE].wait_used(&machine);
    }
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}

#[test]
fn the_driver_hears_of_a_target_and_tells_how_far_it_is() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(
        &machine,
        BalloonSpec {
            target: Some(RAM - 8 * 4096),
            ..BalloonSpec::default()
        },
    );
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.config::<4>(0), 8_u32.to_le_bytes());
    driver.start(USUAL, &[16, 16], 0x1_0000);
    // The configuration has the vector behind those of the five queues.
    driver.unmask(5);
    driver.write(0x10, &5_u16.to_le_bytes());
    let generation = driver.read::<1>(0x15);
    assert!(device.adjust(Adjustment::Memory { bytes: RAM / 2 }));
    assert_eq!(driver.vector(5).wait(0), 1);
    assert_ne!(driver.read::<1>(0x15), generation);
    let wanted = (RAM / 2 / 4096) as u32;
    assert_eq!(driver.config::<4>(0), wanted.to_le_bytes());
    assert_eq!(device.held_back(), 0);
    driver.set_device_config(4, &wanted.to_le_bytes());
    assert_eq!(device.held_back(), RAM / 2);
    assert_eq!(device.stats()["actual"], RAM / 2);
    // The target is not the driver's, and it has no more than all.
    driver.set_device_config(0, &[0; 4]);
    driver.set_device_config(4, &[0xff; 4]);
    driver.set_device_config(6, &[0; 4]);
    assert_eq!(driver.config::<4>(0), wanted.to_le_bytes());
    assert_eq!(device.held_back(), RAM);
    driver.reset();
    assert_eq!(device.held_back(), 0);
    assert_eq!(driver.config::<4>(0), wanted.to_le_bytes());
    // Nobody is there to hear of it.
    assert!(device.adjust(Adjustment::Memory { bytes: RAM }));
    assert_eq!(driver.config::<4>(0), [0; 4]);
}

#[test]
fn free_pages_are_given_back_while_their_request_lasts() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, reporting());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(LINUX, &QUEUES, 0x1_0000);
    fill(&machine, 16);
    let ring = &mut rings[REPORTING];
    ring.chain(
        &machine,
        &[(PAGES, 0x2000, true), (PAGES + 0x4800, 0x2000, true)],
    );
    driver.kick(3);
    ring.wait_used(&machine);
    assert_eq!(gone(&machine, 16), [0, 1, 5]);
    assert_eq!(device.stats()["reported_bytes"], 0x4000);
    assert_eq!(device.stats()["returned_bytes"], 0x3000);
}

#[test]
fn free_pages_that_hold_a_pattern_keep_it() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, reporting());
    let driver = Driver::find(&machine, ADDRESS);
    for (poison, expected) in [(0xaaaa_aaaa_u32, &[][..]), (0, &[0])] {
        let mut rings = driver.start(LINUX | feature::POISON, &QUEUES, 0x1_0000);
        fill(&machine, 1);
        driver.set_device_config(12, &poison.to_le_bytes());
        assert_eq!(driver.config::<4>(12), poison.to_le_bytes());
        rings[REPORTING].chain(&machine, &[(PAGES, 0x1000, true)]);
        driver.kick(3);
        rings[REPORTING].wait_used(&machine);
        assert_eq!(gone(&machine, 1), expected);
    }
    assert_eq!(device.stats()["reported_bytes"], 0x2000);
}

#[test]
fn features_are_those_of_the_definition() {
    let part = BalloonSpec {
        autodeflate: true,
        ..reporting()
    };
    for (part, expected) in [
        (
            BalloonSpec::default(),
            feature::STATISTICS | feature::POISON,
        ),
        (
            part,
            feature::STATISTICS | feature::POISON | feature::REPORTING | feature::DEFLATE_ON_OOM,
        ),
    ] {
        let machine = FakeMachine::new(LOW);
        let _device = balloon(&machine, part);
        let offered = Driver::find(&machine, ADDRESS).offered();
        assert_eq!(offered & 0xff_ffff, expected);
    }
}

#[test]
fn queues_are_found_by_the_books_and_by_counting() {
    let both = feature::STATISTICS | feature::REPORTING;
    let roles = |features| [0, 1, 2, 3, 4, 5].map(|index| role(features, index));
    let (up, down) = (Some(Role::Inflate), Some(Role::Deflate));
    let (figures, free) = (Some(Role::Statistics), Some(Role::Reporting));
    assert_eq!(roles(both), [up, down, figures, free, free, None]);
    assert_eq!(
        roles(feature::REPORTING),
        [up, down, free, free, free, None]
    );
    assert_eq!(
        roles(feature::STATISTICS),
        [up, down, figures, None, None, None]
    );
    assert_eq!(roles(0), [up, down, None, None, None, None]);
}

/// A buffer with one figure, the memory that is available.
fn figure(machine: &FakeMachine, value: u64) {
    let bytes = [&5_u16.to_le_bytes()[..], &value.to_le_bytes()].concat();
    poke(machine, DATA, &bytes);
}

#[test]
fn figures_come_when_somebody_asks() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, BalloonSpec::default());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(LINUX & !feature::REPORTING, &QUEUES[..3], 0x1_0000);
    let ring = &mut rings[STATISTICS];
    let figures = || device.stats()["statistics"]["figures"].clone();
    // The first that asks finds none, and leaves word that some are wanted.
    assert_eq!(figures(), serde_json::Value::Null);
    for value in [1_u64 << 30, 2 << 30, 3 << 30] {
        figure(&machine, value);
        ring.chain(&machine, &[(DATA, 10, false)]);
        driver.kick(2);
        until(|| figures() == serde_json::json!({ "available": value }));
        // The buffer stays with the device, in the ring, and holds nobody up.
        device.pause();
        device.resume();
        device.adjust(Adjustment::StatsPeriod { seconds: 0 });
        ring.wait_used(&machine);
    }
    driver.reset();
    assert_eq!(figures(), serde_json::Value::Null);
}

#[test]
fn figures_come_by_themselves_with_a_period() {
    let machine = FakeMachine::new(LOW);
    let part = BalloonSpec {
        stats_period: 1,
        ..BalloonSpec::default()
    };
    let device = balloon(&machine, part);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(LINUX & !feature::REPORTING, &QUEUES[..3], 0x1_0000);
    for _ in 0..2 {
        rings[STATISTICS].chain(&machine, &[(DATA, 10, false)]);
        driver.kick(2);
        rings[STATISTICS].wait_used(&machine);
    }
    assert_eq!(device.stats()["statistics"]["period"], 1);
}

#[test]
fn a_driver_that_offers_many_figures_gets_the_older_ones_back() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, BalloonSpec::default());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(LINUX & !feature::REPORTING, &QUEUES[..3], 0x1_0000);
    for at in 0..8 {
        rings[STATISTICS].chain(&machine, &[(DATA + at * 64, 10, false)]);
    }
    driver.kick(2);
    for at in 0..7 {
        assert_eq!(rings[STATISTICS].wait_used(&machine).0, at);
    }
    until(|| device.stats()["statistics"]["last_update"].is_u64());
}

#[test]
fn a_balloon_goes_on_where_it_was_saved() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, reporting());
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(LINUX, &QUEUES, 0x1_0000);
    figure(&machine, 5);
    rings[STATISTICS].chain(&machine, &[(DATA, 10, false)]);
    driver.kick(2);
    until(|| device.stats()["statistics"]["last_update"].is_u64());
    device.adjust(Adjustment::Memory { bytes: RAM / 4 });
    device.adjust(Adjustment::StatsPeriod { seconds: 1000 });
    // Asked for new figures, the driver has the buffer back.
    rings[STATISTICS].wait_used(&machine);
    rings[STATISTICS].chain(&machine, &[(DATA, 10, false)]);
    driver.kick(2);
    driver.set_device_config(4, &100_u32.to_le_bytes());
    device.pause();
    let saved = sections(&*device);
    assert_eq!(sections(&*device), saved);
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    let spec = spec(reporting());
    let restored = registry::create(&spec, &other.context, Origin::Restored(&saved));
    let restored = restored.expect("restored");
    assert_eq!(sections(&*restored), saved);
    assert_eq!(restored.held_back(), 100 * 4096);
    assert_eq!(restored.stats()["target"], RAM / 4);
    restored.resume();
    fill(&other, 1);
    let driver = Driver::find(&other, ADDRESS);
    let first = (PAGES / 4096) as u32;
    frames(&other, &driver, &mut rings[INFLATE], &[first]);
    assert_eq!(gone(&other, 1), [0]);
    // Its buffer of figures is still there to be asked for.
    restored.adjust(Adjustment::StatsPeriod { seconds: 0 });
    rings[STATISTICS].wait_used(&other);
}

#[test]
fn state_of_a_larger_machine_is_refused() {
    let machine = FakeMachine::new(LOW);
    let device = balloon(&machine, BalloonSpec::default());
    device.pause();
    let mut saved = sections(&*device);
    let own = saved.iter_mut().find(|s| s.kind == "virtio-balloon");
    own.expect("its section").payload["actual"] = (RAM / 4096 + 1).into();
    let other = FakeMachine::new(LOW);
    let spec = spec(BalloonSpec::default());
    let error = registry::create(&spec, &other.context, Origin::Restored(&saved));
    let error = error.err().expect("refused").to_string();
    assert!(error.contains("the machine has 1280"), "{error}");
}
