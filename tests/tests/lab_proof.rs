//! A person's day with a stock Debian, by `vm`'s verbs alone: files survive a shutdown, reboots change
//! nothing, a killed process is started again, a full host file system loses no write. Run in the lab
//! (`cargo xtask test --only-lab`).

use rustix::process::{Signal, pidfd_send_signal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tests::console::Console;
use tests::linux::{Kernel, until};
use tests::world::World;

const MAC: &str = "52:54:00:77:08:02";

/// The lab's usual kernel.
fn kernel() -> Option<Kernel> {
    let kernel = Kernel::all().into_iter().next();
    if kernel.is_none() {
        println!("skipped: LAB_KERNEL and LAB_INITRD are not set: run this in the lab");
    }
    kernel
}

/// Defines `name` with a disk and a card on the bridge `br8`.
fn define(
    world: &World,
    kernel: &Kernel,
    (name, disk, format): (&str, &Path, &str),
    cmdline: &str,
) {
    world.define_xml(&format!(
        "<domain type='kvm'><name>{name}</name><memory unit='MiB'>384</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 nokaslr {cmdline}</cmdline></os><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/></disk>\
         <interface type='bridge'><mac address='{MAC}'/><source bridge='br8'/></interface>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
         <serial type='pty'/></devices></domain>",
        kernel.kernel.display(),
        kernel.initrd.display(),
        disk.display(),
    ));
}

fn world() -> World {
    let world = World::with_network().expect("a network namespace");
    world.run("ip link add br8 type bridge");
    world.run("ip link set br8 up");
    world
}

/// What must be the same after every start: devices, their identities, and the card's address.
fn devices(console: &mut Console) -> String {
    console.shell(
        "cd /sys/bus/pci/devices; for d in *; do echo $d $(cat $d/vendor $d/device); done; \
         cat /sys/class/net/e*/address; cat /sys/class/dmi/id/product_uuid; cd",
    )
}

#[test]
fn debian_keeps_its_files_and_devices_over_shutdown_and_reboot() {
    let Some(kernel) = kernel() else { return };
    let debian = PathBuf::from(std::env::var_os("LAB_DISK").expect("LAB_DISK"));
    let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let disk = folder.path().join("debian.qcow2");
    std::fs::copy(&debian, &disk).expect("a copy");
    let world = world();
    define(
        &world,
        &kernel,
        ("debian", &disk, "qcow2"),
        "root=/dev/vda rw",
    );
    world.ok(&["start", "debian"]);
    let mut console = Console::open(&world, "debian");
    console.log_in();
    console.shell("echo remembered > /root/kept");
    let first = devices(&mut console);
    assert!(first.contains(MAC), "{first}");
    answers(&world, &mut console);
    wait_for_power_button(&mut console);
    shut_down(&world, "acpi");
    drop(console);

    world.ok(&["start", "debian"]);
    let (id, pid) = (world.ok(&["-q", "domid", "debian"]), world.pid("debian"));
    let mut console = Console::open(&world, "debian");
    console.log_in();
    assert_eq!(console.shell("cat /root/kept"), "remembered");
    assert_eq!(devices(&mut console), first);
    wait_for_power_button(&mut console);
    world.ok(&["reboot", "debian", "--wait", "240"]);
    console.log_in();
    assert_eq!(console.shell("cat /root/kept"), "remembered");
    assert_eq!(devices(&mut console), first, "after a reboot");
    assert_eq!(world.ok(&["-q", "domid", "debian"]), id);
    assert_eq!(world.pid("debian"), pid, "the process is the same");
    shut_down(&world, "agent");
    drop(console);

    world.ok(&["start", "debian"]);
    let mut console = Console::open(&world, "debian");
    console.log_in();
    assert_eq!(console.shell("cat /root/kept"), "remembered");
    // A process that is told to end powers its guest down.
    wait_for_power_button(&mut console);
    pidfd_send_signal(world.process("debian"), Signal::TERM).expect("a signal");
    until("it still runs", || {
        world.ok(&["-q", "domstate", "debian"]) == "shut off\n"
    });
    let state = world.ok(&["-q", "domstate", "debian", "--reason"]);
    assert_eq!(state, "shut off (shutdown)\n");
    world.ok(&["image", "check", "-q", &disk.display().to_string()]);
}

fn shut_down(world: &World, mode: &str) {
    world.ok(&["shutdown", "debian", "--mode", mode, "--wait", "240"]);
    let state = world.ok(&["-q", "domstate", "debian", "--reason"]);
    assert_eq!(state, "shut off (shutdown)\n", "by {mode}");
}

/// The guest runs QEMU's agent, as Debian packages it. What it says is what its console says.
fn answers(world: &World, console: &mut Console) {
    until("the guest's agent does not come", || {
        let shown = world.ok(&["dumpxml", "debian"]);
        shown.contains("state='connected'")
    });
    assert_eq!(world.ok(&["-q", "domhostname", "debian"]).trim(), "debian");
    let seconds = |text: String| {
        let number = text.trim().trim_start_matches("Time: ").parse::<u64>();
        number.unwrap_or_else(|_| panic!("seconds: {text:?}"))
    };
    let before = seconds(console.shell("date +%s"));
    let time = seconds(world.ok(&["-q", "domtime", "debian"]));
    let after = seconds(console.shell("date +%s"));
    assert!((before..=after).contains(&time), "{before} {time} {after}");
    let facts = world.ok(&["-q", "guestinfo", "debian"]);
    let release = console.shell("uname -r");
    for word in ["os.id", "debian", "hostname", "fs.0.mountpoint", &release] {
        assert!(facts.contains(word), "{word}: {facts}");
    }
    let disks = world.ok(&["-q", "domfsinfo", "debian"]);
    let root = disks.lines().find(|line| line.contains(" ext4 "));
    assert!(root.is_some_and(|root| root.contains("vda")), "{disks}");
    let cards = world.ok(&["-q", "domifaddr", "debian", "--source", "agent"]);
    assert!(cards.contains("127.0.0.1/8"), "{cards}");
    // Nothing is written to a file system that stands still; then it goes on.
    let held = world.ok(&["domfsfreeze", "debian"]);
    assert!(held.contains("Froze 1 filesystem(s)"), "{held}");
    let freed = world.ok(&["domfsthaw", "debian"]);
    assert!(freed.contains("Thawed 1 filesystem(s)"), "{freed}");
    console.shell("sync");
}

/// A press that nobody listens for yet is lost, as on any machine.
fn wait_for_power_button(console: &mut Console) {
    console.shell(
        "for i in $(seq 90); do journalctl -b -u systemd-logind | grep -q Watching && break; sleep 1; done",
    );
}

#[test]
fn a_killed_guest_is_listed_as_crashed_and_starts_again_with_what_it_flushed() {
    let Some(kernel) = kernel() else { return };
    let world = world();
    let disk = world.path("disk.raw");
    define(&world, &kernel, ("victim", &disk, "raw"), "");
    world.ok(&["start", "victim"]);
    let mut console = Console::open(&world, "victim");
    console.wait_for("guest# ");
    let write = "dd if=/dev/urandom of=/tmp/data bs=64k count=16; dd if=/tmp/data of=/dev/vda bs=64k conv=fsync";
    console.shell(&format!("({write}) 2>/dev/null"));
    let sum = console.shell("md5sum < /tmp/data");
    pidfd_send_signal(world.process("victim"), Signal::KILL).expect("a kill");
    let started = Instant::now();
    let crashed = |world: &World| {
        let listed = world.ok(&["list", "--all"]);
        let state = world.ok(&["-q", "domstate", "victim", "--reason"]);
        listed.contains("victim   shut off") && state == "shut off (crashed)\n"
    };
    while !crashed(&world) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "it is not gone"
        );
    }
    drop(console);
    world.ok(&["start", "victim"]);
    let mut console = Console::open(&world, "victim");
    console.wait_for("guest# ");
    let read = "dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | md5sum";
    assert_eq!(console.shell(read), sum);
    world.ok(&["destroy", "victim"]);
}

