//! `vm daemon` over guests without KVM: what it starts again, what it leaves alone, what it tells,
//! and that its own end touches nobody.

mod common;

use common::World;
use common::daemon::{Daemon, PATIENCE};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

fn define(world: &World, name: &str, words: &str, policy: &str) {
    let text = world.xml(name, words).replace(
        "  <memory",
        &format!("  <metadata xmlns:vm='urn:vm:domain:1'>{policy}</metadata>\n  <memory"),
    );
    let path = world.path(&format!("{name}.xml"));
    fs::write(&path, text).expect("a definition");
    world.ok(&["define", &path.display().to_string()]);
}

/// Kills a guest's process, as an accident would.
fn kill(world: &World, name: &str) {
    let uuid = world.ok(&["-q", "domuuid", name]);
    let path = world.store(&format!("run/vm/{}/run.json", uuid.trim()));
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON");
    let pid = record["process"]["pid"].to_string();
    let sent = Command::new("kill").args(["-KILL", &pid]).status();
    assert!(sent.expect("kill").success());
}

fn state(world: &World, name: &str) -> String {
    world.ok(&["-q", "domstate", name]).trim().to_string()
}

#[test]
fn a_guest_whose_process_died_is_started_again_if_it_should_be() {
    let world = World::new();
    define(
        &world,
        "ours",
        "",
        "<vm:restart policy='on-failure' delay='0'/>",
    );
    define(&world, "plain", "", "");
    let libvirts = world
        .xml("libvirts", "")
        .replace("  <devices>", "  <on_crash>restart</on_crash>\n  <devices>");
    fs::write(world.path("libvirts.xml"), libvirts).expect("a definition");
    world.ok(&["define", "libvirts.xml"]);
    // One is there before the daemon, the others come later.
    world.ok(&["start", "ours"]);
    let daemon = Daemon::start(&world);
    daemon.wait_for("ours", "started");
    for name in ["plain", "libvirts"] {
        world.ok(&["start", name]);
        daemon.wait_for(name, "started");
    }
    for name in ["ours", "libvirts"] {
        kill(&world, name);
        let entry = daemon.wait_for(name, "stopped");
        assert!(entry.contains("without a word"), "{entry}");
        daemon.wait_for(name, "restarted");
        assert_eq!(state(&world, name), "running");
    }
    kill(&world, "plain");
    daemon.wait_for("plain", "stopped");
    // A pause is told; whoever asks the guest directly is not disturbed by the daemon's ear.
    world.ok(&["suspend", "ours"]);
    daemon.wait_for("ours", "paused");
    world.ok(&["resume", "ours"]);
    daemon.wait_for("ours", "resumed");
    assert_eq!(
        world.ok(&["-q", "domstate", "plain", "--reason"]),
        "shut off (crashed)\n"
    );
    let history = world.ok(&["history", "ours"]);
    assert!(history.contains("restart 1 in a row"), "{history}");
}

#[test]
fn what_an_operator_ended_stays_ended() {
    let world = World::new();
    let always = "<vm:restart policy='always' delay='0'/>";
    define(&world, "first", "", always);
    define(&world, "second", "", always);
    let daemon = Daemon::start(&world);
    for (name, verb) in [("first", "destroy"), ("second", "shutdown")] {
        world.ok(&["start", name]);
        daemon.wait_for(name, "started");
        world.ok(&[verb, name]);
        daemon.wait_for(name, "stopped");
    }
    // Were one to be started again, it would be before this.
    define(&world, "third", "", always);
    world.ok(&["start", "third"]);
    daemon.wait_for("third", "started");
    kill(&world, "third");
    daemon.wait_for("third", "restarted");
    assert_eq!(world.ok(&["-q", "list", "--name"]), "third\n");
}

#[test]
fn a_guest_that_only_fails_is_given_up() {
    let world = World::new();
    define(
        &world,
        "flaky",
        "",
        "<vm:restart policy='on-failure' delay='0' max='2'/>",
    );
    let daemon = Daemon::start(&world);
    world.ok(&["start", "flaky"]);
    daemon.wait_for("flaky", "started");
    // From now on every start fails.
    let path = world.store("etc/vm/domains/flaky.xml");
    let text = fs::read_to_string(&path).expect("the definition");
    fs::write(&path, text.replace("console=ttyS0", "fake.fail")).expect("an edit");
    kill(&world, "flaky");
    for _ in 0..2 {
        let entry = daemon.wait_for("flaky", "restart-failed");
        assert!(entry.contains("asked to fail"), "{entry}");
    }
    let entry = daemon.wait_for("flaky", "given-up");
    assert!(entry.contains("PRIORITY=3"), "{entry}");
    assert_eq!(state(&world, "flaky"), "shut off");
}

#[test]
fn a_daemons_end_touches_no_guest_and_the_next_goes_on() {
    let world = World::new();
    define(
        &world,
        "lasting",
        "",
        "<vm:restart policy='on-failure' delay='0'/>",
    );
    let first = Daemon::start(&world);
    world.ok(&["start", "lasting"]);
    first.wait_for("lasting", "started");
    let second = world.fails(&["daemon"]);
    assert!(second.contains("another daemon"), "{second}");
    let id = world.ok(&["-q", "domid", "lasting"]);
    first.end("-KILL");
    let next = Daemon::start(&world);
    next.wait_for("lasting", "started");
    next.end("-TERM");
    assert_eq!(world.ok(&["-q", "domid", "lasting"]), id);
    // What happens while no daemon is there is taken up by the next.
    kill(&world, "lasting");
    let last = Daemon::start(&world);
    last.wait_for("lasting", "restarted");
    assert_eq!(state(&world, "lasting"), "running");
}

