//! The verbs that a guest's agent answers, with an agent of the tests' own in a fake guest: what is
//! printed, what changes, and what is said when nobody answers.

mod common;

use common::World;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHANNEL: &str = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>";

fn world(cmdline: &str, channel: &str) -> World {
    let world = World::new();
    std::fs::write(world.path("a.img"), vec![0; 1 << 20]).unwrap();
    let disk = format!(
        "<devices><disk type='file'><driver type='raw'/><source file='{}'/><target dev='vda'/><serial>S1</serial></disk>",
        world.path("a.img").display()
    );
    let xml = world
        .xml("web01", cmdline)
        .replace("<devices>", &disk)
        .replace("</devices>", channel);
    std::fs::write(world.path("web01.xml"), xml).unwrap();
    world.ok(&["define", "web01.xml"]);
    world.ok(&["start", "web01"]);
    world
}

#[test]
fn facts_of_a_guest_are_printed_as_virsh_does() {
    let world = world("", CHANNEL);
    assert_eq!(world.ok(&["domtime", "web01"]), "Time: 1600000000\n\n");
    assert_eq!(
        world.ok(&["-q", "domtime", "web01", "--pretty"]),
        "Time: 2020-09-13 12:26:40\n"
    );
    assert_eq!(world.ok(&["-q", "domhostname", "web01"]), "web01.example\n");
    let table = " Name       MAC address          Protocol     Address\n\
        -------------------------------------------------------------------------------\n \
        lo         00:00:00:00:00:00    ipv4         127.0.0.1/8\n \
        -          -                    ipv6         ::1/128\n \
        eth0       52:54:00:00:00:01    ipv4         192.168.122.5/24\n \
        eth1       52:54:00:00:00:02    N/A          N/A\n\n";
    assert_eq!(
        world.ok(&["domifaddr", "web01", "--source", "agent"]),
        table
    );
    let full = world.ok(&["-q", "domifaddr", "web01", "lo", "--full"]);
    assert_eq!(full.matches("lo  ").count(), 2);
    assert_eq!(
        world.ok(&["domfsinfo", "web01"]),
        " Mountpoint   Name   Type   Target\n------------------------------------\n \
         /            vda1   ext4   vda\n\n"
    );
    assert_eq!(
        world.ok(&["-q", "guestvcpus", "web01"]),
        "vcpus          : 0-3\nonline         : 0-3\nofflinable     : 1-3\n"
    );
    let info = world.ok(&["-q", "guestinfo", "web01"]);
    for line in [
        "user.count          : 1",
        "user.0.login-time   : 1600000000250",
        "os.pretty-name      : Debian [2J12",
        "timezone.offset     : 3600",
        "hostname            : web01.example",
        "fs.0.disk.0.alias   : vda",
        "if.1.addr.0.prefix  : 24",
    ] {
        assert!(info.lines().any(|found| found == line), "{line}:\n{info}");
    }
    // This agent does not know its disks: it is left out, unless it was asked for.
    assert!(!info.contains("\ndisk."));
    let error = world.fails(&["guestinfo", "web01", "--disk"]);
    assert!(error.contains("does not know 'guest-get-disks'"), "{error}");
}

#[test]
fn a_guest_is_changed_and_it_is_noted() {
    let world = world("", CHANNEL);
    let time = || world.ok(&["-q", "domtime", "web01"]);
    world.ok(&["domtime", "web01", "--time", "1500000000"]);
    assert_eq!(time(), "Time: 1500000000\n");
    world.ok(&["domtime", "web01", "--sync"]);
    assert_eq!(time(), "Time: 1700000000\n");
    world.ok(&["domtime", "web01", "--now"]);
    assert_ne!(time(), "Time: 1700000000\n");
    world.fails(&["domtime", "web01", "--time", "9223372036854775807"]);
    let froze = world.ok(&["domfsfreeze", "web01", "/", "/var", "/home"]);
    assert_eq!(froze, "Froze 3 filesystem(s)\n\n");
    let error = world.fails(&["domfsfreeze", "web01"]);
    assert!(error.contains("Unable to freeze"), "{error}");
    assert!(error.contains("has been disabled"), "{error}");
    assert_eq!(
        world.ok(&["domfsthaw", "web01"]),
        "Thawed 1 filesystem(s)\n\n"
    );
    assert_eq!(
        world.ok(&["-q", "domfstrim", "web01", "--minimum", "4096"]),
        ""
    );
    world.fails(&["domfstrim", "web01", "--mountpoint", "/"]);
    assert_eq!(
        world.ok(&["set-user-password", "web01", "root", "secret"]),
        "Password set successfully for root in web01\n\n"
    );
    let error = world.fails(&["set-user-password", "web01", "nobody", "secret"]);
    assert!(error.contains("no such user"), "{error}");
    world.ok(&["guestvcpus", "web01", "--cpulist", "2-3", "--disable"]);
    assert!(
        world
            .ok(&["guestvcpus", "web01"])
            .contains("online         : 0-1\n")
    );
    let error = world.fails(&["guestvcpus", "web01", "--cpulist", "2,9", "--enable"]);
    assert!(error.contains("changed 1 of 2"), "{error}");
    world.fails(&["guestvcpus", "web01", "--cpulist", "0", "--disable"]);
    let history = world.ok(&["history", "web01"]);
    for verb in ["domtime", "domfsfreeze", "domfsthaw", "set-user-password"] {
        assert!(history.contains(verb), "{verb}: {history}");
    }
    assert!(!history.contains("secret"));
}

