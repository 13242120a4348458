//! What a stock kernel makes of the PC's old devices: each is found at once, and each interrupts.
//!
//! Runs where the stock kernel is, as `lab_boot` does; elsewhere it skips.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::machine::{Builder, Machine};
use tests::skip_unless;
use vmm_api::console::Attach;
use vmm_api::control::Request;
use vmm_api::end::EndReason;
use vmm_api::spec::{DeviceKind, DeviceSpec, PvPanicSpec};

/// A kernel under two levels of virtualisation, the outer one emulated, takes its time.
const BOOT: Duration = Duration::from_secs(240);
/// Without its deadline mode too, or Linux believes that the local timer will do and has none.
const PIT_ONLY: &str = "lapic=notscdeadline nolapic_timer";

fn stock() -> Option<(PathBuf, PathBuf)> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    Some((path("LAB_KERNEL")?, path("LAB_INITRD")?))
}

fn skip() {
    skip_unless!(
        false,
        "needs a stock kernel: LAB_KERNEL and LAB_INITRD are not set"
    );
}

struct Guest {
    machine: Machine,
    keys: UnixStream,
}

impl Guest {
    /// Boots to the shell of the initrd, with a panic device.
    fn boot((kernel, initrd): &(PathBuf, PathBuf), cmdline: &str) -> Self {
        let machine = Builder::guest(&format!("console=ttyS0 quiet panic=-1 {cmdline}"))
            .kernel(kernel, Some(initrd))
            .memory(256)
            .adjust(|spec| {
                spec.devices.push(DeviceSpec {
                    id: "panic0".into(),
                    address: None,
                    kind: DeviceKind::PvPanic(PvPanicSpec {}),
                });
            })
            .start()
            .unwrap();
        let keys = machine
            .console(Attach {
                write: true,
                force: false,
            })
            .unwrap()
            .1;
        let mut guest = Self { machine, keys };
        guest.expect("guest# ");
        guest
    }

    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        match self.machine.serial.expect_within(text, BOOT) {
            Ok(passed) => passed,
            Err(error) => panic!("{error}\nthe vmm's log:\n{}", self.machine.log()),
        }
    }

    /// Types a shell command and returns what came up to its end.
    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.keys, "{command}; echo answer-en''ds").unwrap();
        self.expect("answer-ends\r\n")
    }

    fn interrupts(&mut self) -> Interrupts {
        let text = self.ask("cat /proc/interrupts");
        println!("{text}");
        Interrupts(text)
    }

    fn destroy(mut self) {
        self.machine.request(Request::Destroy).unwrap();
        self.machine.wait().unwrap();
    }
}

/// What /proc/interrupts says.
#[derive(Debug)]
struct Interrupts(String);

impl Interrupts {
    /// How often the interrupt of this name came through this controller; 0 without such a line.
    fn came(&self, controller: &str, name: &str) -> u64 {
        self.0
            .lines()
            .find(|line| line.trim_end().ends_with(name) && line.contains(controller))
            .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0)
    }
}

#[test]
fn a_stock_kernel_finds_the_old_devices_and_their_interrupts() {
    let Some(stock) = stock() else { return skip() };
    let mut guest = Guest::boot(&stock, "");
    let story = guest.ask("dmesg");
    println!("{story}");
    for line in ["16550A", "rtc_cmos", "KBD port", "Power Button [PWRF]"] {
        assert!(story.contains(line), "no '{line}' in:\n{story}");
    }
    for line in [
        "MP-BIOS bug",
        "Can't read CTR",
        "timed out",
        "Unable to read current time",
    ] {
        assert!(!story.contains(line), "'{line}' in:\n{story}");
    }

    // The clock shows what time it is.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let shown = guest.ask("echo clock $(cat /sys/class/rtc/rtc0/since_epoch)");
    let shown: u64 = shown
        .rsplit("clock ")
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no clock in:\n{shown}"));
    assert!(shown.abs_diff(now) < 120, "{shown} is far from {now}");

    // Its alarm rings: the file is empty once it has.
    guest.ask(
        "echo +2 > /sys/class/rtc/rtc0/wakealarm; \
         while [ -n \"$(cat /sys/class/rtc/rtc0/wakealarm)\" ]; do sleep 1; done",
    );
    let interrupts = guest.interrupts();
    for name in ["i8042", "rtc0", "ttyS0"] {
        assert!(
            interrupts.came("IO-APIC", name) > 0,
            "no {name}: {interrupts:?}"
        );
    }
    guest.destroy();
}

#[test]
fn a_stock_kernel_runs_on_the_pit_where_it_may_not_use_its_local_timer() {
    let Some(stock) = stock() else { return skip() };
    let mut guest = Guest::boot(&stock, PIT_ONLY);
    let before = guest.interrupts().came("IO-APIC", "timer");
    guest.ask("sleep 1");
    let after = guest.interrupts();
    assert!(
        after.came("IO-APIC", "timer") > before,
        "{before}, {after:?}"
    );
    guest.destroy();
}

#[test]
fn a_stock_kernel_runs_on_the_pics_where_it_may_not_use_the_ioapic() {
    let Some(stock) = stock() else { return skip() };
    let mut guest = Guest::boot(&stock, &format!("noapic {PIT_ONLY}"));
    guest.ask("sleep 1");
    let interrupts = guest.interrupts();
    for name in ["timer", "i8042", "ttyS0"] {
        assert!(
            interrupts.came("XT-PIC", name) > 0,
            "no {name}: {interrupts:?}"
        );
    }
    guest.destroy();
}

#[test]
fn a_kernel_panic_is_told_from_a_hang() {
    let Some(stock) = stock() else { return skip() };
    let mut guest = Guest::boot(&stock, "");
    let found = guest.ask("ls -d /sys/bus/acpi/devices/QEMU0001:00; modprobe pvpanic-mmio");
    assert!(found.contains("QEMU0001:00"), "{found}");
    let driver = guest.ask("ls /sys/bus/*/drivers/ | grep pvpanic || echo driverless");
    if driver.contains("driverless\r\n") {
        println!("skipped: this kernel's initrd has no pvpanic driver");
        return;
    }
    writeln!(
        guest.keys,
        "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"
    )
    .unwrap();
    assert_eq!(guest.machine.wait().unwrap(), 3, "{}", guest.machine.log());
    assert_eq!(guest.machine.end().unwrap().reason, EndReason::Crashed);
}
