//! Guests outlive what started them: a session whose whole cgroup is killed, as `systemd` does with a
//! login, a unit or a cron job. Run where cgroup v2 is: `cargo xtask test --only-lab`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tests::{guest, program, skip_unless};

/// How long anything may take under emulation.
const PATIENCE: Duration = Duration::from_secs(60);
const CGROUPS: &str = "/sys/fs/cgroup";

/// A cgroup as a login or a unit has one.
struct Session {
    group: PathBuf,
}

impl Session {
    fn new(name: &str) -> Self {
        let group = Path::new(CGROUPS).join(name);
        fs::create_dir(&group).expect("a cgroup");
        Self { group }
    }

    /// Runs a shell in it, which runs `line`.
    fn shell(&self, line: &str, store: &Path) -> Child {
        let procs = self.group.join("cgroup.procs");
        let line = format!("echo 0 > {} && {line}", procs.display());
        Command::new("sh")
            .args(["-c", &line])
            .env("VM_STORE_ROOT", store)
            .stdin(Stdio::null())
            .spawn()
            .expect("a shell")
    }

    fn kill(&self) {
        fs::write(self.group.join("cgroup.kill"), "1").expect("cgroup.kill");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(fs::write(self.group.join("cgroup.kill"), "1"));
        eventually(|| fs::remove_dir(&self.group).is_ok());
    }
}

fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

fn vm(store: &Path, words: &[&str]) -> String {
    let output = Command::new(program::vm().expect("vm"))
        .args(words)
        .env("VM_STORE_ROOT", store)
        .output()
        .expect("vm runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "vm {words:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The group of a domain's process, from the root of cgroup v2.
fn group_of(store: &Path, name: &str) -> String {
    let uuid = vm(store, &["-q", "domuuid", name]);
    let path = store.join(format!("run/vm/{uuid}/run.json"));
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON");
    let pid = record["process"]["pid"].as_i64().expect("a pid");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    own.expect("a group of cgroup v2").to_owned()
}

/// Limits are shown as the kernel has them, and changed while the guest runs.
fn limits_are_shown_and_changed(store: &Path, limit: impl Fn(&str) -> String) {
    let shown = vm(store, &["schedinfo", "out-lives"]);
    assert!(shown.contains("cpu_shares     : 250"), "{shown}");
    assert!(shown.contains("global_quota   : 400000"), "{shown}");
    let change = [
        "cpu_shares=300",
        "global_period=50000",
        "--set",
        "global_quota=-1",
    ];
    vm(store, &[&["schedinfo", "out-lives"][..], &change].concat());
    assert_eq!(limit("cpu.weight"), "300");
    assert_eq!(limit("cpu.max"), "max 50000");
    vm(
        store,
        &[
            "memtune",
            "out-lives",
            "--hard-limit",
            "300M",
            "--live",
            "--config",
        ],
    );
    assert_eq!(limit("memory.max"), (300 << 20).to_string());
    for place in ["--live", "--config"] {
        let shown = vm(store, &["memtune", "out-lives", place]);
        assert!(
            shown.contains("hard_limit     : 307200"),
            "{place}: {shown}"
        );
    }
    let beyond = Command::new(program::vm().expect("vm"))
        .args(["memtune", "out-lives", "--hard-limit", "1M"])
        .env("VM_STORE_ROOT", store)
        .output()
        .expect("vm runs");
    let errors = String::from_utf8_lossy(&beyond.stderr);
    assert!(
        !beyond.status.success() && errors.contains("uses more"),
        "{errors}"
    );
    assert_eq!(vm(store, &["-q", "domstate", "out-lives"]), "running");
}

#[test]
fn a_guest_outlives_the_session_that_started_it() {
    skip_unless!(
        std::env::var_os("LAB_HOST").is_some(),
        "LAB_HOST is not set: run this in the lab"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let store = dir.path().join("store");
    let kernel = guest::build().expect("the test guest");
    let definition = dir.path().join("x.xml");
    let text = format!(
        "<domain type='kvm'><name>out-lives</name><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=echo</cmdline></os>\
         <devices><serial type='pty'/></devices></domain>",
        kernel.display()
    );
    let limits = "<cputune><shares>250</shares><global_period>100000</global_period>\
                  <global_quota>400000</global_quota></cputune>\
                  <memtune><hard_limit unit='MiB'>512</hard_limit></memtune><os>";
    fs::write(&definition, text.replace("<os>", limits)).expect("a definition");
    vm(&store, &["define", &definition.display().to_string()]);

    let session = Session::new("vm-test-session");
    let program = program::vm().expect("vm");
    let line = format!("{} start out-lives && sleep 1000", program.display());
    let mut shell = session.shell(&line, &store);
    let runs = || vm(&store, &["-q", "domstate", "out-lives"]) == "running";
    assert!(eventually(runs), "it does not start");
    // The record of the run is complete once `vm start` is through.
    let started = || fs::read_to_string(session.group.join("cgroup.procs")).unwrap_or_default();
    assert!(
        eventually(|| started().lines().count() == 2),
        "{}",
        started()
    );
    session.kill();
    let status = shell.wait().expect("the shell's end");
    assert_eq!(status.signal(), Some(9), "the session was killed");

    assert_eq!(vm(&store, &["-q", "domstate", "out-lives"]), "running");
    let group = group_of(&store, "out-lives");
    assert_eq!(group, "/machine.slice/vm-out\\x2dlives.scope");
    let limit = |file: &str| {
        let path = Path::new(CGROUPS)
            .join(group.trim_start_matches('/'))
            .join(file);
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    assert_eq!(limit("cpu.weight"), "250");
    assert_eq!(limit("cpu.max"), "400000 100000");
    assert_eq!(limit("memory.max"), (512 << 20).to_string());
    limits_are_shown_and_changed(&store, limit);
    vm(&store, &["destroy", "out-lives"]);
    let folder = Path::new(CGROUPS).join(group.trim_start_matches('/'));
    assert!(eventually(|| !folder.exists()), "its group is still there");
}
