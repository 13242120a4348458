//! A disk through the buses.

mod dirty;
mod limits;
mod merge;
mod queues;

use super::device::Block;
use super::request::status;
use crate::device::Device;
use crate::registry::{self, CreateError};
use crate::state::{Origin, Saved};
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, Ring, USUAL, peek, poke};
use crate::virtio::transport::pci::VirtioPci;
use images::storage::{Event, MemoryStorage};
use images::{DenyAll, Format, Image, OpenOptions};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use tempfile::NamedTempFile;
use vmm_api::spec::{
    BlkSpec, CacheMode, DeviceKind, DeviceSpec, ErrorPolicy, Fd, ImageFormat, ImageSpec, PciAddress,
};

const ADDRESS: PciAddress = PciAddress {
    bus: 0,
    slot: 4,
    function: 0,
};
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_MQ: u64 = 1 << 12;
const FEATURES: u64 = USUAL | FEATURE_FLUSH;

/// Guest addresses of the tests.
const RINGS: u64 = 0x1_0000;
const HEADERS: u64 = 0x8_0000;
const STATUS: u64 = 0x9_0000;
const DATA: u64 = 0xa_0000;

fn blk() -> BlkSpec {
    BlkSpec::new(ImageSpec {
        file: Fd(5),
        path: "/images/test.raw".into(),
        format: ImageFormat::Raw,
        backing: None,
        data_file: None,
    })
}

fn spec(blk: BlkSpec) -> DeviceSpec {
    DeviceSpec {
        id: "virtio-disk0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioBlk(blk),
    }
}

/// An image of 1 MiB whose every sector begins with its number.
fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    for sector in 0..2048_u64 {
        file.seek(SeekFrom::Start(sector * 512)).expect("seek");
        file.write_all(&sector.to_le_bytes()).expect("write");
    }
    file.as_file().set_len(1 << 20).expect("size");
    file
}

fn open(image: &NamedTempFile) -> OwnedFd {
    let file = File::options().read(true).write(true).open(image.path());
    file.expect("open").into()
}

fn attach(machine: &FakeMachine, image: &NamedTempFile, blk: BlkSpec) -> Arc<dyn Device> {
    machine.context.files.add(5, open(image));
    let device = registry::create(&spec(blk), &machine.context, Origin::Fresh).expect("a disk");
    device.activate().expect("locks are free");
    device
}

/// Offers a request and rings; the status byte's address.
fn submit(
    machine: &FakeMachine,
    driver: &Driver<'_>,
    ring: &mut Ring,
    request: (u32, u64),
    data: &[(u64, u32, bool)],
) -> u64 {
    let slot = u64::from(ring.next_available % ring.size) + u64::from(ring.index) * 256;
    let (header, status) = (HEADERS + slot * 16, STATUS + slot);
    let mut bytes = request.0.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(request.1.to_le_bytes());
    poke(machine, header, &bytes);
    poke(machine, status, &[0xaa]);
    let mut parts = vec![(header, 16, false)];
    parts.extend(data);
    parts.push((status, 1, true));
    ring.chain(machine, &parts);
    driver.kick(ring.index);
    status
}

/// Sends a request and waits; its status and used length.
fn send(
    machine: &FakeMachine,
    driver: &Driver<'_>,
    ring: &mut Ring,
    request: (u32, u64),
    data: &[(u64, u32, bool)],
) -> (u8, u32) {
    let at = submit(machine, driver, ring, request, data);
    let (_, len) = ring.wait_used(machine);
    (peek(machine, at, 1)[0], len)
}

#[test]
fn reads_writes_and_flushes_reach_the_file() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let device = attach(&machine, &file, blk());
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(u64::from_le_bytes(driver.config(0)), 2048);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    // A read across two pieces, one of them in the other region of RAM.
    let high = 1 << 32;
    let parts = [(DATA, 512, true), (high, 1024, true)];
    let read = send(&machine, &driver, &mut ring, (0, 7), &parts);
    assert_eq!(read, (status::OK, 1537));
    assert_eq!(peek(&machine, DATA, 8), 7_u64.to_le_bytes());
    assert_eq!(peek(&machine, high + 512, 8), 9_u64.to_le_bytes());
    poke(&machine, DATA, &[0x5a; 1024]);
    let write = send(
        &machine,
        &driver,
        &mut ring,
        (1, 100),
        &[(DATA, 1024, false)],
    );
    assert_eq!(write, (status::OK, 1));
    assert_eq!(
        send(&machine, &driver, &mut ring, (4, 0), &[]).0,
        status::OK
    );
    let mut back = [0; 1024];
    file.as_file()
        .read_exact_at(&mut back, 51200)
        .expect("read");
    assert_eq!(back, [0x5a; 1024]);
    let stats = device.stats();
    assert_eq!(stats["read"]["requests"], 1);
    assert_eq!(stats["read"]["bytes"], 1536);
    assert_eq!(stats["write"]["bytes"], 1024);
    assert_eq!(stats["flush"]["requests"], 1);
}

