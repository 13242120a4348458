//! `vm event` and `vm net-event` while things happen: each is told, once, in its order.

mod common;

use common::World;
use common::daemon::Daemon;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    let text = world.ok(&["net-event", "--timeout", "0"]);
    assert_eq!(text, "event loop timed out\nevents received: 0\n\n");
    world.fails(&["net-event", "--event", "reboot"]);
}
