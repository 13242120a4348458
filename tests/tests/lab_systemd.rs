//! A host that runs systemd, from the installation of the package to its purge, over a reboot: what
//! starts with the host runs, what was told to end has ended in time, and nothing that happens to the
//! daemon, the package or a login touches a guest.
//!
//! ```text
//! first boot:  install, log in and out, daemon restarted and killed, upgrade, reboot
//! second boot: what runs, what the first boot's end said, remove, install again, purge
//! ```
//!
//! Guests are stock kernels with an initial RAM disk that obeys the power button. Run in the lab
//! (`cargo xtask test --only-lab --scenario systemd`); the lab's runner starts this program again
//! after the reboot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take under emulation.
const PATIENCE: Duration = Duration::from_secs(150);

/// A guest's init: loads the lab's modules, then waits for the power button.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
$b sleep 1
for button in /dev/input/event*; do
    ($b dd if=$button of=/dev/null bs=24 count=1 2> /dev/null && $b poweroff -f) &
done
echo "GUEST-READY"
while :; do $b sleep 1000; done
"#;

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set"))
        .into()
}

fn run(program: &str, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    // The package's programs, not those that the lab has on its PATH.
    command.args(words).env("PATH", "/usr/sbin:/usr/bin");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[track_caller]
fn ok(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {words:?}: {said}{errors}"
    );
    said
}

#[track_caller]
fn vm(words: &[&str]) -> String {
    ok("vm", words).trim().to_owned()
}

/// What a program says, whatever it says.
fn said(program: &str, words: &[&str]) -> String {
    String::from_utf8_lossy(&run(program, words).stdout)
        .trim()
        .to_owned()
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}: not in time");
        thread::sleep(Duration::from_millis(100));
    }
}

fn step(what: &str) {
    println!("-- {what}");
}

/// The packages that the run brought along, oldest first.
fn packages() -> [String; 2] {
    let mut found: Vec<String> = fs::read_dir(variable("LAB_FILES"))
        .expect("the run's files")
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with(".deb"))
        .collect();
    found.sort();
    found.try_into().expect("two packages")
}

/// The lab's initial RAM disk with another init: a second archive is unpacked over the first.
fn initrd() -> PathBuf {
    let path = PathBuf::from("/var/lib/vm/images/button.cpio");
    let folder = tempfile::tempdir().expect("a folder");
    let init = folder.path().join("init");
    fs::write(&init, INIT).expect("an init");
    ok("chmod", &["755", &init.display().to_string()]);
    let line = format!(
        "cp {} {to} && chmod u+w {to} && cd {} && echo init | busybox cpio -o -H newc >> {to}",
        variable("LAB_INITRD").display(),
        folder.path().display(),
        to = path.display()
    );
    ok("sh", &["-c", &line]);
    path
}

fn define(name: &str, initrd: &Path, metadata: &str) {
    let text = format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>128</memory>\
         <metadata xmlns:vm='urn:vm:domain:1'>{metadata}</metadata>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <initrd>{}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><serial type='pty'/></devices></domain>",
        variable("LAB_KERNEL").display(),
        initrd.display()
    );
    let path = format!("/root/{name}.xml");
    fs::write(&path, text).expect("a definition");
    vm(&["-q", "define", &path]);
}

fn is_up(name: &str) -> bool {
    let log = fs::read(format!("/var/log/vm/{name}/console.log")).unwrap_or_default();
    String::from_utf8_lossy(&log).contains("GUEST-READY")
}

/// Ids of everything that runs: the same ids are the same processes.
fn ids() -> String {
    let (ids, names) = (vm(&["-q", "list", "--id"]), vm(&["-q", "list", "--name"]));
    ids.lines()
        .zip(names.lines())
        .map(|(id, name)| format!("{id} {name}\n"))
        .collect()
}

fn show(unit: &str, property: &str) -> String {
    let property = format!("--property={property}");
    ok("systemctl", &["show", "--value", &property, unit])
        .trim()
        .to_owned()
}

