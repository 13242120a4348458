//! virtio devices under our `vmm` on this machine's KVM, driven by the test guest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tests::machine::{Builder, Disk};
use tests::world::World;
use tests::{golden, have_kvm, skip_unless};

const NO_KVM: &str = "/dev/kvm cannot be opened";
const SIZE: u64 = 16 << 20;

/// A raw image whose bytes all differ from zero.
fn raw_image(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 + 1).collect();
    fs::write(&path, bytes).unwrap();
    path
}

fn qemu_img(words: &[&str]) -> Option<std::process::Output> {
    Command::new("qemu-img").args(words).output().ok()
}

/// The checksum that the guest's `blkread` prints.
fn checksum(bytes: &[u8]) -> String {
    let words = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    format!(
        "{:#018x}",
        words.fold(0u64, |sum, word| sum.rotate_left(5) ^ word)
    )
}

#[test]
fn a_machine_without_devices_has_the_functions_of_its_version() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=pci").start().unwrap();
    machine.expect_pass();
    let said = machine.serial.to_end().unwrap();
    golden::compare(env!("CARGO_MANIFEST_DIR"), "pci-bare.txt", &said);
}

#[test]
fn a_raw_disk_does_every_request_and_the_file_holds_the_data() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let disk = raw_image(folder.path());
    let with_serial = Disk::raw(&disk).adjust(|blk| blk.serial = Some("SN-1234".into()));
    let mut machine = Builder::guest("test=blk")
        .disk(with_serial)
        .start()
        .unwrap();
    machine.expect("serial SN-1234");
    machine.expect_pass();
    // The pattern of sector 0, as the guest computes it.
    let mut word = [0; 8];
    File::open(&disk)
        .unwrap()
        .read_exact_at(&mut word, 0)
        .unwrap();
    assert_eq!(u64::from_le_bytes(word), 0x9e37_79b9_7f4a_7c15 ^ 0x55);
}

#[test]
fn interrupts_come_through_msix() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::raw(raw_image(folder.path()));
    let mut machine = Builder::guest("test=blk irq=1").disk(disk).start().unwrap();
    machine.expect("interrupts");
    machine.expect_pass();
}

#[test]
fn a_read_only_disk_refuses_writes_and_keeps_its_bytes() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let path = raw_image(folder.path());
    let before = fs::read(&path).unwrap();
    let disk = Disk::raw(&path).read_only();
    let mut machine = Builder::guest("test=blk").disk(disk).start().unwrap();
    machine.expect_pass();
    assert!(fs::read(&path).unwrap() == before, "the file has changed");
}

#[test]
fn the_guest_reads_what_is_in_the_file() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let path = raw_image(folder.path());
    let expected = checksum(&fs::read(&path).unwrap());
    let mut machine = Builder::guest("test=blkread")
        .disk(Disk::raw(&path))
        .start()
        .unwrap();
    machine.expect(&format!("blkread: {expected}"));
    machine.expect_pass();
}

#[test]
fn the_second_disk_is_the_second() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let first = raw_image(folder.path());
    let second = folder.path().join("second.raw");
    fs::write(&second, vec![7; 1 << 20]).unwrap();
    let mut machine = Builder::guest("test=blkread disk=1")
        .disk(Disk::raw(&first))
        .disk(Disk::raw(&second))
        .start()
        .unwrap();
    machine.expect(&format!("blkread: {}", checksum(&[7; 1 << 20])));
    machine.expect_pass();
}

#[test]
fn a_qcow2_disk_does_every_request_and_stays_sound() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    let made = qemu_img(&["create", "-q", "-f", "qcow2", name, "16M"]);
    skip_unless!(
        made.is_some_and(|made| made.status.success()),
        "qemu-img is not installed"
    );
    let mut machine = Builder::guest("test=blk")
        .disk(Disk::qcow2(&path))
        .start()
        .unwrap();
    machine.expect_pass();
    let checked = qemu_img(&["check", "-q", name]).unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let raw = folder.path().join("check.raw");
    let converted = qemu_img(&["convert", "-O", "raw", name, raw.to_str().unwrap()]).unwrap();
    assert!(converted.status.success());
    let expected = checksum(&fs::read(&raw).unwrap());
    let mut machine = Builder::guest("test=blkread")
        .disk(Disk::qcow2(&path))
        .start()
        .unwrap();
    machine.expect(&format!("blkread: {expected}"));
    machine.expect_pass();
}

