//! What becomes of a domain whose guest ends by itself: on_poweroff, on_reboot and on_crash.

use std::time::{Duration, Instant};
use tests::console::Console;
use tests::skip_unless;
use tests::world::World;

/// Defines and starts a guest that ends in a way, with an action for that.
fn start(world: &World, how: &str, action: &str) {
    let kernel = tests::guest::build().expect("the test guest");
    let element = match how {
        "off" => "on_poweroff",
        "reset" => "on_reboot",
        _ => "on_crash",
    };
    world.define_xml(&format!(
        "<domain type='kvm'><name>{how}-{action}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=end how={how}</cmdline></os><{element}>{action}</{element}>\
         <devices><serial type='pty'/><panic model='isa'/></devices></domain>",
        kernel.display()
    ));
    let name = format!("{how}-{action}");
    // It may be gone before a start has told that it runs.
    world.ok(&["start", "--paused", &name]);
    world.ok(&["resume", &name]);
}

fn state(world: &World, name: &str) -> String {
    world
        .ok(&["-q", "domstate", name, "--reason"])
        .trim()
        .into()
}

/// Waits until the domain is in this state.
#[track_caller]
fn comes_to(world: &World, name: &str, expected: &str) {
    let started = Instant::now();
    while state(world, name) != expected {
        let late = started.elapsed() > Duration::from_secs(60);
        let log = || world.ok(&["logs", name]);
        assert!(
            !late,
            "{name} is {}, not {expected}\n{}",
            state(world, name),
            log()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_that_ends_is_gone_where_its_definition_says_destroy() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    for (how, reason) in [
        ("off", "shutdown"),
        ("reset", "shutdown"),
        ("panic", "crashed"),
        ("fault", "crashed"),
    ] {
        start(&world, how, "destroy");
        comes_to(
            &world,
            &format!("{how}-destroy"),
            &format!("shut off ({reason})"),
        );
    }
}

#[test]
fn a_guest_that_ends_starts_again_in_its_process_where_its_definition_says_restart() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    for how in ["off", "reset", "panic", "fault"] {
        start(&world, how, "restart");
        let name = format!("{how}-restart");
        let pid = world.pid(&name);
        let mut console = Console::open(&world, &name);
        for _ in 0..5 {
            console.wait_for("ready");
        }
        assert_eq!(world.pid(&name), pid);
        world.ok(&["destroy", &name]);
    }
}

#[test]
fn a_guest_that_ends_stays_for_a_look_where_its_definition_says_preserve() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    for (how, expected) in [
        ("off", "paused (user)"),
        ("reset", "paused (user)"),
        ("panic", "crashed (panicked)"),
        ("fault", "crashed (panicked)"),
    ] {
        start(&world, how, "preserve");
        let name = format!("{how}-preserve");
        comes_to(&world, &name, expected);
        if how == "panic" || how == "fault" {
            let errors = world.fails(&["resume", &name]);
            assert!(errors.contains("reset or destroy"), "{errors}");
            // What it was doing can be looked at.
            let core = world.path(&format!("{how}.core")).display().to_string();
            world.ok(&["dump", &name, &core, "--memory-only"]);
            assert_eq!(state(&world, &name), expected);
        }
        // And it can be brought back, to the same end.
        world.ok(&["reset", &name]);
        if expected.starts_with("paused") {
            world.vm(&["resume", &name]);
        }
        comes_to(&world, &name, expected);
        world.ok(&["destroy", &name]);
    }
}

/// Files with the cores of a domain, in the order of their making.
fn cores(world: &World) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(world.dumps()).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_core(path: &std::path::Path) -> bool {
    let bytes = std::fs::read(path).expect("a file");
    // An ELF core for x86-64, as long as its guest's memory at least.
    bytes.starts_with(b"\x7fELF") && bytes[16] == 4 && bytes[18] == 62 && bytes.len() > 64 << 20
}

#[test]
fn a_guest_that_crashes_leaves_a_core_where_its_definition_says_so() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    for how in ["panic", "fault"] {
        start(&world, how, "coredump-destroy");
        let name = format!("{how}-coredump-destroy");
        comes_to(&world, &name, "shut off (crashed)");
        let left = cores(&world);
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(is_core(&left[0]));
        assert!(world.ok(&["logs", &name]).contains("core"));
        std::fs::remove_file(&left[0]).expect("a core");
    }
    // One that ends in peace leaves none, once its end was seen.
    start(&world, "off", "destroy");
    comes_to(&world, "off-destroy", "shut off (shutdown)");
    assert!(cores(&world).is_empty());
}

#[test]
fn a_guest_that_restarts_after_each_crash_leaves_a_core_while_there_are_files() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    start(&world, "fault", "coredump-restart");
    let name = "fault-coredump-restart";
    let pid = world.pid(name);
    let mut console = Console::open(&world, name);
    for _ in 0..6 {
        console.wait_for("ready");
    }
    assert_eq!(world.pid(name), pid);
    let left = cores(&world);
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.iter().all(|core| is_core(core)));
    world.ok(&["destroy", name]);
    assert_eq!(cores(&world).len(), 4);
}

#[test]
fn what_is_not_built_is_refused_by_name_at_start() {
    skip_unless!(tests::have_kvm(), "no /dev/kvm");
    let world = World::new();
    let kernel = tests::guest::build().expect("the test guest");
    {
        let action = "rename-restart";
        world.define_xml(&format!(
            "<domain type='kvm'><name>{action}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel></os>\
             <on_crash>{action}</on_crash></domain>",
            kernel.display()
        ));
        let errors = world.fails(&["start", action]);
        assert!(
            errors.contains("on_crash") && errors.contains("not built"),
            "{errors}"
        );
    }
}
