//! Saving a working guest and going on in a new `vmm` process, on this machine's KVM.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tests::machine::{Builder, Disk, Machine};
use tests::{have_kvm, skip_unless};
use vmm_api::console::Attach;
use vmm_api::control::Request;
use vmm_api::end::EndReason;

const NO_KVM: &str = "/dev/kvm cannot be opened";

fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    fs::write(&path, vec![0; 4 << 20]).unwrap();
    path
}

/// Saves a machine, ends its process, and goes on in a new one.
fn move_on(mut machine: Machine, builder: &Builder, state: &Path) -> Machine {
    machine
        .save(state)
        .unwrap_or_else(|error| panic!("{error}\n{}", machine.log()));
    machine.request(Request::Quit).unwrap();
    machine.wait().unwrap();
    assert_eq!(machine.end().map(|end| end.reason), Some(EndReason::Saved));
    builder.clone().restore(state).start().unwrap()
}

fn stop(machine: &mut Machine) {
    let (_, mut line) = machine
        .console(Attach {
            write: true,
            force: false,
        })
        .unwrap();
    line.write_all(b"q").unwrap();
    machine.expect_pass();
}

#[test]
fn a_guest_in_the_middle_of_disk_io_goes_on_with_nothing_lost_or_doubled() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let builder = Builder::guest("test=ioloop depth=16 rng=1")
        .disk(Disk::raw(disk(folder.path())))
        .rng();
    let mut machine = builder.start().unwrap();
    machine.expect("io 2048");
    for round in 0..3 {
        // A new file each time: the one before may be the RAM that the guest runs on.
        let state = folder.path().join(format!("state{round}"));
        machine = move_on(machine, &builder, &state);
        // Progress after each restore, of which there are lines every 1024 answers.
        machine.expect("io ");
        machine.expect("io ");
    }
    stop(&mut machine);
}

#[test]
fn a_guest_that_dirties_memory_finds_every_page_as_it_left_it() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let builder = Builder::guest("test=dirty pages=4096");
    let mut machine = builder.start().unwrap();
    machine.expect("round 64");
    machine = move_on(machine, &builder, &state);
    machine.expect("round ");
    stop(&mut machine);
}

#[test]
fn a_saved_guest_goes_on_when_it_is_resumed_instead() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let mut machine = Builder::guest("test=ioloop depth=8")
        .disk(Disk::raw(disk(folder.path())))
        .start()
        .unwrap();
    machine.expect("io 1024");
    machine.save(&folder.path().join("state")).unwrap();
    machine.request(Request::Resume).unwrap();
    stop(&mut machine);
}

#[test]
fn a_damaged_state_is_refused_with_a_reason() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let builder = Builder::guest("test=spin");
    let mut machine = builder.start().unwrap();
    machine.expect("ready");
    machine.save(&state).unwrap();
    machine.request(Request::Quit).unwrap();
    machine.wait().unwrap();
    let mut bytes = fs::read(&state).unwrap();
    bytes.truncate(100);
    fs::write(&state, bytes).unwrap();
    let mut machine = builder.restore(&state).start().unwrap();
    assert_ne!(machine.wait().unwrap(), 0);
    assert!(
        machine
            .end()
            .is_some_and(|end| end.reason == EndReason::Failed)
    );
}
