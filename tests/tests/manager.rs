//! The main job as a person does it, on raw KVM: the real `vm`, the real `vmm`, the test guest.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use tests::world::World;
use tests::{program, skip_unless};

/// Whether a process has ended, every thread of it.
fn has_ended(process: &OwnedFd, patience: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    poll(&mut fds, patience).expect("a poll") > 0
}

#[test]
fn a_guest_without_a_group_of_its_own_says_so_in_its_log() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("grouped", "test=echo");
    world.ok(&["start", "grouped"]);
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", world.pid("grouped")));
    let own = groups.expect("its groups").contains("/vm-grouped");
    let log = world.ok(&["logs", "grouped"]);
    assert_eq!(
        log.contains("stays in the cgroup of what started it"),
        !own,
        "{log}"
    );
}

#[test]
fn host_check_measures_guest_kernel_code() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    let found = world.ok(&["--format", "json", "host-check"]);
    let checks: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let mut items = checks.as_array().expect("a list").iter();
    let item = items
        .find(|check| check["item"] == "guest kernels")
        .expect("measured");
    let each = item["ns_per_iteration"].as_f64().expect("a figure");
    assert!(each > 0.0, "{item}");
    assert_eq!(item["verdict"] == "PASS", item["next"].is_null(), "{item}");
    assert!(world.ok(&["host-check"]).contains("guest kernels"));
}

#[test]
fn define_start_console_destroy() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("echo", "test=echo");
    assert_eq!(world.ok(&["start", "echo"]), "Domain 'echo' started\n\n");
    assert!(world.ok(&["list"]).contains(" 1    echo   running"));
    let mut console = world
        .command(&["console", "echo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("vm console");
    let mut typed = console.stdin.take().expect("a pipe");
    typed.write_all(b"hello there").expect("typing");
    let mut shown = console.stdout.take().expect("a pipe");
    let mut seen = String::new();
    let mut bytes = [0; 256];
    while !seen.contains("HELLO THERE") {
        let count = shown.read(&mut bytes).expect("reading");
        assert!(count > 0, "the console ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(
        seen.starts_with("Connected to domain 'echo'\nEscape character is ^] (Ctrl + ])\n"),
        "{seen}"
    );
    typed.write_all(b"\x1d").expect("typing");
    assert!(console.wait().expect("the console ends").success());
    let vcpus = world.ok(&["vcpuinfo", "echo", "--pretty"]);
    for fact in ["VCPU:           0", "State:          running", "(out of "] {
        assert!(vcpus.contains(fact), "{fact}: {vcpus}");
    }
    let process = world.process("echo");
    world.ok(&["suspend", "echo"]);
    assert_eq!(
        world.ok(&["-q", "domstate", "echo", "--reason"]),
        "paused (user)\n"
    );
    world.ok(&["resume", "echo"]);
    assert!(
        world
            .ok(&["dumpxml", "echo"])
            .contains("<console type='pty' tty='/dev/pts/")
    );
    world.ok(&["destroy", "echo"]);
    assert!(
        has_ended(&process, Some(&Timespec::default())),
        "destroy returned before the process was gone"
    );
    assert_eq!(
        world.ok(&["-q", "domstate", "echo", "--reason"]),
        "shut off (destroyed)\n"
    );
}

#[test]
fn a_disk_has_one_user() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("first", "test=idle");
    world.define("second", "test=idle");
    world.ok(&["start", "first"]);
    let errors = world.fails(&["start", "second"]);
    assert!(
        errors.contains("in use") && errors.contains("'first'"),
        "{errors}"
    );
    assert_eq!(world.ok(&["-q", "list", "--name"]), "first\n");
    world.ok(&["destroy", "first"]);
    // The image is free at once.
    world.ok(&["start", "second"]);
    assert_eq!(world.ok(&["-q", "list", "--name"]), "second\n");
}

#[test]
fn a_guest_that_is_killed_starts_again_a_hundred_times() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("victim", "test=ioloop count=1000000");
    for round in 0..100 {
        world.ok(&["start", "victim"]);
        let process = world.process("victim");
        pidfd_send_signal(&process, Signal::KILL).expect("a kill");
        assert!(has_ended(&process, None));
        let state = world.ok(&["-q", "domstate", "victim", "--reason"]);
        assert_eq!(state, "shut off (crashed)\n", "round {round}");
    }
    assert_eq!(world.ok(&["-q", "list"]), "");
}

/// `vm start`, `vm destroy` and `vm suspend` are killed at moments all over their run: afterwards every verb
/// works, and there is one process or none.
#[test]
fn a_vm_that_is_killed_at_any_moment_leaves_a_domain_that_every_verb_works_on() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("victim", "test=idle");
    let mut running = 0;
    for round in 0..60u64 {
        let verb = ["start", "destroy", "suspend"][round as usize % 3];
        let mut command = world.command(&[verb, "victim"]);
        let mut vm = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("vm");
        // From before its first line to after its last.
        std::thread::sleep(std::time::Duration::from_micros(round * 700));
        vm.kill().expect("a kill");
        vm.wait().expect("its end");
        let state = world.ok(&["-q", "domstate", "victim"]);
        let listed = world.ok(&["-q", "list", "--name"]);
        match state.trim() {
            "shut off" => assert_eq!(listed, "", "round {round}"),
            "running" | "paused" => {
                running += 1;
                assert_eq!(listed, "victim\n", "round {round}");
            }
            other => panic!("round {round}: {other}"),
        }
        if round % 6 == 5 {
            // Whatever it was in the middle of: it can be brought to a known state.
            if state.trim() != "shut off" {
                world.ok(&["destroy", "victim"]);
            }
            world.ok(&["start", "victim"]);
            world.ok(&["suspend", "victim"]);
            world.ok(&["resume", "victim"]);
            world.ok(&["destroy", "victim"]);
        }
    }
    println!("{running} of 60 moments found the guest running");
}

#[test]
fn a_guest_outlives_the_session_that_started_it() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    world.define("lasting", "test=beat gap=100 count=1000000");
    // A session of its own, whose leader ends and hangs up on everything in it.
    let vm = program::vm().expect("vm");
    let script = format!("{} start lasting; kill -HUP 0", vm.display());
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", &script])
        .env("VM_STORE_ROOT", world.path("store"))
        .env("VM_VMM", program::vmm().expect("vmm"))
        .stdin(Stdio::null());
    command.output().expect("a session");
    assert_eq!(world.ok(&["-q", "domstate", "lasting"]), "running\n");
}
