//! The transport through the buses, on a device that does what a test tells it.

mod hostile;

use super::transport::OFTEN;
use super::*;
use crate::host::DoorbellAddress;
use crate::testing::FakeMachine;
use crate::virtio::device::{DeviceInfo, VirtioDevice};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::testing::{Driver, FEATURES_OK, NEEDS_RESET, Ring, USUAL, peek};
use crate::virtio::{FEATURE_EVENT_IDX, FEATURE_VERSION_1};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 6,
    function: 0,
};
const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x8_0000;
const FEATURE: u64 = 1 << 3;

/// A device with two queues that serves nothing by itself.
struct Dummy {
    info: DeviceInfo,
    queues: Mutex<Vec<Arc<Virtqueue>>>,
    starts: AtomicU32,
    resets: AtomicU32,
    config: Mutex<[u8; 8]>,
}

impl Dummy {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            info: DeviceInfo {
                device_id: 42,
                class: 0xff_0000,
                features: FEATURE,
                queue_sizes: vec![16, 8],
            },
            queues: Mutex::default(),
            starts: AtomicU32::new(0),
            resets: AtomicU32::new(0),
            config: Mutex::default(),
        })
    }

    fn queue(&self, index: usize) -> Arc<Virtqueue> {
        Arc::clone(&self.queues.lock().unwrap()[index])
    }

    fn take(&self, index: usize) -> Option<Element> {
        self.queue(index).next()
    }
}

impl VirtioDevice for Dummy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = *self.config.lock().unwrap();
        for (byte, value) in data.iter_mut().zip(config.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }
    fn write_config(&self, offset: u64, data: &[u8]) {
        let mut config = self.config.lock().unwrap();
        for (byte, value) in config.iter_mut().skip(offset as usize).zip(data) {
            *byte = *value;
        }
    }
    fn start(&self, _features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.queues.lock().unwrap().extend_from_slice(queues);
        Ok(())
    }
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        self.queues.lock().unwrap().clear();
    }
    fn save(&self) -> Result<Option<Section>, StateError> {
        Ok(None)
    }
}

fn plug(machine: &FakeMachine, dummy: &Arc<Dummy>, origin: Origin<'_>) -> Arc<dyn Device> {
    let device: Arc<dyn VirtioDevice> = dummy.clone();
    VirtioPci::create("dummy", ADDRESS, device, &machine.context, origin).expect("a free slot")
}

#[test]
fn nothing_exists_before_the_driver_turns_it_on_and_nothing_after() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert!(driver.negotiate(USUAL));
    driver.msix_on();
    for vector in 0..3 {
        driver.unmask(vector);
    }
    driver.write(0x10, &2_u16.to_le_bytes());
    let rings = [
        Ring::new(&machine, 0, 16, RINGS),
        Ring::new(&machine, 1, 8, RINGS + 0x8000),
    ];
    driver.enable(&rings[0], 0);
    driver.enable(&rings[1], 1);
    assert!(machine.msis.live().is_empty() && machine.doorbells.live().is_empty());
    assert_eq!(dummy.starts.load(Ordering::SeqCst), 0);
    driver.go();
    assert!(machine.doorbells.live().is_empty(), "none has rung");
    ring_often(&driver);
    assert_eq!(machine.doorbells.live().len(), 2);
    assert_eq!(machine.msis.live().len(), 3);
    assert_eq!(dummy.starts.load(Ordering::SeqCst), 1);
    driver.reset();
    assert!(machine.msis.live().is_empty() && machine.doorbells.live().is_empty());
    assert_eq!(dummy.resets.load(Ordering::SeqCst), 2, "before and now");
    driver.start(USUAL, &[16, 8], RINGS);
    ring_often(&driver);
    drop(device);
    assert!(machine.msis.live().is_empty() && machine.doorbells.live().is_empty());
    let mut bytes = [0; 4];
    assert!(!machine.context.mmio.read(driver.doorbell(0), &mut bytes));
}

#[test]
fn features_are_agreed_or_not() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.offered(), USUAL | FEATURE);
    assert!(driver.negotiate(FEATURE_VERSION_1));
    assert!(driver.negotiate(USUAL | FEATURE));
    assert!(!driver.negotiate(FEATURE), "a legacy driver");
    assert!(!driver.negotiate(USUAL | 1 << 40), "not on offer");
    driver.go();
    assert_eq!(driver.status() & (FEATURES_OK | 4), 0);
    assert_eq!(dummy.starts.load(Ordering::SeqCst), 0);
}

/// Rings both doorbells until the kernel hears them without an exit.
fn ring_often(driver: &Driver<'_>) {
    for _ in 0..OFTEN {
        driver.kick(0);
        driver.kick(1);
    }
}