#[test]
fn any_command_reaches_the_agent() {
    let world = world("", CHANNEL);
    let ask = r#"{"execute": "guest-get-timezone"}"#;
    assert_eq!(
        world.ok(&["-q", "qemu-agent-command", "web01", ask]),
        "{\"return\":{\"offset\":3600,\"zone\":\"CET\"}}\n"
    );
    let pretty = world.ok(&["-q", "qemu-agent-command", "web01", "--pretty", ask]);
    let value: Value = serde_json::from_str(&pretty).unwrap();
    assert_eq!(value["return"]["zone"], "CET");
    let error = world.fails(&["qemu-agent-command", "web01", r#"{"execute": "guest-x"}"#]);
    assert!(
        error.contains("unable to execute QEMU agent command 'guest-x'"),
        "{error}"
    );
    assert!(error.contains("has not been found"), "{error}");
    for wrong in ["guest-info", "{}", "[1"] {
        let error = world.fails(&["qemu-agent-command", "web01", wrong]);
        assert!(error.contains("no command of a guest agent"), "{error}");
    }
}

#[test]
fn who_does_not_answer_is_told_within_the_deadline() {
    let mute = world("fake.mute", CHANNEL);
    let error = mute.fails(&["domtime", "web01"]);
    assert!(error.contains("Guest agent is not responding"), "{error}");
    let none = world("", "</devices>");
    let error = none.fails(&["domhostname", "web01"]);
    assert!(
        error.contains("QEMU guest agent is not configured"),
        "{error}"
    );
    assert!(error.contains("vm edit web01"), "{error}");
    // This host has no neighbour of that name; it is asked, and no guest is.
    let table = none.ok(&["-q", "domifaddr", "web01"]);
    assert_eq!(table, "");
    // It has no card in a virtual network, so there are no leases.
    let table = none.ok(&["-q", "domifaddr", "web01", "--source", "lease"]);
    assert_eq!(table, "");
    assert!(
        none.fails(&["domifaddr", "web01", "--source", "dns"])
            .contains("Unknown data source")
    );
    none.ok(&["destroy", "web01"]);
    let error = none.fails(&["domtime", "web01"]);
    assert!(error.contains("domain is not running"), "{error}");
}

/// QEMU's guest agent, as guests run it, with a copy of this host's settings for its own.
struct RealAgent {
    process: Child,
    place: tempfile::TempDir,
}

impl RealAgent {
    /// `None` where it is not installed, or may not have settings of its own.
    fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let program = std::env::split_paths(&path)
            .chain(usual)
            .map(|folder| folder.join("qemu-ga"))
            .find(|path| path.is_file());
        let Some(program) = program else {
            println!("skipped: no qemu-ga (package qemu-guest-agent)");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        let place = tempfile::tempdir().expect("a folder");
        let (etc, socket) = (place.path().join("etc"), place.path().join("agent"));
        // What it changes is the copy: without that it is not started.
        let script = format!(
            "cp -a /etc {etc} && mount --bind {etc} /etc && exec {program} -m unix-listen -p {socket} -t {state}",
            etc = etc.display(),
            program = program.display(),
            socket = socket.display(),
            state = place.path().display(),
        );
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut agent = Self { process, place };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !socket.exists() {
            if agent.process.try_wait().expect("its state").is_some() {
                println!("skipped: no right to a mount namespace");
                return None;
            }
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(agent)
    }

    /// What stands behind a user's name in its /etc/shadow.
    fn secret(&self, user: &str) -> String {
        secret(&self.place.path().join("etc/shadow"), user)
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn secret(path: &Path, user: &str) -> String {
    let text = std::fs::read_to_string(path).expect("a file of passwords");
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{user}:")));
    line.expect("the user")
        .split(':')
        .nth(1)
        .expect("a field")
        .to_string()
}

#[test]
fn qemus_own_agent_is_understood() {
    let Some(agent) = RealAgent::start() else {
        return;
    };
    let socket = agent.place.path().join("agent");
    let world = world(&format!("fake.agent={}", socket.display()), CHANNEL);
    let info = world.ok(&[
        "-q",
        "qemu-agent-command",
        "web01",
        "{\"execute\":\"guest-info\"}",
    ]);
    assert!(info.contains("guest-get-osinfo"), "{info}");
    let time = world.ok(&["-q", "domtime", "web01"]);
    let seconds: u64 = time
        .trim()
        .trim_start_matches("Time: ")
        .parse()
        .expect("seconds");
    assert!(seconds > 1_700_000_000, "{time}");
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().into_owned();
    for source in ["agent", "any"] {
        let told = world.ok(&["-q", "domhostname", "web01", "--source", source]);
        assert_eq!(told.trim(), name);
    }
    let told = world.fails(&["domhostname", "web01", "--source", "lease"]);
    assert!(told.contains("no hostname found"), "{told}");
    let facts = world.ok(&[
        "-q",
        "guestinfo",
        "web01",
        "--os",
        "--hostname",
        "--timezone",
    ]);
    for word in ["os.kernel-release", "hostname", "timezone.offset"] {
        assert!(facts.contains(word), "{word}: {facts}");
    }
    let cards = world.ok(&["-q", "domifaddr", "web01", "--source", "agent"]);
    assert!(cards.contains("lo "), "{cards}");
    world.ok(&["domfsinfo", "web01"]);
    let before = (
        agent.secret("nobody"),
        secret(Path::new("/etc/shadow"), "nobody"),
    );
    world.ok(&["set-user-password", "web01", "nobody", "new-secret-1"]);
    assert_ne!(agent.secret("nobody"), before.0);
    assert_eq!(secret(Path::new("/etc/shadow"), "nobody"), before.1);
    let refused = world.fails(&["set-user-password", "web01", "no-such-user", "new-secret-1"]);
    assert!(!refused.is_empty());
}
