//! Several queues of one disk, each on a thread of its own.

use super::{ADDRESS, DATA, FEATURE_MQ, FEATURES, RINGS, blk, submit};
use crate::device::Device;
use crate::registry;
use crate::state::Origin;
use crate::testing::FakeMachine;
use crate::virtio::testing::{Driver, peek, poke};
use images::Format;
use images::exec::{Engine, Executor};
use images::ops::check::{Repair, check};
use images::ops::create::{CreateOptions, create};
use std::fs::File;
use std::sync::Arc;
use vmm_api::spec::{DeviceKind, DeviceSpec, ImageFormat};

const QUEUES: u16 = 4;
/// Bytes of each write, and writes of each queue: every cluster is shared by all queues.
const BYTES: u64 = 4096;
const WRITES: u64 = 96;

fn named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
    let is_named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    tasks.flatten().filter(is_named).count()
}

fn assert_sound(image: File) {
    let executor = Executor::new(Engine::Threads).expect("an executor");
    let report = executor
        .block_on(check(image, "disk", Repair::No))
        .expect("a check");
    assert!(report.is_clean(), "{report:?}");
}

/// A disk on a qcow2 image, with a thread for each queue but one.
fn qcow2_disk(machine: &FakeMachine, image: File) -> Arc<dyn Device> {
    machine.context.files.add(5, image.into());
    let mut spec = blk();
    spec.image.format = ImageFormat::Qcow2;
    spec.queues = QUEUES;
    spec.iothreads = vec![71, 72, 73];
    let part = DeviceSpec {
        id: "virtio-disk0".into(),
        address: Some(ADDRESS),
        kind: DeviceKind::VirtioBlk(spec),
    };
    let device = registry::create(&part, &machine.context, Origin::Fresh).expect("a disk");
    device.activate().expect("locks are free");
    device
}

#[test]
fn queues_on_threads_of_their_own_share_one_qcow2_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.qcow2");
    let open = || {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        file.expect("a file")
    };
    create(&open(), &CreateOptions::new(Format::Qcow2, 64 << 20)).expect("an image");
    let machine = FakeMachine::new(0x80_0000);
    let device = qcow2_disk(&machine, open());
    let driver = Driver::find(&machine, ADDRESS);
    let threads = ["iothread71", "iothread72", "iothread73"];
    // They are there before the guest does anything, and are the ones that serve it.
    assert_eq!(threads.map(named), [1; 3]);
    let mut rings = driver.start(FEATURES | FEATURE_MQ, &[128; QUEUES as usize], RINGS);
    assert_eq!(threads.map(named), [1; 3]);
    // Piece number N of the disk is written by queue N % QUEUES: neighbours race for every cluster.
    let sector = |ring: u16, at: u64| (at * u64::from(QUEUES) + u64::from(ring)) * (BYTES / 512);
    let place = |ring: u16| DATA + u64::from(ring) * 0x10_0000 + 0x10_0000;
    for round in 0..WRITES / 24 {
        for ring in &mut rings {
            for at in round * 24..(round + 1) * 24 {
                let data = place(ring.index) + (at % 24) * BYTES;
                let number = sector(ring.index, at) + 1;
                poke(
                    &machine,
                    data,
                    &number.to_le_bytes().repeat(BYTES as usize / 8),
                );
                submit(
                    &machine,
                    &driver,
                    ring,
                    (1, number - 1),
                    &[(data, BYTES as u32, false)],
                );
            }
        }
        for ring in &mut rings {
            for _ in 0..24 {
                assert_eq!(ring.wait_used(&machine).1, 1);
            }
        }
    }
    for ring in &mut rings {
        for at in 0..WRITES {
            let data = place(ring.index);
            let number = sector(ring.index, at) + 1;
            submit(
                &machine,
                &driver,
                ring,
                (0, number - 1),
                &[(data, BYTES as u32, true)],
            );
            assert_eq!(ring.wait_used(&machine).1, BYTES as u32 + 1);
            let expected = number.to_le_bytes().repeat(BYTES as usize / 8);
            assert_eq!(
                peek(&machine, data, BYTES as usize),
                expected,
                "piece {number}"
            );
        }
    }
    device.pause();
    device.inactivate().expect("written out");
    drop(device);
    assert_sound(open());
}

#[test]
fn disks_that_name_one_thread_share_it() {
    let machine = FakeMachine::new(0x40_0000);
    let image = super::image();
    let mut devices = Vec::new();
    for slot in [4, 5] {
        machine.context.files.add(5, super::open(&image));
        let mut spec = blk();
        spec.read_only = true;
        spec.iothreads = vec![81];
        let part = DeviceSpec {
            id: format!("virtio-disk{slot}"),
            address: vmm_api::spec::PciAddress::new(0, slot, 0),
            kind: DeviceKind::VirtioBlk(spec),
        };
        let device = registry::create(&part, &machine.context, Origin::Fresh).expect("a disk");
        device.activate().expect("readers share");
        devices.push(device);
        let address = vmm_api::spec::PciAddress::new(0, slot, 0).expect("an address");
        let driver = Driver::find(&machine, address);
        let base = RINGS + u64::from(slot) * 0x8000;
        let mut ring = driver.start(FEATURES, &[64], base).remove(0);
        submit(&machine, &driver, &mut ring, (0, 9), &[(DATA, 512, true)]);
        assert_eq!(ring.wait_used(&machine).1, 513);
        assert_eq!(peek(&machine, DATA, 8), 9_u64.to_le_bytes());
    }
    assert_eq!(named("iothread81"), 1);
}
