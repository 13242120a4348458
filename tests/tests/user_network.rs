//! Networking without rights through the real passt, in a network namespace that the test made.

use rustix::process::{Signal, geteuid, pidfd_send_signal};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::skip_unless;
use tests::world::World;

const MAC: &str = "52:54:00:12:34:57";
/// Nobody, on Debian.
const NOBODY: u32 = 65534;

/// A host with an interface and a way out, as passt wants to see one.
fn world() -> Option<World> {
    if !tests::have_kvm() {
        eprintln!("skipped: no /dev/kvm");
        return None;
    }
    if Command::new("passt").arg("--version").output().is_err() {
        eprintln!("skipped: there is no passt");
        return None;
    }
    let Some(world) = World::with_network() else {
        eprintln!("skipped: no right to make a network namespace");
        return None;
    };
    world.run("ip link add up0 type bridge");
    world.run("ip addr add 10.9.8.1/24 dev up0");
    world.run("ip link set up0 up");
    world.run("ip route add default via 10.9.8.254");
    Some(world)
}

fn card(port: u16) -> String {
    format!(
        "<interface type='user'><mac address='{MAC}'/><backend type='passt'/>\
         <portForward proto='tcp' address='127.0.0.1'><range start='{port}' to='22'/></portForward>\
         </interface>"
    )
}

