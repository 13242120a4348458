//! What `vm host-check` looks at: each item with a verdict, what was found, and the next step.
//! Looking changes nothing: what would have to be created to find out is not tried, except a machine
//! of one page of code that is gone a moment later.

use super::host::{self, KvmKind};
use super::{Manager, boot};
use crate::runtime::network::{DNSMASQ, NFT, Tool};
use crate::runtime::passt::PASST;
use rustix::fs::Access;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use vmm_api::speed::KernelSpeed;

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Guests run, with less than there could be.
    Warn,
    /// No guest runs.
    Fail,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub item: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Nanoseconds per iteration, where a loop of guest kernel code was timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_iteration: Option<f64>,
    /// What to do; empty when nothing is to be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

impl Check {
    fn new(item: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            item,
            verdict,
            found: found.into(),
            ns_per_iteration: None,
            next: Vec::new(),
        }
    }

    fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }
}

impl Manager {
    /// Looks at this host.
    pub fn check_host(&self) -> Vec<Check> {
        let mut checks = vec![self.check_kvm()];
        if self.kvm.exists() {
            checks.push(check_kind(KvmKind::detect()));
        }
        checks.extend(self.measure_kernel_code());
        checks.extend([
            self.check_program(),
            self.check_store(),
            check_memory(host::memory()),
            check_huge_pages(
                host::memory(),
                &read("/sys/kernel/mm/transparent_hugepage/enabled"),
            ),
            check_io_uring(&read("/proc/sys/kernel/io_uring_disabled")),
            check_bios(boot::bios(self.bios.as_deref())),
            check_tap(Path::new("/dev/net/tun")),
            check_tool(NFT),
            check_tool(DNSMASQ),
            check_tool(PASST),
            check_cgroups(),
        ]);
        checks
    }

    fn check_kvm(&self) -> Check {
        let path = self.kvm.display();
        match host::open_kvm(&self.kvm) {
            Ok(_) => Check::new("KVM", Verdict::Pass, format!("{path} can be used")),
            Err(error) => Check {
                next: error.hints.clone(),
                ..Check::new("KVM", Verdict::Fail, error.to_string())
            },
        }
    }

    /// Nothing where KVM or the program is missing, which other items tell.
    fn measure_kernel_code(&self) -> Option<Check> {
        self.driver.ready().ok()?;
        let kvm = host::open_kvm(&self.kvm).ok()?;
        Some(match self.driver.measure(kvm) {
            Ok(speed) => check_speed(speed),
            Err(error) => Check::new("guest kernels", Verdict::Warn, error.to_string())
                .next("see whether KVM works at all: dmesg | grep -i kvm"),
        })
    }

    fn check_program(&self) -> Check {
        match self.driver.ready() {
            Ok(()) => Check::new("program", Verdict::Pass, "the guests' program is there"),
            Err(error) => Check {
                next: error.hints.clone(),
                ..Check::new("program", Verdict::Fail, error.to_string())
            },
        }
    }

    fn check_store(&self) -> Check {
        let layout = self.store.layout();
        for folder in [&layout.domains, &layout.lib, &layout.log, &layout.run] {
            let nearest = nearest_existing(folder);
            if rustix::fs::access(&nearest, Access::WRITE_OK).is_err() {
                let found = format!("{} cannot be written", nearest.display());
                return Check::new("store", Verdict::Fail, found)
                    .next("run it as root, or use your own store: -c qemu:///session");
            }
        }
        let found = format!("{} can be written", layout.domains.display());
        Check::new("store", Verdict::Pass, found)
    }
}

fn check_bios(bios: Option<PathBuf>) -> Check {
    const ITEM: &str = "firmware";
    match bios {
        Some(path) => Check::new(
            ITEM,
            Verdict::Pass,
            format!("SeaBIOS is {}", path.display()),
        ),
        None => Check::new(ITEM, Verdict::Warn, "no SeaBIOS: domains need a <kernel>")
            .next(boot::INSTALL),
    }
}

/// The path itself, or the nearest directory above it that exists.
fn nearest_existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|path| path.exists());
    found.unwrap_or(Path::new("/")).to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn check_kind(kind: KvmKind) -> Check {
    let found = format!("KVM is {}", kind.as_str());
    match kind {
        KvmKind::Vtx | KvmKind::Svm => Check::new("virtualization", Verdict::Pass, found),
        KvmKind::Pvm => Check::new(
            "virtualization",
            Verdict::Warn,
            format!("{found}: guests' user code runs at full speed, their kernels are emulated"),
        )
        .next("small kernels run well here; for stock ones see the line below"),
        KvmKind::Unknown => Check::new("virtualization", Verdict::Warn, found)
            .next("guests may run; VT-x, AMD-V and PVM are known"),
    }
}