fn journal(words: &[&str]) -> String {
    said(
        "journalctl",
        &[&["-q", "-o", "cat", "--no-pager"], words].concat(),
    )
}

#[test]
fn guests_outlive_everything_but_their_host() {
    let Some(boot) = std::env::var_os("LAB_BOOT") else {
        println!("skipped: LAB_BOOT is not set: run this in a lab host with systemd");
        return;
    };
    match boot.to_string_lossy().as_ref() {
        "1" => first_boot(),
        "2" => second_boot(),
        other => panic!("boot {other}: the host went down when nobody asked it to"),
    }
}

fn first_boot() {
    step("install");
    // So that the next boot can read what this one said.
    fs::create_dir_all("/var/log/journal").expect("a folder");
    ok("systemctl", &["restart", "systemd-journald"]);
    ok("journalctl", &["--flush"]);
    let [first, second] = packages();
    ok("dpkg", &["--install", &first]);
    for unit in ["vm-guests", "vm-autostart"] {
        assert_eq!(ok("systemctl", &["is-enabled", unit]).trim(), "enabled");
    }
    assert_eq!(
        ok("systemctl", &["is-active", "vm-guests"]).trim(),
        "active"
    );
    assert_eq!(said("systemctl", &["is-enabled", "vm-daemon"]), "disabled");

    let initrd = initrd();
    define("database", &initrd, "<vm:autostart order='1'/>");
    define("web", &initrd, "<vm:restart policy='on-failure'/>");
    define("plain", &initrd, "");
    vm(&["-q", "autostart", "database"]);
    vm(&["-q", "autostart", "web"]);

    step("log in, start a guest, log out");
    login_and_out("/usr/bin/vm -q start plain");
    assert_eq!(vm(&["-q", "domstate", "plain"]), "running");
    ok("vm", &["autostart-all"]);
    assert_eq!(show("vm-plain.scope", "Slice"), "machine.slice");
    assert!(show("vm-plain.scope", "Before").contains("vm-guests.service"));

    let other = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp vm list 2>&1";
    let hint = ok("sh", &["-c", other]);
    assert!(hint.contains("the system's has guests"), "{hint}");

    step("the daemon comes, restarts, and is killed");
    ok("systemctl", &["enable", "--now", "vm-daemon"]);
    let before = ids();
    assert_eq!(before.lines().count(), 3, "{before}");
    ok("systemctl", &["restart", "vm-daemon"]);
    ok(
        "systemctl",
        &["kill", "--signal=KILL", "--kill-who=main", "vm-daemon"],
    );
    eventually("the daemon is back", || {
        show("vm-daemon", "NRestarts") == "1"
    });
    eventually("it is ready", || {
        show("vm-daemon", "ActiveState") == "active"
    });
    assert_eq!(ids(), before);
    let pid = show("vm-daemon", "MainPID");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let rss = status.lines().find(|line| line.starts_with("VmRSS"));
    println!(
        "the daemon, watching three guests: {}",
        rss.unwrap_or_default()
    );

    step("a guest's process dies");
    let uuid = vm(&["-q", "domuuid", "web"]);
    let text = fs::read(format!("/run/vm/{uuid}/run.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    ok("kill", &["-KILL", &record["process"]["pid"].to_string()]);
    eventually("it is started again", || {
        !journal(&["VM_NAME=web", "VM_ACTION=restarted"]).is_empty()
    });
    assert_eq!(vm(&["-q", "domstate", "web"]), "running");
    assert!(!journal(&["VM_NAME=plain", "VM_ACTION=start", "VM_UID=0"]).is_empty());

    step("upgrade under running guests");
    let before = ids();
    ok("dpkg", &["--install", &second]);
    assert_eq!(ids(), before);
    assert_eq!(
        ok("systemctl", &["is-active", "vm-daemon"]).trim(),
        "active"
    );

    for name in ["database", "web", "plain"] {
        eventually(name, || is_up(name));
    }
    // A log that the next boot starts anew.
    for name in ["database", "web"] {
        fs::remove_file(format!("/var/log/vm/{name}/console.log")).expect("a log");
    }
    step("reboot");
    ok("systemctl", &["reboot"]);
    // The host's end is ours.
    thread::sleep(PATIENCE);
    panic!("the host did not go down");
}

/// A login as an administrator has one, ended with everything that is in it.
fn login_and_out(command: &str) {
    ok("systemctl", &["start", "ssh"]);
    let line = format!("{command} && echo session $XDG_SESSION_ID; exec sleep 1000");
    let mut login = Command::new("ssh")
        .args([
            "-o",
            "BatchMode=yes",
            "-o",
            "ControlMaster=no",
            "-o",
            "ControlPath=none",
        ])
        .args(["localhost", &line])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a login");
    let mut reader = std::io::BufReader::new(login.stdout.take().expect("a pipe"));
    let mut text = String::new();
    std::io::BufRead::read_line(&mut reader, &mut text).expect("a line");
    let session = text.trim().strip_prefix("session ").unwrap_or_default();
    assert!(!session.is_empty(), "no session: {text}");
    ok("loginctl", &["kill-session", "--signal=KILL", session]);
    let status = login.wait().expect("the end of the login");
    assert!(!status.success(), "the login was not ended");
}

fn second_boot() {
    step("what runs after the reboot");
    eventually("the host has started its guests", || {
        said("systemctl", &["is-active", "vm-autostart"]) == "active"
    });
    let all = vm(&["-q", "list", "--all"]);
    for (name, state) in [
        ("database", "running"),
        ("web", "running"),
        ("plain", "shut off"),
    ] {
        let line = all
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_default();
        assert!(line.contains(state), "{all}");
    }
    let uuid = vm(&["-q", "domuuid", "plain"]);
    assert!(!Path::new("/run/vm").join(uuid).exists(), "plain is stale");
    // In their order: database has one in its definition.
    let order = journal(&["-b", "-u", "vm-autostart"]);
    let at = |name: &str| order.find(&format!("'{name}' started"));
    assert!(
        at("database").is_some() && at("database") < at("web"),
        "{order}"
    );

    step("what the first boot's end said");
    let end = journal(&["-b", "-1", "-u", "vm-guests"]);
    let told = end.rfind("is being shutdown").expect("they were told");
    for name in ["database", "web", "plain"] {
        let off = end.find(&format!("'{name}' is shut off"));
        // All are told before the first has ended.
        assert!(off.is_some_and(|off| off > told), "{name}: {end}");
    }
    println!("{end}");
    assert_eq!(
        ok("systemctl", &["is-active", "vm-daemon"]).trim(),
        "active"
    );

    step("remove, and install again, under running guests");
    for name in ["database", "web"] {
        eventually(name, || is_up(name));
    }
    let before = ids();
    let removed = ok("dpkg", &["--remove", "vm-manager"]);
    assert!(removed.contains("run on without the package"), "{removed}");
    assert!(!Path::new("/usr/bin/vm").exists());
    let [_, package] = packages();
    ok("dpkg", &["--install", &package]);
    assert_eq!(ids(), before, "the new vm does not find the guests");

    step("purge");
    let down = ok("vm", &["shutdown-all", "--timeout", "120"]);
    for name in ["database", "web"] {
        assert!(down.contains(&format!("'{name}' is shut off")), "{down}");
    }
    let purged = ok("dpkg", &["--purge", "vm-manager"]);
    assert!(purged.contains("/var/lib/vm is left"), "{purged}");
    assert!(Path::new("/var/lib/vm/images/button.cpio").exists());
    assert!(Path::new("/var/lib/vm/purged-definitions/web.xml").exists());
    for gone in ["/etc/vm", "/etc/default/vm-guests", "/var/log/vm"] {
        assert!(!Path::new(gone).exists(), "{gone} is still there");
    }
    let left = ok(
        "sh",
        &["-c", "ls /etc/systemd/system/*/vm-* 2> /dev/null || true"],
    );
    assert_eq!(left, "", "links of units are left");
}
