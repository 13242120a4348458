//! The test guest under our `vmm` on this machine's KVM: boot, console, pause and end.

use std::io::{Read, Write};

use tests::machine::Builder;
use tests::{have_kvm, skip_unless};
use vmm_api::console::{Attach, Role};
use vmm_api::control::{Reply, Request};
use vmm_api::end::EndReason;
use vmm_api::state::RunState;

const NO_KVM: &str = "/dev/kvm cannot be opened";

fn run_state(reply: Reply) -> RunState {
    match reply {
        Reply::Status(status) => status.run,
        other => panic!("a query is answered by {other:?}"),
    }
}

#[test]
fn the_guest_says_hello_and_ends_the_process_with_its_code() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=hello").start().unwrap();
    machine.expect("hello from ring 3");
    machine.expect_pass();
    assert_eq!(machine.end().unwrap().reason, EndReason::DebugExit);
}

/// KVM's threads stay in the control group in which the machine was made, so there must be none before.
#[test]
fn a_process_that_is_held_back_makes_no_machine() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut prepared = Builder::guest("test=hello").prepare().unwrap();
    let gate = prepared.held_back().unwrap();
    let (mut child, mut output, _folder) = prepared.spawn().unwrap();
    let proc = format!("/proc/{}", child.id());
    let waits =
        || std::fs::read_to_string(format!("{proc}/wchan")).is_ok_and(|at| at.contains("pipe"));
    while !waits() {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let links = std::fs::read_dir(format!("{proc}/fd")).unwrap();
    for link in links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()) {
        assert!(!link.to_string_lossy().contains("kvm-vm"), "{link:?}");
    }
    drop(gate);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(said.contains("hello from ring 3"), "{said}");
    child.wait().unwrap();
}

#[test]
fn a_failing_guest_is_seen_in_the_exit_code() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=nonsense").start().unwrap();
    machine.expect("FAIL");
    assert_eq!(machine.wait().unwrap(), 1);
}

#[test]
fn every_pause_stops_a_spinning_guest_and_every_resume_lets_it_go_on() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=beat").start().unwrap();
    machine.expect("ready");
    let mut control = machine.control().unwrap();
    let patience = tests::serial::PATIENCE;
    for _ in 0..200 {
        control.call(Request::Pause, &[], patience).unwrap();
        assert!(!run_state(control.call(Request::Query, &[], patience).unwrap()).runs());
        control.call(Request::Resume, &[], patience).unwrap();
        assert!(run_state(control.call(Request::Query, &[], patience).unwrap()).runs());
    }
    let passed = machine.serial.so_far().len();
    machine.expect(".");
    assert!(machine.serial.so_far().len() >= passed);
    control.call(Request::Destroy, &[], patience).unwrap();
    machine.wait().unwrap();
    assert_eq!(machine.end().unwrap().reason, EndReason::Destroyed);
}

#[test]
fn a_machine_that_starts_paused_is_silent_until_it_is_resumed() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=hello").paused().start().unwrap();
    assert!(!run_state(machine.request(Request::Query).unwrap()).runs());
    assert_eq!(machine.serial.so_far(), "");
    machine.request(Request::Resume).unwrap();
    machine.expect_pass();
}

#[test]
fn what_a_viewer_types_reaches_the_guest_and_its_answer_comes_back() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=echo").start().unwrap();
    machine.expect("ready");
    let (attached, mut line) = machine
        .console(Attach {
            write: true,
            force: false,
        })
        .unwrap();
    assert_eq!(attached.role, Role::Writer);
    let (second, _) = machine
        .console(Attach {
            write: true,
            force: false,
        })
        .unwrap();
    assert_eq!(second.role, Role::Viewer);
    line.write_all(b"abcq").unwrap();
    let mut seen = String::new();
    line.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("ready") && seen.contains("ABC"), "{seen:?}");
    machine.expect_pass();
}

#[test]
fn a_crash_leaves_no_last_words() {
    skip_unless!(have_kvm(), "{NO_KVM}");
    let mut machine = Builder::guest("test=idle").start().unwrap();
    machine.expect("ready");
    machine.kill().unwrap();
    assert!(machine.end().is_none());
}