#[test]
fn serials_zeroes_and_refusals() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let mut spec = blk();
    spec.serial = Some("ABC123".into());
    let device = attach(&machine, &file, spec);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    let mut go = |request, data: &[_]| send(&machine, &driver, &mut ring, request, data);
    assert_eq!(go((8, 0), &[(DATA, 20, true)]), (status::OK, 21));
    assert_eq!(peek(&machine, DATA, 20)[..7], *b"ABC123\0");
    let mut segment = 5_u64.to_le_bytes().to_vec();
    segment.extend(2_u32.to_le_bytes());
    segment.extend(0_u32.to_le_bytes());
    poke(&machine, DATA, &segment);
    assert_eq!(go((13, 0), &[(DATA, 16, false)]).0, status::OK);
    assert_eq!(go((11, 0), &[(DATA, 16, false)]).0, status::OK);
    let mut back = [1; 512];
    file.as_file()
        .read_exact_at(&mut back, 6 * 512)
        .expect("read");
    assert_eq!(back, [0; 512]);
    assert_eq!(go((0, 2048), &[(DATA, 512, true)]), (status::IOERR, 0));
    assert_eq!(go((0, 0), &[(DATA, 511, true)]).0, status::IOERR);
    assert_eq!(go((99, 0), &[]).0, status::UNSUPP);
    assert_eq!(device.stats()["malformed"], 3);
    assert_eq!(driver.status() & 0x40, 0, "a bad request breaks nothing");
}

#[test]
fn many_requests_on_many_queues_all_come_back() {
    let (machine, file) = (FakeMachine::new(0x40_0000), image());
    let mut spec = blk();
    spec.queues = 3;
    let _device = attach(&machine, &file, spec);
    let driver = Driver::find(&machine, ADDRESS);
    let mut rings = driver.start(FEATURES | FEATURE_MQ, &[128; 3], RINGS);
    for _ in 0..8 {
        for ring in &mut rings {
            let base = 0x10_0000 + u64::from(ring.index) * 0x4000;
            for at in 0..32_u64 {
                let part = (base + at * 512, 512, true);
                submit(&machine, &driver, ring, (0, at * 3), &[part]);
            }
        }
        for ring in &mut rings {
            let base = 0x10_0000 + u64::from(ring.index) * 0x4000;
            for _ in 0..32 {
                assert_eq!(ring.wait_used(&machine).1, 513);
            }
            for at in 0..32_u64 {
                assert_eq!(peek(&machine, base + at * 512, 8), (at * 3).to_le_bytes());
            }
        }
    }
}

#[test]
fn the_guest_chooses_the_cache_and_a_reset_forgets_it() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let device = attach(&machine, &file, blk());
    let driver = Driver::find(&machine, ADDRESS);
    assert_eq!(driver.config::<1>(32), [1]);
    driver.set_device_config(32, &[0]);
    assert_eq!(driver.config::<1>(32), [0]);
    device.pause();
    device.reset();
    assert_eq!(driver.config::<1>(32), [1]);
    let other = FakeMachine::new(0x20_0000);
    let mut through = blk();
    through.cache = CacheMode::Writethrough;
    device.inactivate().expect("flushed");
    let _device = attach(&other, &file, through);
    let driver = Driver::find(&other, ADDRESS);
    assert_eq!(driver.config::<1>(32), [0]);
    assert_eq!(driver.offered() & (FEATURE_FLUSH | 1 << 11), 0);
    driver.set_device_config(32, &[1]);
    assert_eq!(driver.config::<1>(32), [0]);
}

