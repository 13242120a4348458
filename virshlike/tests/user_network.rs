//! `<interface type='user'>`: what passt is told, and that it lives and ends with its guest. A script
//! stands in for passt.

mod common;

use common::World;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Writes its words to `said`, serves until the socket's other end is gone, and says so.
const SERVES: &str = r#"#!/bin/bash
echo "$*" >> DIR/said
while [ $# -gt 0 ]; do [ "$1" = --fd ] && fd=$2; shift; done
( cat <&$fd >/dev/null; echo ended >> DIR/said ) >/dev/null 2>&1 &
"#;

/// Serves under its name, and stays whatever happens to the socket. What runs then is a program beside it,
/// as passt's build for newer processors is: another one would be nobody's to end.
const STAYS: &str = r#"#!/bin/bash
name=$(cat DIR/store/run/vm/*/run.json | grep -o 'passt-[0-9a-f-]*')
cp "$(command -v sleep)" DIR/bin/passt.avx2
( exec -a "$name" DIR/bin/passt.avx2 600 ) >/dev/null 2>&1 &
"#;

const REFUSES: &str = r#"#!/bin/bash
echo "Failed to send 39 bytes to syslog" >&2
echo "No external routable interface for IPv4" >&2
exit 1
"#;

/// A world with a passt that is this script.
fn world(passt: &str) -> World {
    let world = World::new();
    let dir = world.path("").display().to_string();
    let path = world.path("bin/passt");
    fs::write(&path, passt.replace("DIR", dir.trim_end_matches('/'))).expect("a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("a script");
    world
}

fn define(world: &World, interfaces: &str) {
    let path = world.write_xml("web", "");
    let xml = fs::read_to_string(&path).expect("a definition");
    let xml = xml.replace("</devices>", &format!("{interfaces}</devices>"));
    fs::write(&path, xml).expect("a definition");
    world.ok(&["define", &path.display().to_string()]);
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn said(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("said")).unwrap_or_default();
    text.lines().map(str::to_string).collect()
}

const FULL: &str = "<interface type='user'><mac address='52:54:00:aa:00:01'/>\
     <source dev='eth7'/><model type='virtio'/><mtu size='1400'/>\
     <ip family='ipv4' address='172.17.2.4' prefix='24'/>\
     <portForward proto='tcp' address='127.0.0.1'><range start='8022' to='22'/></portForward>\
     <portForward proto='udp'><range start='5000' end='5020'/><range start='5010' exclude='yes'/>\
     </portForward><backend type='passt' logFile='/tmp/p.log'/></interface>\
     <interface type='user'><mac address='52:54:00:aa:00:02'/></interface>";

#[test]
fn each_card_has_a_passt_that_ends_with_the_guest() {
    let world = world(SERVES);
    define(&world, FULL);
    world.ok(&["start", "web"]);
    let lines = said(&world);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (words, fd) = lines[0].rsplit_once(' ').expect("words");
    assert_eq!(
        words,
        "--one-off --log-file /tmp/p.log --interface eth7 --mtu 1400 --address 172.17.2.4 \
         --netmask 24 --tcp-ports 127.0.0.1/8022:22 --udp-ports 5000-5020,~5010 --fd"
    );
    assert!(fd.parse::<u32>().is_ok_and(|fd| fd > 2), "{fd}");
    assert!(lines[1].starts_with("--one-off --fd "), "{lines:?}");
    let listed = world.ok(&["-q", "domiflist", "web"]);
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    assert_eq!(rows[0], ["-", "user", "-", "virtio", "52:54:00:aa:00:01"]);
    assert_eq!(rows.len(), 2);
    let errors = world.fails(&["domifstat", "web", "vnet0"]);
    assert!(
        errors.contains("it has 52:54:00:aa:00:01, 52:54:00:aa:00:02"),
        "{errors}"
    );
    assert!(
        world
            .ok(&["dumpxml", "web"])
            .contains("<interface type='user'>")
    );
    // A guest that is paused keeps its network.
    world.ok(&["suspend", "web"]);
    world.ok(&["resume", "web"]);
    assert_eq!(said(&world).len(), 2);
    world.ok(&["destroy", "web"]);
    wait_until("both end with the guest", || {
        said(&world).iter().filter(|line| *line == "ended").count() == 2
    });
    world.ok(&["start", "web"]);
    world.ok(&["destroy", "web"]);
    wait_until("and those of the next run", || said(&world).len() == 8);
}

#[test]
fn a_passt_that_does_not_start_is_quoted_and_the_guest_is_not_started() {
    let world = world(REFUSES);
    define(&world, FULL);
    let errors = world.fails(&["start", "web"]);
    for wanted in [
        "passt does not serve the interface",
        "No external routable interface for IPv4",
        "its log is /tmp/p.log",
    ] {
        assert!(errors.contains(wanted), "{wanted}: {errors}");
    }
    assert!(!errors.contains("syslog"), "{errors}");
    assert_eq!(world.ok(&["domstate", "web"]).trim(), "shut off");
}

#[test]
fn without_passt_the_start_says_what_to_install() {
    let world = World::new();
    define(&world, "<interface type='user'/>");
    let vm = std::path::Path::new(env!("CARGO_BIN_EXE_vm"));
    let output = world
        .command("vm")
        .env("PATH", vm.parent().expect("a folder"))
        .args(["start", "web"])
        .output()
        .expect("vm runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("cannot find 'passt'") && errors.contains("apt install passt"),
        "{errors}"
    );
}

/// Whether a process runs under the name of the domain's first passt.
fn stays(uuid: &str) -> bool {
    let name = format!("passt-{uuid}-0-");
    let entries = fs::read_dir("/proc").expect("processes");
    entries.flatten().any(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|l| l.starts_with(name.as_bytes()))
    })
}

#[test]
fn one_that_is_left_over_is_ended_by_the_next_command() {
    let world = world(STAYS);
    define(&world, "<interface type='user'/>");
    let uuid = world.ok(&["-q", "domuuid", "web"]).trim().to_string();
    world.ok(&["start", "web"]);
    wait_until("it runs", || stays(&uuid));
    world.ok(&["destroy", "web"]);
    // Any command that starts something sweeps.
    let other = world.write_xml("other", "");
    world.ok(&["create", &other.display().to_string()]);
    wait_until("it is ended", || !stays(&uuid));
    world.ok(&["destroy", "other"]);
}
