//! Saving a machine and going on in a new process, on raw KVM.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tests::machine::{Builder, Disk};
use tests::skip_unless;
use vmm_api::console::Attach;
use vmm_api::control::client::ClientError;
use vmm_api::control::{Reply, Request};
use vmm_api::end::EndReason;
use vmm_api::state::{PauseReason, RunState};

#[test]
fn a_saved_guest_goes_on_in_a_new_process() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let builder = Builder::guest("test=beat gap=20 count=60");
    let mut first = builder.start().expect("start");
    first.expect("....");
    first.save(&state).expect("saved");
    let paused = first.request(Request::Query).expect("an answer");
    let Reply::Status(status) = paused else {
        panic!("{paused:?}");
    };
    let RunState::Paused { reasons } = status.run else {
        panic!("{:?}", status.run);
    };
    assert!(reasons.contains(&PauseReason::Job));
    first.request(Request::Quit).expect("an answer");
    assert_eq!(first.wait().expect("ends"), 0);
    assert_eq!(first.end().expect("a record").reason, EndReason::Saved);
    let said = first.serial.to_end().expect("ended").matches('.').count();

    let mut second = builder.clone().restore(&state).start().expect("start");
    assert_eq!(second.wait().expect("ends"), 0, "{}", second.log());
    let rest = second.serial.to_end().expect("ended");
    assert!(rest.contains("PASS"), "{rest}");
    assert_eq!(
        said + rest.matches('.').count(),
        60,
        "no beat lost or doubled"
    );
}

#[test]
fn a_saved_guest_can_go_on_where_it_was_and_be_saved_again() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let mut machine = Builder::guest("test=beat gap=20").start().expect("start");
    for name in ["one", "two"] {
        machine.expect("..");
        machine.save(&folder.path().join(name)).expect("saved");
        machine.request(Request::Resume).expect("running");
    }
    machine.expect("....");
}

#[test]
fn two_vcpus_and_a_restored_machine_that_starts_paused() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let builder = Builder::guest("test=beat gap=20").cpus(2);
    let mut first = builder.start().expect("start");
    first.expect("..");
    first.save(&state).expect("saved");
    let mut second = builder.restore(&state).paused().start().expect("start");
    assert_eq!(second.serial.so_far(), "");
    second.request(Request::Resume).expect("running");
    second.expect("....");
}

#[test]
fn a_damaged_or_foreign_state_is_refused_by_name() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let builder = Builder::guest("test=idle");
    let mut first = builder.start().expect("start");
    first.expect("ready");
    first.save(&state).expect("saved");
    let refused = |builder: Builder| {
        let mut machine = builder.restore(&state).start().expect("start");
        assert_eq!(machine.wait().expect("ends"), 1);
        machine.end().expect("a record").detail
    };
    let detail = refused(builder.clone().memory(64));
    assert!(detail.contains("another machine"), "{detail}");
    let file = File::options().write(true).open(&state).expect("the state");
    file.write_all_at(b"}", 4096 + 300).expect("written");
    let detail = refused(builder.clone());
    assert!(
        detail.contains("section '") && detail.contains("checksum"),
        "{detail}"
    );
    file.set_len(4096).expect("cut");
    let detail = refused(builder);
    assert!(detail.contains("the file has 4096 bytes"), "{detail}");
}

#[test]
fn a_restored_guest_is_not_saved_into_its_own_ram() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let builder = Builder::guest("test=beat gap=20");
    let mut first = builder.start().expect("start");
    first.expect("..");
    first.save(&state).expect("saved");
    let mut second = builder.restore(&state).start().expect("start");
    second.expect("..");
    let file = File::options().write(true).open(&state).expect("the state");
    let refused = second
        .control()
        .expect("connected")
        .call(Request::Save, &[file.as_fd()], tests::serial::PATIENCE)
        .expect_err("its own RAM");
    assert!(refused.to_string().contains("this very guest"), "{refused}");
    second.expect("....");
}

#[test]
fn a_save_without_a_file_fails_and_the_guest_goes_on() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=beat gap=20").start().expect("start");
    machine.expect("..");
    let refused = machine.request(Request::Save).expect_err("no file");
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
    machine.expect("....");
}

fn raw_image(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let file = File::create(&path).expect("a disk");
    file.set_len(8 << 20).expect("sparse");
    path
}

/// A guest with disk, entropy source and console under load.
fn busy(folder: &Path) -> Builder {
    Builder::guest("test=ioloop depth=16 rng=1")
        .disk(Disk::raw(raw_image(folder)))
        .rng()
}

#[test]
fn no_request_is_lost_or_doubled_by_saving_again_and_again() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let builder = busy(folder.path());
    let mut machine = builder.start().expect("start");
    for round in 0..4 {
        // A file of its own each time: the last one is the RAM of the machine that runs.
        let state = folder.path().join(format!("state{round}"));
        // The guest says how far it is now and then; it is saved in the middle of its requests.
        machine.expect("io ");
        machine.expect("\n");
        if let Err(error) = machine.save(&state) {
            let said = machine.serial.so_far();
            panic!(
                "{error}; the guest said:\n{said}\nthe log:\n{}",
                machine.log()
            );
        }
        machine.request(Request::Quit).expect("an answer");
        assert_eq!(machine.wait().expect("ends"), 0, "{}", machine.log());
        machine = builder.clone().restore(&state).start().expect("start");
    }
    let typist = Attach {
        write: true,
        force: false,
    };
    let (_, mut keyboard) = machine.console(typist).expect("a console");
    keyboard.write_all(b"q").expect("typed");
    machine.expect_pass();
}

/// All sections but the vCPUs', whose clocks run.
fn device_sections(state: &Path) -> Vec<devices::state::Section> {
    let container = vmm::snapshot::open(File::open(state).expect("the state")).expect("whole");
    let sections = container.sections().iter();
    sections.filter(|s| s.kind != "vcpu").cloned().collect()
}

#[test]
fn every_device_that_is_made_from_its_state_has_that_state() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let builder = busy(folder.path());
    let mut first = builder.start().expect("start");
    first.expect("io 1024");
    first.save(&one).expect("saved");
    first.request(Request::Quit).expect("an answer");
    first.wait().expect("ends");
    let second = builder.restore(&one).paused().start().expect("start");
    second.save(&two).expect("saved");
    let (one, two) = (device_sections(&one), device_sections(&two));
    assert!(one.len() > 8, "{} sections", one.len());
    for (before, after) in one.iter().zip(&two) {
        assert_eq!(before, after);
    }
    assert_eq!(one.len(), two.len());
}