fn listens(world: &World, port: u16) -> bool {
    let listed = world.run("ss -Hltn");
    listed.contains(&format!("127.0.0.1:{port} "))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn passt_serves_a_guest_as_long_as_it_lives() {
    let Some(world) = world() else { return };
    world.define_with("web", "test=idle", &card(8022));
    world.ok(&["start", "web"]);
    assert!(listens(&world, 8022), "{}", world.run("ss -Hltn"));
    let counted = world.ok(&["domifstat", "web", MAC]);
    assert!(counted.contains(&format!("{MAC} rx_bytes ")), "{counted}");
    world.ok(&["suspend", "web"]);
    world.ok(&["resume", "web"]);
    assert!(listens(&world, 8022));
    world.ok(&["destroy", "web"]);
    wait_until("passt ends with its guest", || !listens(&world, 8022));

    world.ok(&["start", "web"]);
    // Not even the connection's end is told by a process that is killed, but by the kernel.
    pidfd_send_signal(world.process("web"), Signal::KILL).expect("a kill");
    wait_until("passt ends with a killed guest", || !listens(&world, 8022));
}

#[test]
fn a_guest_does_without_a_passt_that_was_killed() {
    let Some(world) = world() else { return };
    world.define_with("web", "test=idle", &card(8023));
    world.ok(&["start", "web"]);
    let uuid = world.ok(&["-q", "domuuid", "web"]);
    let name = format!("passt-{}-0", uuid.trim());
    world.run(&format!("pkill -f ^{name}"));
    wait_until("it is gone", || !listens(&world, 8023));
    assert_eq!(world.ok(&["domstate", "web"]).trim(), "running");
    world.ok(&["destroy", "web"]);
}

#[test]
fn a_card_goes_on_with_another_passt() {
    let Some(world) = world() else { return };
    // A guest with a driver, for which the card is watched; it waits for frames that never come.
    world.define_with("web", "test=net-rx count=1000000000", &card(8026));
    world.ok(&["start", "web"]);
    let serves = world.ok(&["domif-reconnect", "web"]);
    assert!(serves.contains("nothing to do"), "{serves}");
    let uuid = world.ok(&["-q", "domuuid", "web"]);
    let name = format!("^passt-{}-0", uuid.trim());
    let kill = || {
        let pids = world.run(&format!("pgrep -f {name}"));
        for pid in pids.split_whitespace() {
            world.run(&format!("kill {pid}"));
            let process = format!("/proc/{pid}/fd");
            // A process that has ended and is not waited for has no files.
            wait_until("it is gone", || fs::read_dir(&process).is_err());
        }
    };
    kill();
    // Its last descriptor may close a little later than its port.
    wait_until("it is replaced", || {
        world.ok(&["domif-reconnect", "web", MAC]);
        listens(&world, 8026)
    });
    kill();
    // Where there is a daemon, nobody has to say so.
    let daemon = world.command(&["-q", "daemon"]).spawn();
    let daemon = Running(daemon.expect("vm daemon"));
    wait_until("the daemon sees to what it finds", || listens(&world, 8026));
    kill();
    wait_until("the daemon sees to what it hears", || listens(&world, 8026));
    drop(daemon);
    world.ok(&["destroy", "web"]);
    wait_until("passt ends with its guest", || !listens(&world, 8026));
    let errors = world.fails(&["domif-reconnect", "web"]);
    assert!(errors.contains("not running"), "{errors}");
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_passt_that_finds_no_way_out_is_quoted() {
    let Some(world) = world() else { return };
    world.run("ip route del default");
    world.define_with(
        "web",
        "test=idle",
        &card(8024).replace("<backend", "<source dev='nope0'/><backend"),
    );
    let errors = world.fails(&["start", "web"]);
    assert!(
        errors.contains("passt does not serve the interface"),
        "{errors}"
    );
    assert!(errors.contains("nope0"), "{errors}");
    assert_eq!(world.ok(&["-q", "list"]), "");
}

/// The program and what it needs, where nobody may read them.
fn for_nobody(world: &World) -> std::io::Result<()> {
    let home = world.path("home");
    fs::create_dir(&home)?;
    for folder in [world.path("").as_path(), &home] {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    chown(&home, Some(NOBODY), Some(NOBODY))?;
    let own = |name: &str, from: &Path| fs::copy(from, world.path(name)).map(|_| ());
    own("vm", &tests::program::vm()?)?;
    own("vmm", &tests::program::vmm()?)?;
    own("guest", &tests::guest::build()?)?;
    let node = world.path("kvm").display().to_string();
    // The host's own device is for root and its group; this one is for nobody.
    world.run(&format!("cp -a /dev/kvm {node}"));
    world.run(&format!("chmod 666 {node}"));
    fs::OpenOptions::new().read(true).write(true).open(&node)?;
    Ok(())
}

#[test]
fn a_user_without_any_rights_has_a_network() {
    let Some(world) = world() else { return };
    skip_unless!(geteuid().is_root(), "not root");
    if let Err(error) = for_nobody(&world) {
        eprintln!("skipped: no place for an ordinary user: {error}");
        return;
    }
    let home = world.path("home");
    let vm = |words: &[&str]| {
        let mut command = world.program("setpriv");
        let nobody = NOBODY.to_string();
        command.args([
            "--reuid",
            &nobody,
            "--regid",
            &nobody,
            "--clear-groups",
            "--no-new-privs",
        ]);
        let output = command
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(world.path("vm"))
            .args(words)
            .env_remove("VM_STORE_ROOT")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env("HOME", &home)
            .env("XDG_RUNTIME_DIR", &home)
            .env("VM_VMM", world.path("vmm"))
            .env("VM_KVM_DEVICE", world.path("kvm"))
            .output()
            .expect("vm runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.success(),
            said + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let xml = format!(
        "<domain type='kvm'><name>mine</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=idle</cmdline></os><devices>{}</devices></domain>",
        world.path("guest").display(),
        card(8025)
    );
    let path = world.path("mine.xml");
    fs::write(&path, xml).expect("a definition");
    let path = path.display().to_string();
    assert_eq!(vm(&["uri"]).1.trim(), "qemu:///session");
    for words in [&["define", path.as_str()][..], &["start", "mine"]] {
        let (ok, said) = vm(words);
        assert!(ok, "vm {words:?}: {said}");
    }
    let alive = listens(&world, 8025);
    let (ok, said) = vm(&["destroy", "mine"]);
    assert!(ok && alive, "{alive} {said}");
    wait_until("passt ends with its guest", || !listens(&world, 8025));
}
