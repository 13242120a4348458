//! Debian's stock kernels, all that the lab has: the cloud and the generic ones, of the release and newer.
//!
//! Each comes to a shell and uses its devices, and one is asked for half of its memory. Full boots of a Debian disk with every kernel, with one
//! and two processors, take minutes: `cargo xtask test --only-lab --scenario stock --all`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::console::Console;
use tests::linux::{BOOT, Kernel, Linux};
use tests::machine::Disk;
use tests::skip_unless;
use tests::world::World;
use vmm_api::control::Request;
use vmm_api::end::EndReason;

fn skip() {
    skip_unless!(
        false,
        "needs stock kernels: LAB_KERNEL and LAB_INITRD are not set"
    );
}

/// A disk that begins with a known line.
fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let mut bytes = b"written by the host\n".to_vec();
    bytes.resize(8 << 20, 0);
    std::fs::write(&path, bytes).expect("a disk");
    path
}

#[test]
fn every_stock_kernel_uses_its_devices_and_powers_off() {
    let kernels = Kernel::all();
    if kernels.is_empty() {
        return skip();
    }
    for kernel in &kernels {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let disk = disk(folder.path());
        let builder = kernel.builder("nokaslr").disk(Disk::raw(&disk)).rng();
        let mut linux = Linux::boot(&builder);
        let release = linux.shell("uname -r");
        assert_eq!(linux.shell("head -n 1 /dev/vda"), "written by the host");
        linux.shell("echo written by the guest | dd of=/dev/vda conv=fsync 2>/dev/null");
        let sources = linux.shell("cat /sys/class/misc/hw_random/rng_current");
        assert!(sources.contains("virtio_rng"), "{release}: {sources}");
        assert_eq!(linux.stalls(), "", "{release}");
        linux.type_line("poweroff -f");
        let code = linux.machine.wait().expect("its end");
        assert_eq!(code, 0, "{release}: {}", linux.machine.log());
        let end = linux.machine.end().expect("a record");
        assert_eq!(end.reason, EndReason::Shutdown, "{release}");
        let bytes = std::fs::read(&disk).expect("the disk");
        assert!(bytes.starts_with(b"written by the guest\n"), "{release}");
        println!("booted: {} ({release}), 1 vCPU, shell", kernel.name);
    }
}

/// What `vm dommemstat` says, by name, in KiB.
fn memory(world: &World) -> BTreeMap<String, u64> {
    let said = world.ok(&["-q", "dommemstat", "mem"]);
    let pairs = said.lines().filter_map(|line| line.split_once(' '));
    let pairs = pairs.filter_map(|(name, value)| Some((name.into(), value.trim().parse().ok()?)));
    pairs.collect()
}