/// An image that is not active stands in for one that lost its lock or has no space.
#[test]
fn failed_requests_are_parked_saved_and_done_after_a_restore() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    machine.context.files.add(5, open(&file));
    let device = registry::create(&spec(blk()), &machine.context, Origin::Fresh).expect("a disk");
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    poke(&machine, DATA, &[0x77; 512]);
    let write = submit(&machine, &driver, &mut ring, (1, 9), &[(DATA, 512, false)]);
    let read = submit(
        &machine,
        &driver,
        &mut ring,
        (0, 3),
        &[(DATA + 512, 512, true)],
    );
    {
        let mut errors = machine.requests.io_errors.lock().unwrap();
        while errors.len() < 2 {
            errors = machine.requests.io_error_came.wait(errors).unwrap();
        }
        assert_eq!(errors[0].0, "virtio-disk0");
        assert!(errors[0].1.starts_with("/images/test.raw: "));
    }
    device.pause();
    assert_eq!(ring.used(&machine), None);
    let Saved::Sections(saved) = device.save().expect("state") else {
        panic!("a disk has state");
    };
    let text = serde_json::to_string(&saved).expect("json");
    assert!(text.contains(r#""parked":[0,3]"#), "{text}");
    let other = FakeMachine::with_memory(machine.memory.clone(), Origin::Fresh);
    other.context.files.add(5, open(&file));
    let restored =
        registry::create(&spec(blk()), &other.context, Origin::Restored(&saved)).expect("restored");
    assert_eq!(restored.save().expect("state"), Saved::Sections(saved));
    restored.activate().expect("locks are free");
    restored.resume();
    ring.wait_used(&other);
    ring.wait_used(&other);
    assert_eq!(peek(&other, write, 1), [status::OK]);
    assert_eq!(peek(&other, read, 1), [status::OK]);
    assert_eq!(peek(&other, DATA + 512, 8), 3_u64.to_le_bytes());
    let mut back = [0; 512];
    file.as_file()
        .read_exact_at(&mut back, 9 * 512)
        .expect("read");
    assert_eq!(back, [0x77; 512]);
    // The machine that it came from tries again too: nothing was lost there either.
    device.activate().expect_err("the lock has an owner");
}

/// A disk on memory whose writes fail with an errno while `errno` is not 0.
fn faulty(
    machine: &FakeMachine,
    policy: ErrorPolicy,
    errno: &Arc<AtomicI32>,
) -> (Arc<dyn Device>, MemoryStorage) {
    let storage = MemoryStorage::with_bytes(&[0; 0x1_0000]);
    let errno = Arc::clone(errno);
    storage.set_fault(Some(Box::new(move |event| match event {
        Event::Write(..) => Some(errno.load(Ordering::SeqCst)).filter(|errno| *errno != 0),
        _ => None,
    })));
    let options = OpenOptions::new(Format::Raw);
    let image = Image::open_storage(storage.clone().into(), "memory", &options, &DenyAll);
    let mut spec = blk();
    spec.error_policy = policy;
    let image = image.expect("an image");
    let block = Block::new("virtio-disk0", &spec, image, &machine.context);
    let device = VirtioPci::create(
        "virtio-disk0",
        ADDRESS,
        Arc::new(block),
        &machine.context,
        Origin::Fresh,
    )
    .expect("a disk");
    device.activate().expect("memory has no locks");
    (device, storage)
}

#[test]
fn a_full_host_pauses_and_the_write_is_done_after_a_resume() {
    let machine = FakeMachine::new(0x20_0000);
    let errno = Arc::new(AtomicI32::new(libc::ENOSPC));
    let (device, storage) = faulty(&machine, ErrorPolicy::Enospace, &errno);
    let driver = Driver::find(&machine, ADDRESS);
    let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
    poke(&machine, DATA, &[0x31; 512]);
    let at = submit(&machine, &driver, &mut ring, (1, 2), &[(DATA, 512, false)]);
    for round in 1..4 {
        let mut errors = machine.requests.io_errors.lock().unwrap();
        while errors.len() < round {
            errors = machine.requests.io_error_came.wait(errors).unwrap();
        }
        drop(errors);
        device.pause();
        assert_eq!(ring.used(&machine), None);
        if round == 3 {
            errno.store(0, Ordering::SeqCst);
        }
        device.resume();
    }
    ring.wait_used(&machine);
    assert_eq!(peek(&machine, at, 1), [status::OK]);
    assert_eq!(storage.to_vec()[1024..1536], [0x31; 512]);
    assert_eq!(device.stats()["parked"], 3);
}

#[test]
fn other_errors_follow_the_policy() {
    for (policy, errno, expected) in [
        (ErrorPolicy::Enospace, libc::EIO, status::IOERR),
        (ErrorPolicy::Report, libc::ENOSPC, status::IOERR),
        (ErrorPolicy::Ignore, libc::EIO, status::OK),
    ] {
        let machine = FakeMachine::new(0x20_0000);
        let errno = Arc::new(AtomicI32::new(errno));
        let (device, _storage) = faulty(&machine, policy, &errno);
        let driver = Driver::find(&machine, ADDRESS);
        let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
        let data = [(DATA, 512, false)];
        let got = send(&machine, &driver, &mut ring, (1, 0), &data);
        assert_eq!(got.0, expected);
        assert_eq!(device.stats()["write"]["errors"], 1);
    }
}

#[test]
fn writes_are_flushed_when_the_guest_has_no_flush() {
    for (features, flushed) in [(USUAL, true), (FEATURES, false)] {
        let machine = FakeMachine::new(0x20_0000);
        let (_device, storage) = faulty(&machine, ErrorPolicy::Report, &Arc::default());
        let driver = Driver::find(&machine, ADDRESS);
        let mut ring = driver.start(features, &[64], RINGS).remove(0);
        storage.start_log();
        let data = [(DATA, 512, false)];
        send(&machine, &driver, &mut ring, (1, 0), &data);
        assert_eq!(storage.take_log().contains(&Event::Sync), flushed);
    }
}

#[test]
fn a_disk_of_another_size_is_not_restored() {
    let (machine, file) = (FakeMachine::new(0x20_0000), image());
    let device = attach(&machine, &file, blk());
    device.pause();
    let Saved::Sections(saved) = device.save().expect("state") else {
        panic!("a disk has state");
    };
    drop(device);
    file.as_file().set_len(2 << 20).expect("grow");
    machine.context.files.add(5, open(&file));
    let error = registry::create(&spec(blk()), &machine.context, Origin::Restored(&saved));
    assert!(matches!(error, Err(CreateError::State(_))));
}