#[test]
fn entropy_comes() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=rng").rng().start().unwrap();
    machine.expect("different bytes");
    machine.expect_pass();
}

#[test]
fn a_channel_carries_more_than_its_buffers_hold() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=port").channel().start().unwrap();
    machine.expect("ready");
    let mut socket = UnixStream::connect(machine.folder().join("channel")).unwrap();
    machine.expect("connected");
    // No byte is a 'q', which would end it.
    let bytes: Vec<u8> = (0..600_000_u32).map(|at| (at % 100) as u8).collect();
    let (mut to, sent) = (socket.try_clone().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || to.write_all(&sent));
    let mut got = vec![0; bytes.len()];
    socket.read_exact(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    let wrong = got.iter().zip(&bytes).position(|(g, b)| *g != *b + 1);
    assert_eq!(wrong, None, "first wrong byte");
    socket.write_all(b"q").unwrap();
    drop(socket);
    machine.expect("echoed 600000 bytes");
    machine.expect_pass();
}

#[test]
fn many_requests_at_a_time_are_each_answered_once() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::raw(raw_image(folder.path()));
    let line = "test=ioloop count=20000 depth=16 rng=1";
    let mut machine = Builder::guest(line).disk(disk).rng().start().unwrap();
    machine.expect("random answers");
    machine.expect_pass();
}

#[test]
fn a_driver_of_two_queues_is_answered_on_both() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let path = raw_image(folder.path());
    for disk in [
        // A thread for both, and one for each.
        Disk::raw(&path).adjust(|blk| blk.queues = 2),
        Disk::raw(&path).adjust(|blk| (blk.queues, blk.iothreads) = (2, vec![1, 2])),
    ] {
        let line = "test=blkbench queues=2 count=2000 depth=8 random=1";
        let mut machine = Builder::guest(line).disk(disk).start().unwrap();
        machine.expect("queue 0: 2000 answers");
        machine.expect("queue 1: 2000 answers");
        machine.expect_pass();
    }
}

/// Ticks of CPU time that each thread of this name has had.
fn ticks(pid: i32, name: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).ok();
    let stats = tasks.flatten().filter_map(stat);
    let named = stats.filter(|text| text.contains(&format!(" ({name}) ")));
    let ticks = |text: String| {
        let fields = text.rsplit(") ").next().unwrap().split(' ');
        // Fields 14 and 15 of proc(5); the name, which was cut off, is the second.
        let times = fields.skip(11).take(2);
        times.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    named.map(ticks).collect()
}

#[test]
fn the_threads_that_a_definition_names_serve_the_queues() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let world = World::new();
    let disk = raw_image(&world.path(""));
    let kernel = tests::guest::build().unwrap();
    world.define_xml(&format!(
        "<domain type='kvm'><name>queues</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <iothreads>2</iothreads><os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=blkbench queues=2 count=1000000000 depth=1</cmdline></os><devices>\
         <disk type='file'><driver name='qemu' type='raw' queues='2'><iothreads><iothread id='1'/>\
         <iothread id='2'/></iothreads></driver><source file='{}'/><target dev='vda' bus='virtio'/>\
         </disk></devices></domain>",
        kernel.display(),
        disk.display()
    ));
    world.ok(&["start", "queues"]);
    let pid = world.pid("queues");
    for name in ["iothread1", "iothread2"] {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !matches!(ticks(pid, name)[..], [ticks] if ticks > 5) {
            assert!(Instant::now() < deadline, "{name}: {:?}", ticks(pid, name));
            thread::sleep(Duration::from_millis(20));
        }
    }
    let counted = world.ok(&["domblkstat", "queues", "vda"]);
    let reads = counted.lines().find_map(|line| line.split_once("rd_req "));
    let (_, reads) = reads.unwrap_or_else(|| panic!("{counted}"));
    assert!(reads.trim().parse::<u64>().unwrap() > 0, "{counted}");
    world.ok(&["destroy", "queues"]);
}
