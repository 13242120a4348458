//! Debian's stock kernels, all that the lab has: the cloud and the generic ones, of the release and newer.
//!
//! Each comes to a shell and uses its devices. Full boots of a Debian disk with every kernel, with one
//! and two processors, take minutes: `cargo xtask test --only-lab --scenario stock --all`.

use std::path::{Path, PathBuf};
use tests::linux::{BOOT, Kernel, Linux};
use tests::machine::Disk;
use tests::skip_unless;
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
