//! What the manager needs to know of this host: KVM, memory, processors.

use crate::error::{Error, Kind, Result, plain_io};
use crate::runtime::files::{self, Access};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// What stands behind `/dev/kvm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmKind {
    /// Intel VT-x.
    Vtx,
    /// AMD-V.
    Svm,
    /// Paravirtual: guests' kernel code is emulated, their user code runs natively.
    Pvm,
    /// The device is there and its module is not one of these.
    Unknown,
}

impl KvmKind {
    /// The kind on this host, told from its modules.
    pub fn detect() -> Self {
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        if module("kvm_intel") {
            Self::Vtx
        } else if module("kvm_amd") {
            Self::Svm
        } else if module("kvm_pvm") {
            Self::Pvm
        } else {
            Self::Unknown
        }
    }

    /// What it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vtx => "Intel VT-x",
            Self::Svm => "AMD-V",
            Self::Pvm => "paravirtual (PVM)",
            Self::Unknown => "of an unknown kind",
        }
    }
}

/// Opens the KVM device.
///
/// # Errors
/// It is missing, with what to enable; the operator lacks the right; it is busy.
pub fn open_kvm(path: &Path) -> Result<File> {
    let error = match File::options().read(true).write(true).open(path) {
        Ok(file) => return Ok(file),
        Err(error) => error,
    };
    let base = Error::new(
        Kind::Host,
        format!("Domain requires KVM, but {} cannot be used", path.display()),
    );
    Err(match error.kind() {
        io::ErrorKind::NotFound => no_kvm(base),
        io::ErrorKind::PermissionDenied => files::diagnose(path, Access::ReadWrite, "KVM", &error)
            .context("Domain requires KVM, but you have no right to use it")
            .hint("join the group that owns it: usermod -aG kvm USER, then log in again"),
        _ => base.cause(plain_io(&error)),
    })
}

fn no_kvm(base: Error) -> Error {
    let (vendor, flag) = processor_flags();
    let base = base.cause("it is not there");
    match (vendor, flag) {
        (Some(Vendor::Intel), true) => base
            .cause("the processor has VT-x, but KVM's module is not loaded")
            .hint("load it: modprobe kvm_intel (dmesg says so if the firmware switched VT-x off)"),
        (Some(Vendor::Amd), true) => base
            .cause("the processor has AMD-V, but KVM's module is not loaded")
            .hint("load it: modprobe kvm_amd (dmesg says so if the firmware switched SVM off)"),
        (Some(Vendor::Intel), false) => base
            .cause("the processor shows no VT-x")
            .hint("enable VT-x (Intel Virtualization Technology) in the firmware; in a virtual machine, nested virtualization on its host"),
        (Some(Vendor::Amd), false) => base
            .cause("the processor shows no AMD-V")
            .hint("enable SVM in the firmware; in a virtual machine, nested virtualization on its host"),
        (None, _) => base.hint("a processor with VT-x or AMD-V and KVM's module are needed"),
    }
}

/// Makers of processors with KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD or HygonGenuine.
    Amd,
}

/// The processor's maker, and whether it shows hardware virtualization.
pub fn processor_flags() -> (Option<Vendor>, bool) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_string())
            .unwrap_or_default()
    };
    let vendor = match field("vendor_id").as_str() {
        "GenuineIntel" => Some(Vendor::Intel),
        "AuthenticAMD" | "HygonGenuine" => Some(Vendor::Amd),
        _ => None,
    };
    let flags = field("flags");
    let has = flags
        .split_whitespace()
        .any(|flag| matches!(flag, "vmx" | "svm"));
    (vendor, has)
}

/// Memory of the host, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without pushing others out.
    pub available: u64,
    /// Swap space.
    pub swap: u64,
    /// Free huge pages of the default size.
    pub huge_free: u64,
    /// All huge pages of the default size.
    pub huge_total: u64,
    /// That size.
    pub huge_size: u64,
}

