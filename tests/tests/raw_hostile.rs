//! A guest that means harm, on this machine's KVM: it may lose a device, never the process, and nobody
//! else notices.
//!
//! `VM_TEST_SEED` and `VM_TEST_ROUNDS` choose the random attacks, for longer runs by hand.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::machine::{Builder, Disk, Machine};
use tests::serial::Serial;
use tests::world::World;
use tests::{have_kvm, skip_unless};
use vmm_api::control::{Reply, Request};

/// Bytes that the log of an attacked process may have. One line per attack would be many times that.
const LOG: usize = 64 << 10;
/// All attacks take some seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the neighbour's undisturbed speed is looked at.
const QUIET: Duration = Duration::from_secs(2);
/// The attacker's card.
const MAC: &str = "52:54:00:66:66:66";

fn disk(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).expect("a disk");
    file.set_len(8 << 20).expect("sparse");
    path
}

fn variable(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A guest that reads and writes its disk all the time, verifying everything.
struct Neighbour(Machine);

impl Neighbour {
    fn start(folder: &Path) -> Self {
        let machine = Builder::guest("test=ioloop depth=8")
            .disk(Disk::raw(disk(folder, "other.raw")))
            .start();
        let mut machine = machine.expect("start");
        machine.expect("io 1024");
        Self(machine)
    }

    /// Answers of its disk.
    fn answers(&self) -> u64 {
        let device = Some("virtio-disk0".into());
        let counted = match self.0.request(Request::Stats { device }) {
            Ok(Reply::Stats { devices }) => devices,
            other => panic!("{other:?}"),
        };
        let disk = &counted["virtio-disk0"];
        let requests = |kind: &str| disk[kind]["requests"].as_u64().expect("a counter");
        requests("read") + requests("write")
    }

    /// Does `work`, and waits for the neighbour to be served since it began.
    fn served_during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let (began, before) = (Instant::now(), self.answers());
        let outcome = work();
        let answers = loop {
            let answers = self.answers() - before;
            if answers > 0 {
                break answers;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "the neighbour stands still {what}"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        // Printed for people: machines that run tests are too busy to promise a speed.
        let speed = answers as f64 / began.elapsed().as_secs_f64();
        println!("the neighbour {what}: {speed:.0} answers a second");
        outcome
    }

    /// It goes on, and has lost and doubled nothing.
    fn ends_well(mut self) {
        self.0.expect("io ");
        let typist = vmm_api::console::Attach {
            write: true,
            force: false,
        };
        let (_, mut keyboard) = self.0.console(typist).expect("a console");
        keyboard.write_all(b"q").expect("typed");
        self.0.expect_pass();
    }
}

/// Frames to the attacker's card without end, so that its receiver has something to do.
struct Flood(Child);

impl Flood {
    fn start(world: &World) -> Self {
        world.run("ip link add br6 type bridge");
        world.run("ip addr add 10.66.6.1/24 dev br6");
        world.run("ip link set br6 up");
        world.run(&format!("ip neigh add 10.66.6.2 lladdr {MAC} dev br6"));
        let flood = "exec 3>/dev/udp/10.66.6.2/9; while :; do echo frame >&3; done";
        let child = world
            .program("bash")
            .args(["-c", flood])
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("bash"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Defines the attacker, with a card when there is a bridge.
fn define(world: &World, kernel: &Path, network: bool) {
    let card = format!(
        "<interface type='bridge'><mac address='{MAC}'/><source bridge='br6'/>\
         <model type='virtio'/></interface>"
    );
    world.define_xml(&format!(
        "<domain type='kvm'><name>bad</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel>\
         <cmdline>test=hostile balloon=1 screen=1 net={} seed={} rounds={}</cmdline></os>\
         <on_reboot>destroy</on_reboot><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <memballoon model='virtio'/><graphics type='vnc'/><video><model type='virtio'/></video>\
         <input type='keyboard' bus='virtio'/>{}\
         <serial type='pty'/></devices></domain>",
        kernel.display(),
        u8::from(network),
        variable("VM_TEST_SEED", 1),
        variable("VM_TEST_ROUNDS", 300),
        world.path("disk.raw").display(),
        if network { &card } else { "" },
    ));
}

#[test]
fn a_hostile_guest_loses_at_most_a_device() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let folder = tempfile::tempdir().expect("a folder");
    let neighbour = Neighbour::start(folder.path());
    let (world, network) = match World::with_network() {
        Some(world) => (world, true),
        None => {
            println!(
                "skipped: no right to make a network namespace: the attacker has no network card"
            );
            (World::new(), false)
        }
    };
    let flood = network.then(|| Flood::start(&world));
    let kernel = tests::guest::build().expect("the test guest");
    define(&world, &kernel, network);
    neighbour.served_during("left alone", || std::thread::sleep(QUIET));

    world.ok(&["start", "bad", "--paused"]);
    let mut console = world
        .command(&["console", "bad"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("vm console");
    let mut screen = Serial::collect(console.stdout.take().expect("a pipe"));
    world.ok(&["resume", "bad"]);
    let mut expect = |text: &str| {
        if let Err(error) = screen.expect_within(text, PATIENCE) {
            panic!("{error}\n{}", world.ok(&["logs", "bad"]));
        }
    };
    for victim in 0..if network { 11 } else { 9 } {
        let what = format!("while queue {victim} is attacked");
        neighbour.served_during(&what, || expect(" attacks on "));
    }
    neighbour.served_during("beside random attacks", || {
        expect("hostile: configuration of ");
    });
    for device in 0..if network { 7 } else { 6 } {
        if device > 0 {
            expect("hostile: configuration of ");
        }
        let began = Instant::now();
        let what = format!("while device {device} is configured");
        neighbour.served_during(&what, || expect(" configuration writes"));
        let speed = 10_000.0 / began.elapsed().as_secs_f64();
        println!("device {device}: {speed:.0} configuration writes a second");
    }
    expect("PASS");
    let log = world.ok(&["logs", "bad"]);
    assert!(log.len() < LOG, "{} bytes of log", log.len());
    drop(flood);
    neighbour.ends_well();
    drop(console.kill());
    drop(console.wait());
}
