//! `vm event` and `vm net-event` while things happen: each is told, once, in its order.

mod common;

use common::World;
use common::daemon::{Daemon, PATIENCE};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A command that prints events, one line of JSON each.
struct Listener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    /// Starts one, and does `provoke` over and over until it tells something: only then is it known
    /// to listen.
    fn start(world: &World, verb: &str, provoke: impl Fn() + Sync) -> Self {
        let mut child = world
            .command("vm")
            .args([verb, "--loop", "--timeout", "300", "--format", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let over = AtomicBool::new(false);
        let first = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    provoke();
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            let first = lines.next().unwrap().unwrap();
            over.store(true, Ordering::SeqCst);
            first
        });
        assert!(first.contains("fined"), "{first}");
        Self { child, lines }
    }

    #[track_caller]
    fn wait_for(&mut self, who: (&str, &str), event: &str, detail: &str) {
        for line in self.lines.by_ref() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(line[who.0], who.1);
            if line["event"] == event && line["detail"] == detail {
                return;
            }
        }
        panic!("the listener ended before '{detail}'");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest that tells of no event has ended as its last words say, and not crashed.
fn ends_of_a_silent_guest(world: &World, listener: &mut Listener) {
    let path = world.write_xml("web01", "fake.silent");
    let file = path.to_str().unwrap();
    let mut told = |detail: &str| listener.wait_for(("domain", "web01"), "lifecycle", detail);
    world.ok(&["define", file]);
    told("Defined Added");
    for (verb, end) in [
        ("shutdown", "Stopped Shutdown"),
        ("destroy", "Stopped Destroyed"),
    ] {
        world.ok(&["start", "web01"]);
        told("Started Booted");
        world.ok(&[verb, "web01"]);
        told(end);
    }
    world.ok(&["undefine", "web01"]);
    told("Undefined Removed");
    // Of one without a definition nothing is left that could be looked at.
    world.ok(&["create", file]);
    told("Started Booted");
    world.ok(&["destroy", "web01"]);
    told("Stopped Destroyed");
}

/// Everything that may happen to a domain, in the order in which it is told.
fn a_domains_life(world: &World, listener: &mut Listener) {
    let path = world.write_xml("web01", "");
    let file = path.to_str().unwrap();
    let mut told = |event: &str, detail: &str| {
        listener.wait_for(("domain", "web01"), event, detail);
    };
    world.ok(&["define", file]);
    told("lifecycle", "Defined Added");
    fs::write(&path, world.xml("web01", "quiet")).unwrap();
    world.ok(&["define", file]);
    told("lifecycle", "Defined Updated");
    world.ok(&["start", "web01"]);
    told("lifecycle", "Started Booted");
    world.ok(&["suspend", "web01"]);
    told("lifecycle", "Suspended Paused");
    world.ok(&["resume", "web01"]);
    told("lifecycle", "Resumed Unpaused");
    world.ok(&["reset", "web01"]);
    told("reboot", "");
    world.ok(&["destroy", "web01"]);
    told("lifecycle", "Stopped Destroyed");
    world.ok(&["undefine", "web01"]);
    told("lifecycle", "Undefined Removed");
}

fn define_and_undefine(world: &World) {
    let path = world.write_xml("web01", "");
    world.ok(&["define", path.to_str().unwrap()]);
    world.ok(&["undefine", "web01"]);
}

#[test]
fn every_change_of_a_domain_is_told() {
    let world = World::new();
    let mut listener = Listener::start(&world, "event", || define_and_undefine(&world));
    a_domains_life(&world, &mut listener);
    ends_of_a_silent_guest(&world, &mut listener);
}