#[test]
fn changes_are_told_line_by_line() {
    let world = World::new();
    define(&world, "heard", "", "");
    let daemon = Daemon::start(&world);
    let socket = world.store("run/vm/daemon/events");
    let listener = UnixStream::connect(socket).expect("a listener");
    listener
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    world.ok(&["start", "heard"]);
    daemon.wait_for("heard", "started");
    world.ok(&["destroy", "heard"]);
    let mut actions = Vec::new();
    for line in BufReader::new(listener).lines() {
        let line = line.expect("a line");
        let notice: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(notice["domain"], "heard");
        actions.push(notice["action"].as_str().expect("a word").to_string());
        if actions.iter().any(|action| action == "stopped") {
            break;
        }
    }
    assert_eq!(actions, ["started", "stopped"]);
}

/// Its own memory: how much of the program's file is mapped in depends on how it was built, and the
/// benchmark of the manager measures that.
#[test]
fn an_idle_daemon_is_small() {
    let world = World::new();
    let daemon = Daemon::start(&world);
    let path = format!("/proc/{}/status", daemon.child.id());
    let status = fs::read_to_string(path).expect("its status");
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = rss
        .and_then(|rss| rss.split_whitespace().next()?.parse().ok())
        .expect("a size");
    println!("an idle daemon holds {kib} KiB of its own");
    assert!(kib < 4 * 1024, "{kib} KiB");
}

#[test]
fn a_guest_that_is_through_before_anybody_looks_is_judged_too() {
    let world = World::new();
    let policy = "<vm:restart policy='always' delay='0' max='2'/>";
    define(&world, "quick", "fake.off", policy);
    let daemon = Daemon::start(&world);
    world.ok(&["start", "quick"]);
    let entry = daemon.wait_for("quick", "given-up");
    assert!(entry.contains("after 2 restarts"), "{entry}");
}

/// Files of the daemon's that are open, and folders that it watches.
fn held(daemon: &Daemon) -> (usize, usize) {
    let pid = daemon.child.id();
    let count = |folder: &str| {
        let entries = fs::read_dir(format!("/proc/{pid}/{folder}"));
        entries.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    let infos = count("fdinfo").into_iter();
    let infos = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    let watches = infos.map(|info| info.matches("inotify wd").count()).sum();
    (count("fd").len(), watches)
}

#[test]
fn guests_that_came_and_went_leave_nothing_in_the_daemon() {
    let world = World::new();
    define(&world, "kept", "", "");
    let daemon = Daemon::start(&world);
    let round = || {
        world.ok(&["start", "kept"]);
        let path = world.write_xml("passing", "");
        world.ok(&["create", path.to_str().expect("a path")]);
        kill(&world, "kept");
        world.ok(&["destroy", "passing"]);
        daemon.wait_for("passing", "stopped");
        // The next start would find the last run's process still there.
        while state(&world, "kept") == "running" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    round();
    let settled = |wanted: Option<(usize, usize)>| {
        let deadline = Instant::now() + PATIENCE;
        let mut before = held(&daemon);
        loop {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let now = held(&daemon);
            if now == before && wanted.is_none_or(|wanted| wanted == now) {
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "{now:?}, and {wanted:?} at first"
            );
            before = now;
        }
    };
    let first = settled(None);
    for _ in 0..20 {
        round();
    }
    settled(Some(first));
}

#[test]
fn what_is_left_of_cores_goes_when_the_host_is_up_again() {
    let world = World::new();
    let dump = world.store("var/lib/vm/dump");
    fs::create_dir_all(&dump).expect("a folder");
    let place = |name: &str, bytes: &[u8]| {
        let path = dump.join(name);
        let mut file = fs::File::create(&path).expect("a file");
        file.write_all(bytes).expect("bytes");
        let before = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30);
        file.set_modified(before).expect("a time");
        path
    };
    let core = place("web-20040110-133704-1.core", b"\x7fELF and more");
    let empty = place("web-20040110-133704-2.core", b"");
    let daemon = Daemon::start(&world);
    let deadline = Instant::now() + PATIENCE;
    while empty.exists() {
        assert!(Instant::now() < deadline, "it is still there");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    daemon.end("-TERM");
    // Without a daemon the host's boot does it.
    let torn = place("web-20040110-133704-3.core", &[0; 4096]);
    world.ok(&["autostart-all"]);
    assert!(!torn.exists());
    assert!(core.exists());
}

#[test]
fn a_daemon_whose_directory_is_removed_ends_and_says_so() {
    let world = World::new();
    let mut daemon = Daemon::start(&world);
    fs::rename(world.store("run/vm"), world.store("run/gone")).expect("moved away");
    let status = daemon.child.wait().expect("its end");
    assert_eq!(status.code(), Some(1));
    // The next one begins anew.
    drop(Daemon::start(&world));
}