/// A file system of 24 MiB, gone with this.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir(&at).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=24m", "vm-test"])
            .arg(&at);
        assert!(mount.status().expect("mount").success());
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_stock_kernel_loses_no_write_when_the_hosts_file_system_is_full() {
    let Some(kernel) = kernel() else { return };
    let world = world();
    let small = Small::new(world.path("small"));
    let disk = small.0.join("disk.qcow2");
    let name = disk.display().to_string();
    world.ok(&["image", "create", "-q", "-f", "qcow2", &name, "64M"]);
    define(&world, &kernel, ("full", &disk, "qcow2"), "");
    let filler = small.0.join("filler");
    std::fs::write(&filler, vec![1; 16 << 20]).expect("a filler");
    world.ok(&["start", "full"]);
    let mut console = Console::open(&world, "full");
    console.wait_for("guest# ");
    // 16 MiB do not fit beside the filler.
    console.shell("dd if=/dev/urandom of=/tmp/data bs=64k count=256 2>/dev/null");
    console.send("dd if=/tmp/data of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo wr''itten");
    until("it does not stand still", || {
        world.ok(&["-q", "domstate", "full", "--reason"]) == "paused (I/O error)\n"
    });
    std::fs::remove_file(&filler).expect("room");
    world.ok(&["resume", "full"]);
    console.wait_for("written");
    let read =
        "dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | md5sum; md5sum < /tmp/data";
    let sums = console.shell(read);
    let sums: Vec<_> = sums.lines().collect();
    assert!(
        matches!(&sums[..], [one, other] if one == other),
        "{sums:?}"
    );
    let errors = console.shell("dmesg | grep -c 'I/O error' || true");
    assert_eq!(errors, "0", "the guest has seen nothing of it");
    world.ok(&["destroy", "full"]);
    world.ok(&["image", "check", "-q", &name]);
}
