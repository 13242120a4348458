//! A stock Linux guest with a shell on its serial line, as the lab's initial RAM disk or a login gives one.

use crate::machine::{Builder, Machine};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vmm_api::console::{Attach, Role};

/// A kernel under two levels of virtualisation, the outer one emulated, takes its time.
pub const BOOT: Duration = Duration::from_secs(240);

/// Waits until something is so, as long as an emulated boot takes; else the test fails with `what`.
#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOOT;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A stock kernel of the lab and the RAM disk that goes with it.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What it is called, such as `cloud` or `newer-generic`.
    pub name: &'static str,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial RAM disk: a shell, or with `root=` the way to that disk's init.
    pub initrd: PathBuf,
}

/// Names and the last part of their variables.
const KERNELS: &[(&str, &str)] = &[
    ("cloud", ""),
    ("generic", "_GENERIC"),
    ("newer", "_NEWER"),
    ("newer-generic", "_NEWER_GENERIC"),
];

impl Kernel {
    /// The kernels that there are; none outside of the lab.
    pub fn all() -> Vec<Self> {
        let path = |name: String| std::env::var_os(name).map(PathBuf::from);
        let found = KERNELS.iter().filter_map(|(name, suffix)| {
            Some(Self {
                name,
                kernel: path(format!("LAB_KERNEL{suffix}"))?,
                initrd: path(format!("LAB_INITRD{suffix}"))?,
            })
        });
        found.collect()
    }

    /// A machine that boots it, quietly, to a serial console.
    pub fn builder(&self, cmdline: &str) -> Builder {
        Builder::guest(&format!("console=ttyS0 quiet panic=-1 {cmdline}"))
            .kernel(&self.kernel, Some(&self.initrd))
            .memory(256)
    }
}

/// Lines around what a command prints, to tell it from everything else.
pub(crate) struct Marks(u32);

impl Marks {
    pub(crate) fn new(number: u32) -> Self {
        Self(number)
    }

    /// The line to type. The shell joins the halves of the marks, so its echo is not taken for them.
    pub(crate) fn around(&self, command: &str) -> String {
        let number = self.0;
        format!("echo 'from-''{number}'; {command}; echo 'to-''{number}'")
    }

    pub(crate) fn from(&self) -> String {
        format!("from-{}", self.0)
    }

    pub(crate) fn to(&self) -> String {
        format!("to-{}", self.0)
    }

    /// What was printed, of all that came up to the end mark.
    pub(crate) fn within(&self, said: &str) -> String {
        said.trim_end_matches(&self.to()).trim().replace('\r', "")
    }
}

/// A guest with a shell.
pub struct Linux {
    /// Its machine.
    pub machine: Machine,
    keyboard: UnixStream,
    asked: u32,
}

impl Linux {
    /// Starts a machine and waits for the shell of its initial RAM disk.
    pub fn boot(builder: &Builder) -> Self {
        let mut linux = Self::attach(builder.start().expect("start"));
        linux.wait_for("GUEST-READY");
        linux.wait_for("guest# ");
        linux
    }

    /// Takes the keyboard of a machine.
    pub fn attach(machine: Machine) -> Self {
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

    /// Waits for the login prompt of a Debian disk and logs in as root, who has no password.
    #[track_caller]
    pub fn log_in(&mut self) {
        self.wait_for("login: ");
        self.type_line("root");
        self.wait_for("# ");
    }

    /// Waits for text on the serial line.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        match self.machine.serial.expect_within(text, BOOT) {
            Ok(passed) => passed,
            Err(error) => panic!("{error}\nthe vmm's log:\n{}", self.machine.log()),
        }
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.keyboard, "{line}").expect("typed");
    }

    /// Runs a command and returns what it printed.
    #[track_caller]
    pub fn shell(&mut self, command: &str) -> String {
        self.asked += 1;
        let marks = Marks::new(self.asked);
        self.type_line(&marks.around(command));
        self.wait_for(&marks.from());
        let said = self.wait_for(&marks.to());
        marks.within(&said)
    }

    /// Lines of the kernel's log that speak of processors that stood still.
    #[track_caller]
    pub fn stalls(&mut self) -> String {
        self.shell("dmesg | grep -iE 'lockup|stall|clocksource.*unstable|hung task' || true")
    }
}