#[test]
fn doorbells_that_ring_often_are_the_kernels_where_the_bar_is() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    driver.start(USUAL, &[16, 8], RINGS);
    for _ in 1..OFTEN {
        driver.kick(1);
    }
    assert!(machine.doorbells.live().is_empty(), "not yet");
    driver.kick(1);
    let bell_at = |index: usize| machine.doorbells.live()[index].0;
    let place = |queue| DoorbellAddress::Mmio(driver.doorbell(queue));
    assert_eq!((machine.doorbells.live().len(), bell_at(0)), (1, place(1)));
    ring_often(&driver);
    assert_eq!((machine.doorbells.live().len(), bell_at(1)), (2, place(0)));
    machine.set_config(ADDRESS, 0x14, &3_u32.to_le_bytes());
    assert!(
        machine.doorbells.live().is_empty(),
        "nobody rings there now"
    );
    let driver = Driver::find(&machine, ADDRESS);
    assert!(driver.doorbell(1) > 3 << 32);
    ring_often(&driver);
    let moved = DoorbellAddress::Mmio(driver.doorbell(1));
    assert_eq!((machine.doorbells.live().len(), bell_at(1)), (2, moved));
    // Memory decoding off: nobody answers, and no doorbell is left.
    machine.set_config(ADDRESS, 0x04, &[0, 0]);
    assert!(machine.doorbells.live().is_empty());
    machine.set_config(ADDRESS, 0x04, &[2, 0]);
    ring_often(&driver);
    assert_eq!(machine.doorbells.live().len(), 2);
    // Onto the ECAM: it has no place then, and comes back.
    machine.set_config(ADDRESS, 0x14, &0_u32.to_le_bytes());
    machine.set_config(ADDRESS, 0x10, &0xb000_0000_u32.to_le_bytes());
    assert!(machine.doorbells.live().is_empty());
    device.pause();
    device.reset();
    assert!(Driver::find(&machine, ADDRESS).negotiate(USUAL));
}

#[test]
fn a_doorbell_that_is_not_in_the_kernel_rings_through_the_bus() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    driver.start(USUAL, &[16, 8], RINGS);
    let queue = dummy.queue(1);
    let drain = || queue.kick_event().read().unwrap_or(0);
    drain();
    // Four bytes wide: the in-kernel doorbell takes two.
    ring_often(&driver);
    drain();
    assert!(machine.mmio_write(driver.doorbell(1), &[1, 0, 0, 0]));
    assert_eq!(drain(), 1);
    // Doorbells of queues that do not exist.
    assert!(machine.mmio_write(driver.doorbell(2), &[2, 0]));
    assert!(machine.mmio_write(driver.doorbell(1000), &[2, 0]));
    assert_eq!(drain(), 0);
}

#[test]
fn a_reset_while_requests_are_in_flight_ends_with_the_last_of_them() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL, &[16, 8], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 8, true)]);
    ring.chain(&machine, &[(DATA, 8, true)]);
    let elements = [dummy.take(0).unwrap(), dummy.take(0).unwrap()];
    ring_often(&driver);
    driver.set_status(0);
    assert_ne!(driver.status(), 0, "not yet");
    ring_often(&driver);
    assert!(machine.doorbells.live().is_empty() && machine.msis.live().is_empty());
    // The driver does not wait: it gets nowhere, and breaks nothing.
    driver.set_status(1);
    driver.write(0x1c, &1_u16.to_le_bytes());
    let [first, second] = elements;
    first.complete(8);
    assert_ne!(driver.status(), 0);
    second.complete(8);
    assert_eq!(driver.status(), 0);
    assert_eq!(ring.used_index(&machine), 0);
    let mut ring = driver.start(USUAL, &[16, 8], RINGS).remove(0);
    ring.chain(&machine, &[(DATA, 8, true)]);
    dummy.take(0).unwrap().complete(8);
    assert_eq!(ring.used(&machine), Some((0, 8)));
}

#[test]
fn a_broken_ring_needs_a_reset_and_says_so() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    for _ in 0..20 {
        assert!(driver.negotiate(USUAL));
        driver.msix_on();
        driver.unmask(2);
        driver.write(0x10, &2_u16.to_le_bytes());
        let ring = Ring::new(&machine, 0, 16, RINGS);
        driver.enable(&ring, 0);
        driver.go();
        let fired = driver.vector(2).fired();
        ring.publish(&machine, 100);
        assert!(dummy.take(0).is_none());
        assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET);
        assert_eq!(driver.vector(2).fired(), fired + 1);
    }
    driver.start(USUAL, &[16, 8], RINGS);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}

#[test]
fn rings_outside_memory_need_a_reset_at_once() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    for address in [0xb000_0000, 0xc000_0000, !0xfff, 0x1f_ffff, 7] {
        assert!(driver.negotiate(USUAL));
        let mut ring = Ring::new(&machine, 0, 16, RINGS);
        ring.used = address;
        driver.enable(&ring, 0);
        driver.go();
        assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET, "{address:#x}");
        assert!(machine.doorbells.live().is_empty());
    }
}

