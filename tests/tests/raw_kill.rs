//! What a `vmm` that was killed leaves behind on this machine: nothing.

use std::fs;
use std::path::Path;
use std::time::Instant;

use tests::machine::{Builder, Disk, Machine};
use tests::serial::PATIENCE;
use tests::{have_kvm, skip_unless};
use vmm_api::end::EndReason;

/// Starts the machine as soon as its disk's lock is free. When a process with requests in an io_uring
/// is killed, the kernel closes its files a moment after the process is gone.
fn start_when_free(builder: &Builder) -> Machine {
    let started = Instant::now();
    loop {
        let mut machine = builder.start().unwrap();
        match machine.serial.expect("io 1") {
            Ok(_) => return machine,
            Err(error) => {
                machine.wait().unwrap();
                let end = machine
                    .end()
                    .unwrap_or_else(|| panic!("{error}\n{}", machine.story()));
                let locked = end.reason == EndReason::Failed && end.detail.contains("lock");
                assert!(
                    locked && started.elapsed() < PATIENCE,
                    "{}",
                    machine.story()
                );
            }
        }
    }
}

#[test]
fn a_hundred_killed_processes_leave_no_process_and_no_lock() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    fs::write(&path, vec![0; 4 << 20]).unwrap();
    let builder = Builder::guest("test=ioloop depth=4").disk(Disk::raw(&path));
    for _ in 0..100 {
        let mut machine = start_when_free(&builder);
        let pid = machine.pid();
        machine.kill().unwrap();
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} is still there"
        );
        assert!(
            machine.end().is_none(),
            "a killed process has no last words"
        );
    }
}

#[test]
fn a_disk_in_use_is_refused_by_name() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    fs::write(&path, vec![0; 4 << 20]).unwrap();
    let builder = Builder::guest("test=ioloop depth=4").disk(Disk::raw(&path));
    let first = start_when_free(&builder);
    let mut second = builder.start().unwrap();
    assert_ne!(second.wait().unwrap(), 0);
    let end = second.end().unwrap();
    assert_eq!(end.reason, EndReason::Failed);
    assert!(end.detail.contains("disk.raw"), "{}", end.detail);
    drop(first);
}