#[test]
fn a_daemon_tells_the_same_and_its_end_is_no_end_of_listening() {
    let world = World::new();
    let daemon = Daemon::start(&world);
    let mut listener = Listener::start(&world, "event", || define_and_undefine(&world));
    // It is the daemon's socket that it hears, and no guest's.
    let sockets = fs::read_dir(format!("/proc/{}/fd", listener.child.id())).unwrap();
    let sockets = sockets
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    let sockets = sockets.filter(|to| to.to_string_lossy().starts_with("socket:"));
    assert_eq!(sockets.count(), 1);
    a_domains_life(&world, &mut listener);
    ends_of_a_silent_guest(&world, &mut listener);
    // One that dies in the middle leaves what is told after it whole.
    world.write_xml("web01", "");
    world.ok(&["define", "web01.xml"]);
    listener.wait_for(("domain", "web01"), "lifecycle", "Defined Added");
    daemon.end("-KILL");
    world.ok(&["undefine", "web01"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                define_and_undefine(&world);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        // Nobody but itself can have seen this one.
        listener.wait_for(("domain", "web01"), "lifecycle", "Undefined Removed");
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn every_change_of_a_networks_definition_is_told() {
    let world = World::new();
    let definition = |mtu: u32| {
        let text = format!("<network><name>lan</name><mtu size='{mtu}'/></network>");
        fs::write(world.path("lan.xml"), text).unwrap();
        world.ok(&["net-define", "lan.xml"]);
    };
    let mut listener = Listener::start(&world, "net-event", || {
        definition(1400);
        world.ok(&["net-undefine", "lan"]);
    });
    let mut told = |detail: &str| listener.wait_for(("network", "lan"), "lifecycle", detail);
    definition(1500);
    told("Defined");
    definition(1600);
    told("Defined");
    world.ok(&["net-undefine", "lan"]);
    told("Undefined");
    assert_eq!(world.ok(&["-q", "net-event", "--list"]), "lifecycle\n");
    world.fails(&["net-event", "--event", "reboot"]);
    // One that is there for less time than a look takes.
    definition(1700);
    world.ok(&["net-undefine", "lan"]);
    definition(1800);
    for word in ["Defined", "Undefined", "Defined"] {
        listener.wait_for(("network", "lan"), "lifecycle", word);
    }
}

#[test]
fn who_waited_in_vain_has_failed_as_with_virsh() {
    let world = World::new();
    for verb in ["event", "net-event"] {
        for more in [None, Some("--loop")] {
            let words = [verb, "--timeout", "0"].into_iter().chain(more);
            let output = world.vm(&words.collect::<Vec<_>>());
            assert_eq!(output.status.code(), Some(1), "{verb}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "event loop timed out\nevents received: 0\n\n"
            );
            assert!(output.stderr.is_empty());
        }
    }
}

#[test]
fn ctrl_c_ends_the_wait_with_virshs_words() {
    let world = World::new();
    for verb in ["event", "net-event"] {
        let mut command = world.command("vm");
        let command = command.args([verb, "--loop"]).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !catches_sigint(child.id()) {
            assert!(Instant::now() < deadline, "{verb} hears no signals");
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "event loop interrupted\nevents received: 0\n\n"
        );
    }
}

/// Whether a process has a handler for signal 2 (proc(5), `SigCgt`).
fn catches_sigint(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 0b10 != 0)
}

#[test]
fn a_daemon_hears_of_definitions_after_their_folder_was_made_anew() {
    let world = World::new();
    let _daemon = Daemon::start(&world);
    let mut listener = Listener::start(&world, "event", || define_and_undefine(&world));
    let mut told = |detail: &str| listener.wait_for(("domain", "web01"), "lifecycle", detail);
    let path = world.write_xml("web01", "");
    let folder = world.store("etc/vm/domains");
    for _ in 0..2 {
        world.ok(&["define", path.to_str().unwrap()]);
        told("Defined Added");
        fs::remove_dir_all(&folder).unwrap();
        told("Undefined Removed");
    }
    // Moved away it is none of ours any more; moved back it is.
    world.ok(&["define", path.to_str().unwrap()]);
    told("Defined Added");
    let away = world.path("away");
    fs::rename(&folder, &away).unwrap();
    told("Undefined Removed");
    fs::remove_file(away.join("web01.xml")).unwrap();
    fs::rename(&away, &folder).unwrap();
    world.ok(&["define", path.to_str().unwrap()]);
    told("Defined Added");
}
