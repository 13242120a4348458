//! `vm event` while things happen to domains: each is told, once, in its order.

mod common;

use common::World;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

#[test]
fn every_change_of_a_domain_is_told() {
    let world = World::new();
    let path = world.write_xml("web01", "");
    let file = path.to_str().unwrap();
    let mut listener = world
        .command("vm")
        .args(["event", "--loop", "--timeout", "300", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    // The first event is provoked until it is heard: only then is the listener known to listen.
    let over = std::sync::atomic::AtomicBool::new(false);
    let first = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                world.ok(&["define", file]);
                world.ok(&["undefine", "web01"]);
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
        });
        let first = lines.next().unwrap().unwrap();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        first
    });
    assert!(first.contains("fined"), "{first}");
    world.ok(&["define", file]);
    let mut wait_for = |event: &str, detail: &str| {
        for line in lines.by_ref() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(line["domain"], "web01");
            if line["event"] == event && line["detail"] == detail {
                return;
            }
        }
        panic!("the listener ended before '{detail}'");
    };
    wait_for("lifecycle", "Defined Added");
    std::fs::write(&path, world.xml("web01", "quiet")).unwrap();
    world.ok(&["define", file]);
    wait_for("lifecycle", "Defined Updated");
    world.ok(&["start", "web01"]);
    wait_for("lifecycle", "Started Booted");
    world.ok(&["suspend", "web01"]);
    wait_for("lifecycle", "Suspended Paused");
    world.ok(&["resume", "web01"]);
    wait_for("lifecycle", "Resumed Unpaused");
    world.ok(&["reset", "web01"]);
    wait_for("reboot", "");
    world.ok(&["destroy", "web01"]);
    wait_for("lifecycle", "Stopped Destroyed");
    world.ok(&["undefine", "web01"]);
    wait_for("lifecycle", "Undefined Removed");
    listener.kill().unwrap();
    listener.wait().unwrap();
}