/// Has the guest come to so much memory; what is known then.
fn set_memory(world: &World, kib: u64) -> BTreeMap<String, u64> {
    world.ok(&["setmem", "mem", &kib.to_string()]);
    let deadline = Instant::now() + BOOT;
    loop {
        let known = memory(world);
        if known.get("actual") == Some(&kib) {
            return known;
        }
        assert!(Instant::now() < deadline, "{kib} KiB are wanted: {known:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_stock_kernel_gives_half_of_its_memory_up_and_takes_it_back() {
    let [Some(kernel), Some(initrd)] =
        ["LAB_KERNEL", "LAB_INITRD"].map(|name| std::env::var(name).ok())
    else {
        return skip();
    };
    const ALL: u64 = 192 << 10;
    let world = World::new();
    // Its free pages stay where they are, so that what the target does can be seen.
    world.define_xml(&format!(
        "<domain type='kvm'><name>mem</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel>\
         <initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 nokaslr</cmdline></os>\
         <devices><memballoon model='virtio' freePageReporting='off'/>\
         <serial type='pty'/></devices></domain>"
    ));
    world.ok(&["start", "mem"]);
    let mut console = Console::open(&world, "mem");
    console.wait_for("guest# ");
    // Every page of it has been used once.
    console.shell("dd if=/dev/zero of=/tmp/fill bs=1M count=100 2>/dev/null; rm /tmp/fill");
    let total = "awk '/MemTotal/ { print $2 }' /proc/meminfo";
    let total_kib = |text: String| text.parse::<u64>().expect("KiB");
    let before = total_kib(console.shell(total));
    let full = memory(&world);
    let half = set_memory(&world, ALL / 2);
    let after = total_kib(console.shell(total));
    assert_eq!(before - after, ALL / 2, "of {before} KiB");
    assert!(half["rss"] + ALL / 4 < full["rss"], "{full:?} {half:?}");
    let info = world.ok(&["dominfo", "mem"]);
    assert!(info.contains("Used memory:    98304 KiB"), "{info}");
    for figure in ["unused", "available", "usable", "last_update"] {
        assert!(half.contains_key(figure), "{half:?}");
    }
    set_memory(&world, ALL);
    assert_eq!(total_kib(console.shell(total)), before);
    println!(
        "with all memory: rss {} KiB; with half: {} KiB",
        full["rss"], half["rss"]
    );
    world.ok(&["destroy", "mem"]);
}

#[test]
#[ignore = "eight boots of a whole Debian: minutes each under emulation"]
fn every_stock_kernel_boots_debian_with_one_and_two_processors() {
    let debian = std::env::var_os("LAB_DISK").map(PathBuf::from);
    let Some(debian) = debian else { return skip() };
    let mut failed = Vec::new();
    for kernel in Kernel::all() {
        for cpus in [1, 2] {
            // Two processors under this emulation crash a stock kernel now and then, under any VMM.
            let tries = cpus;
            let outcome = (1..=tries).find_map(|try_| match boot(&kernel, &debian, cpus) {
                Ok(release) => Some((release, try_)),
                Err(why) => {
                    eprintln!("{}, {cpus} vCPU, try {try_}: {why}", kernel.name);
                    None
                }
            });
            match outcome {
                Some((release, try_)) => {
                    println!(
                        "booted: {} ({release}), {cpus} vCPU, login, try {try_}",
                        kernel.name
                    );
                }
                None => failed.push(format!("{} with {cpus} vCPU", kernel.name)),
            }
        }
    }
    assert!(failed.is_empty(), "not booted: {}", failed.join(", "));
}

/// Boots a copy of the Debian disk to login, looks at it and presses the power button; the release of
/// the kernel.
fn boot(kernel: &Kernel, debian: &Path, cpus: u32) -> Result<String, String> {
    let folder = tempfile::tempdir_in("/var/tmp").map_err(|e| e.to_string())?;
    let disk = folder.path().join("debian.qcow2");
    std::fs::copy(debian, &disk).map_err(|e| e.to_string())?;
    let builder = kernel
        .builder("root=/dev/vda rw nokaslr")
        .memory(512)
        .cpus(cpus);
    let builder = builder.disk(Disk::qcow2(&disk)).rng();
    let mut linux = Linux::attach(builder.start().map_err(|e| e.to_string())?);
    let prompt = linux.machine.serial.expect_within("login: ", BOOT);
    prompt.map_err(|e| format!("{e}\n{}", linux.machine.log()))?;
    linux.type_line("root");
    let prompt = linux.machine.serial.expect_within("# ", BOOT);
    prompt.map_err(|e| e.to_string())?;
    let release = linux.shell("uname -r");
    let facts = linux.shell(
        "nproc; findmnt -no SOURCE /; systemctl is-active systemd-udevd serial-getty@ttyS0; \
         systemctl --failed --no-pager --no-legend | wc -l",
    );
    let expected = format!("{cpus}\n/dev/vda\nactive\nactive\n0");
    if facts != expected {
        return Err(format!("{release}: {facts:?} instead of {expected:?}"));
    }
    let stalls = linux.stalls();
    if cpus == 1 && !stalls.is_empty() {
        return Err(format!("{release}: {stalls}"));
    }
    // A press that nobody listens for yet is lost, as on any machine.
    linux.shell(
        "for i in $(seq 90); do journalctl -b -u systemd-logind | grep -q Watching && break; sleep 1; done",
    );
    linux
        .machine
        .request(Request::Powerdown)
        .map_err(|e| e.to_string())?;
    linux
        .machine
        .serial
        .to_end_within(BOOT)
        .map_err(|e| e.to_string())?;
    match (
        linux.machine.wait(),
        linux.machine.end().map(|end| end.reason),
    ) {
        (Ok(0), Some(EndReason::Shutdown)) => Ok(release),
        other => Err(format!("{release}: ended with {other:?}")),
    }
}
