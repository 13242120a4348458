//! The life of a stock Debian kernel under our `vmm`: standing still, reset, saving and going on in a
//! new process. Run in the lab (`cargo xtask test --only-lab`).

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};
use tests::linux::Linux;
use tests::machine::{Builder, Disk};
use vmm_api::control::Request;
use vmm_api::end::EndReason;

const CMDLINE: &str = "console=ttyS0 quiet panic=-1 nokaslr";

/// Kernel and initial RAM disk of the lab.
fn lab() -> Option<(PathBuf, PathBuf)> {
    let kernel = std::env::var_os("LAB_KERNEL");
    let initrd = std::env::var_os("LAB_INITRD");
    let both = kernel.zip(initrd);
    if both.is_none() {
        println!("skipped: LAB_KERNEL and LAB_INITRD are not set: run this in the lab");
    }
    both.map(|(kernel, initrd)| (kernel.into(), initrd.into()))
}

fn builder(lab: &(PathBuf, PathBuf)) -> Builder {
    Builder::guest(CMDLINE)
        .kernel(&lab.0, Some(&lab.1))
        .memory(192)
}

#[test]
fn a_guest_that_was_paused_knows_the_time_and_sees_no_lockup() {
    let Some(lab) = lab() else { return };
    let mut linux = Linux::boot(&builder(&lab));
    let clocksources = clocksource_lines(&mut linux);
    check_time(&mut linux);
    linux.machine.request(Request::Pause).expect("paused");
    thread::sleep(Duration::from_secs(30));
    linux.machine.request(Request::Resume).expect("running");
    check_time(&mut linux);
    assert_eq!(linux.stalls(), "");
    assert_eq!(clocksource_lines(&mut linux), clocksources);
}

/// The guest's time of day is the host's, to a second: its answer lies between the moments before and
/// after the question, however long an emulated guest takes for it.
fn check_time(linux: &mut Linux) {
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.expect("after 1970").as_secs()
    };
    let before = now();
    let text = linux.shell("date +%s");
    let after = now();
    let guest: u64 = text.parse().unwrap_or_else(|_| panic!("a date: {text:?}"));
    assert!(
        (before - 1..=after + 1).contains(&guest),
        "the guest has {guest}, the host had {before} to {after}"
    );
}

fn clocksource_lines(linux: &mut Linux) -> String {
    linux.shell("dmesg | grep -ci clocksource || true")
}

#[test]
fn a_reset_forgets_ram_and_boots_again() {
    let Some(lab) = lab() else { return };
    let mut linux = Linux::boot(&builder(&lab));
    linux.shell("echo here > /tmp/mark");
    linux.machine.request(Request::Reset).expect("reset");
    linux.wait_for("GUEST-READY");
    linux.wait_for("guest# ");
    assert_eq!(
        linux.shell("cat /tmp/mark 2>/dev/null || echo gone"),
        "gone"
    );
    assert_eq!(linux.shell("echo $((6 * 7))"), "42");
}

fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk.raw");
    let file = std::fs::File::create(&path).expect("a disk");
    file.set_len(64 << 20).expect("sparse");
    path
}

#[test]
fn a_saved_linux_goes_on_in_a_new_process() {
    let Some(lab) = lab() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    let disk = disk(folder.path());
    let builder = builder(&lab).disk(Disk::raw(&disk)).rng();
    let mut first = Linux::boot(&builder);
    first.shell("echo remembered > /tmp/mark");
    first.shell("dd if=/dev/urandom of=/tmp/data bs=64k count=32 2>/dev/null");
    first.shell("dd if=/tmp/data of=/dev/vda bs=64k conv=fsync 2>/dev/null");
    let sum = first.shell("md5sum < /tmp/data");
    first.machine.save(&state).expect("saved");
    first.machine.request(Request::Quit).expect("an answer");
    assert_eq!(first.machine.wait().expect("ends"), 0);
    assert_eq!(
        first.machine.end().expect("a record").reason,
        EndReason::Saved
    );

    let restored = builder.clone().restore(&state).start().expect("start");
    let mut second = Linux::attach(restored);
    assert_eq!(second.shell("cat /tmp/mark"), "remembered");
    assert_eq!(second.shell("md5sum < /tmp/data"), sum);
    let read = "dd if=/dev/vda bs=64k count=32 iflag=direct 2>/dev/null | md5sum";
    assert_eq!(second.shell(read), sum);
    assert_eq!(
        second.shell("dmesg | grep -ciE 'lockup|stall|error' || true"),
        "0"
    );
    second.machine.request(Request::Reset).expect("reset");
    second.wait_for("GUEST-READY");
    second.wait_for("guest# ");
    assert_eq!(second.shell(read), sum, "the disk after a reset");
}
