//! The life of one `vmm` process on raw KVM, from its spec to its end record.

use std::path::Path;
use tests::machine::{Builder, Machine};
use tests::skip_unless;
use vmm_api::control::client::ClientError;
use vmm_api::control::{ErrorKind, Reply, Request, Status};
use vmm_api::end::EndReason;
use vmm_api::state::RunState;

fn status(machine: &Machine) -> Status {
    match machine.request(Request::Query).expect("an answer") {
        Reply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_guest_speaks_and_its_exit_code_passes_through() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=hello").start().expect("start");
    machine.expect_pass();
    let end = machine.end().expect("a record");
    assert_eq!(end.reason, EndReason::DebugExit);
}

#[test]
fn a_paused_guest_stands_still_and_goes_on() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=beat gap=20").start().expect("start");
    machine.expect("....");
    machine.request(Request::Pause).expect("paused");
    assert!(matches!(status(&machine).run, RunState::Paused { .. }));
    let before = machine.serial.so_far().len();
    let refused = machine.request(Request::Pause).expect_err("paused already");
    let ClientError::Refused(refused) = refused else {
        panic!("{refused}");
    };
    assert_eq!(refused.kind, ErrorKind::State);
    assert_eq!(machine.serial.so_far().len(), before, "it stands still");
    machine.request(Request::Resume).expect("running");
    assert_eq!(status(&machine).run, RunState::Running);
    machine.expect("....");
}

#[test]
fn a_machine_that_starts_paused_waits_for_resume() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=hello")
        .paused()
        .start()
        .expect("start");
    assert!(matches!(status(&machine).run, RunState::Paused { .. }));
    assert_eq!(machine.serial.so_far(), "");
    machine.request(Request::Resume).expect("running");
    machine.expect_pass();
}

#[test]
fn a_reset_starts_the_guest_again_in_the_same_process() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=idle").start().expect("start");
    let pid = status(&machine).pid;
    for _ in 0..3 {
        machine.expect("ready");
        machine.request(Request::Reset).expect("reset");
    }
    machine.expect("ready");
    assert_eq!(status(&machine).pid, pid);
    machine.request(Request::Destroy).expect("destroyed");
    assert_eq!(machine.wait().expect("ends"), 0);
}

#[test]
fn destroy_is_answered_before_the_process_goes() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=idle").start().expect("start");
    machine.expect("ready");
    let mut client = machine.control().expect("connected");
    client
        .call(Request::Events, &[], tests::serial::PATIENCE)
        .expect("events");
    machine.request(Request::Destroy).expect("an answer");
    assert_eq!(machine.wait().expect("ends"), 0);
    assert_eq!(
        machine.end().expect("a record").reason,
        EndReason::Destroyed
    );
    let event = client
        .next_event(tests::serial::PATIENCE)
        .expect("the last event");
    assert!(format!("{event:?}").contains("Destroyed"), "{event:?}");
}

#[test]
fn a_kernel_that_is_none_is_named_and_the_record_says_failed() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("")
        .kernel(Path::new("/proc/self/exe"), None)
        .memory(1)
        .start()
        .expect("start");
    assert_eq!(machine.wait().expect("ends"), 1);
    let end = machine.end().expect("a record");
    assert_eq!(end.reason, EndReason::Failed);
    assert!(!end.detail.is_empty());
}

fn terminate(machine: &Machine) {
    let pid = i32::try_from(machine.pid()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
}

#[test]
fn sigterm_gives_the_guest_its_time_and_then_ends_it() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    // The test guest does not answer its power button.
    let mut machine = Builder::guest("test=idle")
        .adjust(|spec| spec.host.powerdown_seconds = 1)
        .start()
        .expect("start");
    machine.expect("ready");
    terminate(&machine);
    assert_eq!(machine.wait().expect("ends"), 0);
    let end = machine.end().expect("a record");
    assert_eq!(end.reason, EndReason::Destroyed);
    assert!(end.detail.contains("did not power down"), "{}", end.detail);
}

#[test]
fn sigterm_ends_a_paused_guest_at_once() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let mut machine = Builder::guest("test=idle").start().expect("start");
    machine.expect("ready");
    machine.request(Request::Pause).expect("paused");
    terminate(&machine);
    assert_eq!(machine.wait().expect("ends"), 0);
    assert_eq!(
        machine.end().expect("a record").reason,
        EndReason::Destroyed
    );
}
