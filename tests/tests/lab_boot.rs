//! Stock Debian kernels under our `vmm`: in the lab, or on a machine with VT-x or AMD-V.
//!
//! `cargo xtask test` carries this program to where these variables are set; elsewhere it skips.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::machine::{Builder, Disk, Machine};
use tests::skip_unless;
use vmm_api::console::Attach;
use vmm_api::control::Request;
use vmm_api::end::EndReason;

/// A kernel under two levels of virtualisation, the outer one emulated, takes its time.
const BOOT: Duration = Duration::from_secs(240);

struct Stock {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
}

fn stock() -> Option<Stock> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    Some(Stock {
        kernel: path("LAB_KERNEL")?,
        initrd: path("LAB_INITRD")?,
        disk: path("LAB_DISK")?,
    })
}

fn builder(stock: &Stock, cmdline: &str) -> Builder {
    let line = format!("console=ttyS0 quiet panic=-1 {cmdline}");
    Builder::guest(&line)
        .kernel(&stock.kernel, Some(&stock.initrd))
        .memory(256)
}

/// Waits for `text`, with the log of the process in the failure.
#[track_caller]
fn expect(machine: &mut Machine, text: &str) -> String {
    match machine.serial.expect_within(text, BOOT) {
        Ok(passed) => passed,
        Err(error) => panic!("{error}\nthe vmm's log:\n{}", machine.log()),
    }
}

fn keyboard(machine: &Machine) -> UnixStream {
    machine
        .console(Attach {
            write: true,
            force: false,
        })
        .unwrap()
        .1
}

/// Types a shell command and returns what came up to its end.
#[track_caller]
fn ask(machine: &mut Machine, keys: &mut UnixStream, command: &str) -> String {
    writeln!(keys, "{command}; echo do''ne").unwrap();
    expect(machine, "done\r\n")
}

#[test]
fn a_stock_kernel_comes_to_a_shell_and_powers_off() {
    let Some(stock) = stock() else { return skip() };
    let mut machine = builder(&stock, "").start().unwrap();
    expect(&mut machine, "GUEST-READY");
    expect(&mut machine, "guest# ");
    let mut keys = keyboard(&machine);
    let clock = ask(
        &mut machine,
        &mut keys,
        "cat /sys/devices/system/clocksource/*/current*",
    );
    assert!(
        clock.contains("kvm-clock") || clock.contains("tsc"),
        "{clock}"
    );
    let devices = ask(&mut machine, &mut keys, "ls /sys/bus/pci/devices");
    assert!(
        devices.contains("0000:00:00.0") && devices.contains("0000:00:1f.0"),
        "{devices}"
    );
    keys.write_all(b"poweroff -f\n").unwrap();
    assert_eq!(machine.wait().unwrap(), 0, "{}", machine.log());
    assert_eq!(machine.end().unwrap().reason, EndReason::Shutdown);
}

#[test]
fn a_guest_that_reboots_comes_up_again_in_the_same_process() {
    let Some(stock) = stock() else { return skip() };
    let mut machine = builder(&stock, "").start().unwrap();
    expect(&mut machine, "guest# ");
    let mut keys = keyboard(&machine);
    keys.write_all(b"reboot -f\n").unwrap();
    expect(&mut machine, "GUEST-READY");
    machine.request(Request::Destroy).unwrap();
    machine.wait().unwrap();
}

#[test]
fn two_processors_come_up() {
    let Some(stock) = stock() else { return skip() };
    // Two processors under this emulation crash a stock kernel now and then, under any VMM.
    for last in [false, true] {
        let mut machine = builder(&stock, "").cpus(2).start().unwrap();
        if machine.serial.expect_within("guest# ", BOOT).is_err() && !last {
            eprintln!("tried again: {}", machine.serial.so_far());
            continue;
        }
        let mut keys = keyboard(&machine);
        assert!(ask(&mut machine, &mut keys, "nproc").contains('2'));
        machine.request(Request::Destroy).unwrap();
        return;
    }
}

/// Boots a copy of the Debian disk to login, logs in, and presses the power button.
fn to_login_and_off(stock: &Stock, disk: Disk) {
    let mut machine = builder(stock, "root=/dev/vda rw")
        .memory(512)
        .disk(disk)
        .rng()
        .start()
        .unwrap();
    expect(&mut machine, "login: ");
    let mut keys = keyboard(&machine);
    keys.write_all(b"root\n").unwrap();
    expect(&mut machine, "# ");
    let root = ask(
        &mut machine,
        &mut keys,
        "findmnt -no SOURCE /; systemctl --failed --no-pager",
    );
    assert!(
        root.contains("/dev/vda") && root.contains("0 loaded units"),
        "{root}"
    );
    // A press that nobody listens for yet is lost, as on any machine.
    ask(
        &mut machine,
        &mut keys,
        "for i in $(seq 90); do journalctl -b -u systemd-logind | grep -q Watching && break; sleep 1; done",
    );
    machine.request(Request::Powerdown).unwrap();
    assert_eq!(
        machine.serial.to_end_within(BOOT).map(drop).ok(),
        Some(()),
        "{}",
        machine.log()
    );
    assert_eq!(machine.wait().unwrap(), 0, "{}", machine.log());
    assert_eq!(machine.end().unwrap().reason, EndReason::Shutdown);
}

fn qemu_img(words: &[&str]) {
    let output = Command::new("qemu-img").args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn debian_comes_to_login_from_a_raw_disk_and_obeys_the_power_button() {
    let Some(stock) = stock() else { return skip() };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let disk = folder.path().join("debian.raw");
    qemu_img(&[
        "convert",
        "-O",
        "raw",
        stock.disk.to_str().unwrap(),
        disk.to_str().unwrap(),
    ]);
    to_login_and_off(&stock, Disk::raw(&disk));
}

#[test]
fn debian_comes_to_login_from_a_qcow2_disk_that_stays_sound() {
    let Some(stock) = stock() else { return skip() };
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let disk = folder.path().join("debian.qcow2");
    std::fs::copy(&stock.disk, &disk).unwrap();
    to_login_and_off(&stock, Disk::qcow2(&disk));
    qemu_img(&["check", "-q", disk.to_str().unwrap()]);
}

fn skip() {
    skip_unless!(
        false,
        "needs a stock kernel: LAB_KERNEL, LAB_INITRD and LAB_DISK are not set"
    );
}