#[test]
fn without_msix_the_interrupt_status_tells() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    assert!(driver.negotiate(USUAL & !FEATURE_EVENT_IDX));
    let mut ring = Ring::new(&machine, 0, 16, RINGS);
    driver.enable(&ring, 0xffff);
    driver.go();
    ring.chain(&machine, &[(DATA, 8, true)]);
    dummy.take(0).unwrap().complete(0);
    assert_eq!(driver.isr(), 1);
    assert_eq!(driver.isr(), 0, "reading clears");
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let _device = plug(&machine, &dummy, Origin::Fresh);
    let driver = Driver::find(&machine, ADDRESS);
    let at = driver.window;
    let point = |offset: u32, length: u32| {
        machine.set_config(ADDRESS, at + 8, &offset.to_le_bytes());
        machine.set_config(ADDRESS, at + 12, &length.to_le_bytes());
    };
    point(0x2000, 4);
    machine.set_config(ADDRESS, at + 16, &[1, 2, 3, 4]);
    assert_eq!(driver.config::<4>(0), [1, 2, 3, 4]);
    assert_eq!(machine.config::<4>(ADDRESS, at + 16), [1, 2, 3, 4]);
    point(0x14, 1);
    machine.set_config(ADDRESS, at + 16, &[1]);
    assert_eq!(driver.status(), 1);
    for (offset, length) in [
        (0x2001, 4),
        (0x8000, 4),
        (u32::MAX, 1),
        (0x2000, 3),
        (0x2000, 0),
    ] {
        point(offset, length);
        machine.set_config(ADDRESS, at + 16, &[9, 9, 9, 9]);
        assert_eq!(machine.config::<4>(ADDRESS, at + 16), [0; 4]);
    }
    assert_eq!(driver.config::<4>(0), [1, 2, 3, 4]);
}

#[test]
fn saved_state_is_whole_and_queues_go_on() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let device = plug(&machine, &dummy, Origin::Fresh);
    machine.set_config(ADDRESS, 0x14, &3_u32.to_le_bytes());
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(USUAL | FEATURE, &[16, 8], RINGS).remove(0);
    for _ in 0..3 {
        ring.chain(&machine, &[(DATA, 8, true)]);
    }
    dummy.take(0).unwrap().complete(8);
    dummy.take(0).unwrap().park();
    device.pause();
    let saved = device.save().unwrap();
    assert_eq!(device.save().unwrap(), saved);
    let Saved::Sections(sections) = &saved else {
        panic!("a transport has state");
    };
    let (other, twin) = (
        FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh),
        Dummy::new(),
    );
    let restored = plug(&other, &twin, Origin::Restored(sections));
    assert_eq!(restored.save().unwrap(), saved);
    assert!(twin.take(0).is_none(), "paused");
    restored.resume();
    // Interrupts that were on their way come again.
    assert_eq!(other.msis.by_data(0x40).unwrap().fired(), 1);
    twin.take(0).unwrap().complete(1);
    twin.take(0).unwrap().complete(2);
    let lens: Vec<u32> = std::iter::from_fn(|| ring.used(&other))
        .map(|(_, len)| len)
        .collect();
    assert_eq!(lens, [8, 1, 2]);
    assert_eq!(peek(&other, DATA, 1).len(), 1);
}

#[test]
fn state_of_another_device_is_refused() {
    let (machine, dummy) = (FakeMachine::new(0x20_0000), Dummy::new());
    let device = plug(&machine, &dummy, Origin::Fresh);
    Driver::find(&machine, ADDRESS).start(USUAL | FEATURE, &[16, 8], RINGS);
    device.pause();
    let Saved::Sections(sections) = device.save().unwrap() else {
        panic!("a transport has state");
    };
    let refused = |path: &[&str], value: serde_json::Value| {
        let mut changed = sections.clone();
        let mut target = &mut changed[0].payload;
        for key in path {
            target = match key.parse::<usize>() {
                Ok(index) => &mut target[index],
                Err(_) => &mut target[*key],
            };
        }
        assert!(!target.is_null(), "{path:?}");
        *target = value;
        let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
        let device: Arc<dyn VirtioDevice> = Dummy::new();
        let origin = Origin::Restored(&changed);
        let result = VirtioPci::create("dummy", ADDRESS, device, &other.context, origin);
        assert!(matches!(result, Err(CreateError::State(_))), "{path:?}");
        assert!(other.doorbells.live().is_empty() && other.msis.live().is_empty());
    };
    refused(&["driver_features"], (1_u64 << 50).into());
    refused(&["queues"], serde_json::json!([]));
    refused(&["queues", "0", "size"], 17.into());
    refused(&["queues", "0", "size"], 32.into());
    refused(&["queues", "0", "used"], 0xb000_0000_u64.into());
    refused(&["queues", "0", "parked"], serde_json::json!([16]));
    refused(&["msix", "entries"], serde_json::json!([]));
    refused(&["config"], "zz".into());
    refused(&["status"], "running".into());
}
