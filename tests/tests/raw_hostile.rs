//! A guest that means harm, on this machine's KVM: it may lose a device, never the process, and nobody
//! else notices.
//!
//! `VM_TEST_SEED` and `VM_TEST_ROUNDS` choose the random attacks, for longer runs by hand.

use std::fs::File;
use std::path::{Path, PathBuf};
use tests::machine::{Builder, Disk};
use tests::{have_kvm, skip_unless};

/// Bytes that the log of an attacked process may have. One line per attack would be many times that.
const LOG: usize = 64 << 10;

fn disk(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).expect("a disk");
    file.set_len(8 << 20).expect("sparse");
    path
}

fn variable(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn a_hostile_guest_loses_at_most_a_device() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let folder = tempfile::tempdir().expect("a folder");
    let neighbour = Builder::guest("test=ioloop depth=8")
        .disk(Disk::raw(disk(folder.path(), "other.raw")))
        .start();
    let mut neighbour = neighbour.expect("start");
    neighbour.expect("io 1024");
    let line = format!(
        "test=hostile seed={} rounds={}",
        variable("VM_TEST_SEED", 1),
        variable("VM_TEST_ROUNDS", 300)
    );
    let mut machine = Builder::guest(&line)
        .disk(Disk::raw(disk(folder.path(), "disk.raw")))
        .rng()
        .start()
        .expect("start");
    machine.expect_pass();
    let log = machine.log();
    assert!(log.len() < LOG, "{} bytes of log", log.len());
    // The other one has lost and doubled nothing.
    neighbour.expect("io ");
    let typist = vmm_api::console::Attach {
        write: true,
        force: false,
    };
    let (_, mut keyboard) = neighbour.console(typist).expect("a console");
    std::io::Write::write_all(&mut keyboard, b"q").expect("typed");
    neighbour.expect_pass();
}