/// Reads `/proc/meminfo`.
pub fn memory() -> Memory {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn parse_meminfo(text: &str) -> Memory {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| value.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    Memory {
        total: field("MemTotal"),
        available: field("MemAvailable"),
        swap: field("SwapTotal"),
        huge_free: field("HugePages_Free"),
        huge_total: field("HugePages_Total"),
        huge_size: field("Hugepagesize"),
    }
}

/// Refuses guest memory that this host can never give; warns above what it has free.
///
/// # Errors
/// More than memory and swap together, or more huge pages than are free.
pub fn check_memory(
    wanted_kib: u64,
    huge_kib: Option<u64>,
    host: Memory,
) -> Result<Option<String>> {
    if let Some(size) = huge_kib {
        let size = if size == 0 { host.huge_size } else { size };
        let needed = wanted_kib.div_ceil(size.max(1));
        if size == host.huge_size && needed > host.huge_free {
            return Err(Error::new(
                Kind::Host,
                format!("cannot give the guest {needed} huge pages of {size} KiB"),
            )
            .cause(format!("{} are free", host.huge_free))
            .hint(format!(
                "make more: echo {needed} > /proc/sys/vm/nr_hugepages"
            )));
        }
        return Ok(None);
    }
    if host.total != 0 && wanted_kib > host.total.saturating_add(host.swap) {
        return Err(Error::new(
            Kind::Host,
            format!("cannot give the guest {wanted_kib} KiB of memory"),
        )
        .cause(format!(
            "this host has {} KiB of memory and {} KiB of swap",
            host.total, host.swap
        ))
        .hint("lower <memory> in the definition: vm edit"));
    }
    let tight = host.available != 0 && wanted_kib > host.available;
    Ok(tight.then(|| {
        format!(
            "the guest may use {wanted_kib} KiB of memory, but only {} KiB are available now",
            host.available
        )
    }))
}

/// Where the first part of a guest's RAM ends at the latest; the rest begins at 4 GiB.
const LOW_RAM_KIB: u64 = 2816 << 10;

/// Why guest memory cannot be made of huge pages of this size, both in KiB: each of its two parts has
/// to be a whole number of them.
pub fn huge_page_misfit(wanted_kib: u64, page_kib: u64) -> Option<String> {
    let page = page_kib.max(1);
    let low = wanted_kib.min(LOW_RAM_KIB);
    if low.is_multiple_of(page) && (wanted_kib - low).is_multiple_of(page) {
        return None;
    }
    let (below, most) = (
        wanted_kib - wanted_kib % page,
        LOW_RAM_KIB - LOW_RAM_KIB % page,
    );
    let why = format!("{wanted_kib} KiB of memory cannot be made of huge pages of {page} KiB");
    Some(if wanted_kib > most && !LOW_RAM_KIB.is_multiple_of(page) {
        format!(
            "{why}: what lies below 4 GiB ends at {LOW_RAM_KIB} KiB, so at most {most} KiB can; use pages of 2 MiB"
        )
    } else if below == 0 {
        format!("{why}; give it {page} KiB, or use smaller pages")
    } else {
        let above = below + page;
        format!("{why}; give it {below} or {above} KiB, or use smaller pages")
    })
}

/// What `vm nodeinfo` tells.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Node {
    /// Architecture.
    pub model: String,
    /// Processors online.
    pub cpus: usize,
    /// Clock rate in MHz.
    pub mhz: u64,
    /// Sockets per NUMA cell.
    pub sockets: usize,
    /// Cores per socket.
    pub cores: usize,
    /// Threads per core.
    pub threads: usize,
    /// NUMA cells.
    pub cells: usize,
    /// Memory in KiB.
    pub memory_kib: u64,
}