fn check_speed(speed: KernelSpeed) -> Check {
    let each = speed.per_iteration();
    let item = "guest kernels";
    let mut check = if speed.emulated() {
        let minutes = (speed.boot_seconds() / 60.0).ceil();
        let found = format!(
            "emulated: {each:.0} ns for a loop of two instructions; a stock kernel alone needs \
             {minutes:.0} minutes or more to boot, a whole system hours"
        );
        Check::new(item, Verdict::Warn, found).next(
            "run stock kernels on a host with VT-x or AMD-V; to try them here: cargo xtask demo",
        )
    } else {
        let found = format!("run on the processor: {each:.1} ns for a loop of two instructions");
        Check::new(item, Verdict::Pass, found)
    };
    check.ns_per_iteration = Some(each);
    check
}

fn check_memory(memory: host::Memory) -> Check {
    let found = format!(
        "{} MiB, {} MiB of them available",
        memory.total / 1024,
        memory.available / 1024
    );
    if memory.available < 256 << 10 {
        return Check::new("memory", Verdict::Warn, found)
            .next("end something that uses much memory");
    }
    Check::new("memory", Verdict::Pass, found)
}

fn check_huge_pages(memory: host::Memory, transparent: &str) -> Check {
    let mode = transparent
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .unwrap_or("absent");
    let found = format!(
        "transparent: {mode}; reserved: {} of {} KiB, {} of them free",
        memory.huge_total, memory.huge_size, memory.huge_free
    );
    if matches!(mode, "always" | "madvise") {
        return Check::new("huge pages", Verdict::Pass, found);
    }
    Check::new("huge pages", Verdict::Warn, found)
        .next("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
}

fn check_io_uring(disabled: &str) -> Check {
    match disabled.trim() {
        "0" => Check::new("io_uring", Verdict::Pass, "it may be used"),
        "" => Check::new(
            "io_uring",
            Verdict::Pass,
            "this kernel has no switch for it",
        ),
        value => Check::new(
            "io_uring",
            Verdict::Warn,
            format!("kernel.io_uring_disabled is {value}: disks use threads instead"),
        )
        .next("sysctl kernel.io_uring_disabled=0"),
    }
}

/// Networks need it; guests on bridges of the host do not.
fn check_tool(tool: Tool) -> Check {
    match tool.need() {
        Ok(path) => Check::new(
            tool.name,
            Verdict::Pass,
            format!("{} is there", path.display()),
        ),
        Err(error) => Check {
            next: error.hints.clone(),
            ..Check::new(tool.name, Verdict::Warn, error.message)
        },
    }
}

fn check_tap(path: &Path) -> Check {
    let shown = path.display();
    if !path.exists() {
        return Check::new(
            "network",
            Verdict::Warn,
            format!("{shown} is not there: no tap devices"),
        )
        .next("modprobe tun");
    }
    let access = Access::READ_OK | Access::WRITE_OK;
    if rustix::fs::access(path, access).is_err() {
        return Check::new("network", Verdict::Warn, format!("{shown} cannot be used"))
            .next("run it as root for guests on bridges");
    }
    Check::new("network", Verdict::Pass, format!("{shown} can be used"))
}

fn check_cgroups() -> Check {
    if Path::new("/run/systemd/system").is_dir() {
        let found = "systemd gives each guest a scope of its own";
        return Check::new("cgroups", Verdict::Pass, found);
    }
    let base = Path::new("/sys/fs/cgroup");
    let writable = rustix::fs::access(base, Access::WRITE_OK).is_ok();
    if base.join("cgroup.controllers").exists() && writable {
        return Check::new(
            "cgroups",
            Verdict::Pass,
            "each guest gets a cgroup of its own",
        );
    }
    Check::new(
        "cgroups",
        Verdict::Warn,
        "no cgroup v2 to make groups in: guests stay in their caller's",
    )
    .next("boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or with systemd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_warning_and_failure_has_a_next_step() {
        let memory = host::Memory::default();
        let speed = |nanoseconds| KernelSpeed {
            iterations: 1000,
            nanoseconds,
        };
        let checks = [
            check_kind(KvmKind::Svm),
            check_kind(KvmKind::Pvm),
            check_kind(KvmKind::Unknown),
            check_speed(speed(2_000)),
            check_speed(speed(1_400_000)),
            check_memory(memory),
            check_huge_pages(memory, "always madvise [never]"),
            check_huge_pages(memory, "always [madvise] never"),
            check_io_uring("2"),
            check_io_uring("0"),
            check_tap(Path::new("/nonexistent/tun")),
            check_cgroups(),
        ];
        for check in checks {
            assert_eq!(
                check.verdict == Verdict::Pass,
                check.next.is_empty(),
                "{check:?}"
            );
        }
    }
}
