//! The life of a stock Debian kernel under our `vmm`: standing still, reset, saving and going on in a
//! new process. Run in the lab (`cargo xtask test --only-lab`).

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};
use tests::machine::{Builder, Disk, Machine};
use vmm_api::console::{Attach, Role};
use vmm_api::control::Request;
use vmm_api::end::EndReason;

/// A lab guest's boot under emulation of everything.
const BOOT: Duration = Duration::from_secs(120);
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

/// A Linux guest with a shell on its serial line.
struct Linux {
    machine: Machine,
    keyboard: UnixStream,
    asked: u32,
}

impl Linux {
    fn boot(builder: &Builder) -> Self {
        let mut linux = Self::attach(builder.start().expect("start"));
        linux.wait_for("GUEST-READY");
        linux.wait_for("guest# ");
        linux
    }

    fn attach(machine: Machine) -> Self {
        let attach = Attach {
            write: true,
            force: true,
        };
        let (attached, keyboard) = machine.console(attach).expect("a console");
        assert_eq!(attached.role, Role::Writer);
        Self {
            machine,
            keyboard,
            asked: 0,
        }
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        match self.machine.serial.expect_within(text, BOOT) {
            Ok(passed) => passed,
            Err(error) => panic!("{error}\nthe vmm's log:\n{}", self.machine.log()),
        }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").expect("typed");
    }

    /// Runs a command and returns what it printed.
    #[track_caller]
    fn shell(&mut self, command: &str) -> String {
        self.asked += 1;
        let number = self.asked;
        // The shell joins the halves of the marks, so the echo of the line is not taken for them.
        let marks = format!("echo 'from-''{number}'; {command}; echo 'to-''{number}'");
        self.type_line(&marks);
        self.wait_for(&format!("from-{number}"));
        let end = format!("to-{number}");
        let said = self.wait_for(&end);
        said.trim_end_matches(&end).trim().replace('\r', "")
    }
}

#[test]
fn a_guest_that_was_paused_knows_the_time_and_sees_no_lockup() {
    let Some(lab) = lab() else { return };
    let mut linux = Linux::boot(&builder(&lab));
    let before = behind(&mut linux);
    linux.machine.request(Request::Pause).expect("paused");
    thread::sleep(Duration::from_secs(30));
    linux.machine.request(Request::Resume).expect("running");
    let after = behind(&mut linux);
    // Whole seconds on both sides, and the time that an emulated guest needs to answer.
    assert!(
        (after - before).abs() <= 3,
        "it was {before} s behind and is {after} s behind"
    );
    let log = linux.shell("dmesg | grep -ciE 'lockup|stall|unstable' || true");
    assert_eq!(log, "0");
}

/// Seconds from the guest's time of day to the host's.
fn behind(linux: &mut Linux) -> i64 {
    let text = linux.shell("date +%s");
    let guest: i64 = text.parse().unwrap_or_else(|_| panic!("a date: {text:?}"));
    let host = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    host.expect("after 1970").as_secs().cast_signed() - guest
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