/// Reads the facts of this host.
pub fn node() -> Node {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cells = fs::read_dir("/sys/devices/system/node").map_or(1, |entries| {
        let is_cell = |name: &str| {
            name.strip_prefix("node")
                .is_some_and(|number| number.parse::<u32>().is_ok())
        };
        entries
            .flatten()
            .filter(|entry| is_cell(&entry.file_name().to_string_lossy()))
            .count()
    });
    Node {
        memory_kib: memory().total,
        cells: cells.max(1),
        ..parse_cpuinfo(&text)
    }
}

fn parse_cpuinfo(text: &str) -> Node {
    let values = |name: &'static str| {
        text.lines().filter_map(move |line| {
            let (label, value) = line.split_once(':')?;
            (label.trim() == name).then(|| value.trim().to_string())
        })
    };
    let first = |name: &'static str| values(name).next().and_then(|value| value.parse().ok());
    let cpus = values("processor").count().max(1);
    let packages: std::collections::BTreeSet<String> = values("physical id").collect();
    let sockets = packages.len().max(1);
    let cores: usize = first("cpu cores").unwrap_or(1).max(1);
    let siblings: usize = first("siblings").unwrap_or(cores);
    let mhz = values("cpu MHz")
        .next()
        .and_then(|value| value.split('.').next()?.parse().ok());
    Node {
        model: std::env::consts::ARCH.into(),
        cpus,
        mhz: mhz.unwrap_or(0),
        sockets,
        cores,
        threads: (siblings / cores).max(1),
        cells: 1,
        memory_kib: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Memory = Memory {
        total: 1000,
        available: 500,
        swap: 100,
        huge_free: 2,
        huge_total: 4,
        huge_size: 2048,
    };

    #[test]
    fn memory_is_refused_only_when_it_cannot_work() {
        assert_eq!(check_memory(400, None, HOST).unwrap(), None);
        assert!(check_memory(1100, None, HOST).unwrap().is_some());
        assert!(check_memory(1101, None, HOST).is_err());
        check_memory(4096, Some(0), HOST).unwrap();
        assert!(check_memory(4097, Some(2048), HOST).is_err());
    }

    #[test]
    fn huge_pages_have_to_fit_both_parts_of_ram() {
        const GIB: u64 = 1 << 20;
        for (memory, page) in [(GIB, GIB), (2 * GIB, GIB), (6 * GIB, 2048), (2048, 2048)] {
            assert_eq!(huge_page_misfit(memory, page), None, "{memory} of {page}");
        }
        let why = |memory, page| huge_page_misfit(memory, page).expect("refused");
        assert!(why(4 * GIB, GIB).contains("at most 2097152 KiB can; use pages of 2 MiB"));
        assert!(why(GIB / 4, GIB).ends_with("give it 1048576 KiB, or use smaller pages"));
        assert!(why(3000, 2048).contains("give it 2048 or 4096 KiB"));
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24684096 kB\nMemAvailable:    5 kB\nHugePages_Free:  7\nHugepagesize:       2048 kB\n";
        let memory = parse_meminfo(text);
        assert_eq!((memory.total, memory.available), (24_684_096, 5));
        assert_eq!((memory.huge_free, memory.huge_size), (7, 2048));
    }

    #[test]
    fn processors_are_counted_by_package() {
        let cpu = |number: u32, package: u32| {
            format!(
                "processor\t: {number}\ncpu MHz\t\t: 2596.146\nphysical id\t: {package}\n\
                 siblings\t: 4\ncpu cores\t: 2\n\n"
            )
        };
        let text: String = (0..8).map(|number| cpu(number, number / 4)).collect();
        let node = parse_cpuinfo(&text);
        assert_eq!(
            (node.cpus, node.sockets, node.cores, node.threads),
            (8, 2, 2, 2)
        );
        assert_eq!(node.mhz, 2596);
        assert_eq!(parse_cpuinfo("").cpus, 1);
    }

    #[test]
    fn a_missing_kvm_is_explained() {
        let error = open_kvm(Path::new("/nonexistent/kvm")).unwrap_err();
        assert_eq!(error.kind, Kind::Host);
        assert!(!error.hints.is_empty());
    }
}
