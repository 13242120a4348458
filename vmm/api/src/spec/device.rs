//! Devices of the spec. One variant of [`DeviceKind`] per device model; its fields are the whole
//! configuration of that device, so there is no second set of configuration types below it.

use super::{ConsoleSpec, Fd, GpuSpec, InputSpec, IoLimits, LogSpec, MacAddress, PciAddress};
use serde::{Deserialize, Serialize};

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// The alias, unique in the machine, such as `virtio-disk0`; names sections of saved state.
    pub id: String,
    /// Where a PCI device sits; absent for devices that are not on PCI.
    #[serde(default)]
    pub address: Option<PciAddress>,
    /// What it is.
    #[serde(flatten)]
    pub kind: DeviceKind,
}

/// Every device model that a spec can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A 16550A serial port with its console.
    Serial(SerialSpec),
    /// The test device that ends the process with an exit code.
    DebugExit(DebugExitSpec),
    /// The port where firmware says what it does.
    DebugConsole(DebugConsoleSpec),
    /// The device by which a guest reports that its kernel has crashed.
    #[serde(rename = "pvpanic")]
    PvPanic(PvPanicSpec),
    /// A PCI Express root port; its secondary bus is where hot-pluggable devices sit.
    PcieRootPort(RootPortSpec),
    /// A virtio block device (virtio 1.3 §5.2).
    VirtioBlk(BlkSpec),
    /// A virtio entropy device (virtio 1.3 §5.4).
    VirtioRng(RngSpec),
    /// A virtio network card (virtio 1.3 §5.1).
    VirtioNet(NetSpec),
    /// A virtio console device with its ports (virtio 1.3 §5.3).
    VirtioConsole(ConsoleSpec),
    /// A virtio graphics card (virtio 1.3 §5.7).
    VirtioGpu(GpuSpec),
    /// A virtio keyboard, tablet or mouse (virtio 1.3 §5.8).
    VirtioInput(InputSpec),
    /// A virtio memory balloon (virtio 1.3 §5.5); at most one.
    VirtioBalloon(BalloonSpec),
}

impl DeviceKind {
    /// Its place among the devices that firmware boots from.
    pub fn boot_index(&self) -> Option<u32> {
        match self {
            Self::VirtioBlk(blk) => blk.boot_index,
            Self::VirtioNet(net) => net.boot_index,
            _ => None,
        }
    }
}

/// A serial port. All of its outputs are optional and none may ever stall a vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialSpec {
    /// 0 for COM1 (0x3f8, IRQ 4) to 3 for COM4.
    pub port: u8,
    /// Where everything that the guest writes is logged.
    #[serde(default)]
    pub log: Option<LogSpec>,
    /// A listening Unix stream socket for console viewers.
    #[serde(default)]
    pub console: Option<Fd>,
    /// The master side of a pty.
    #[serde(default)]
    pub pty: Option<Fd>,
    /// A plain output, such as standard output; input is not read from it.
    #[serde(default)]
    pub output: Option<Fd>,
}

/// Port 0xf4: a byte N written there ends the process with exit code N.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugExitSpec {}

/// Port 0x402: what is written there goes to a file, at most 1 MiB of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugConsoleSpec {
    /// The regular file that takes it.
    pub output: Fd,
}

/// Port 0x505 with ACPI device `QEMU0001`; libvirt's `<panic model='isa'/>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvPanicSpec {}

/// A PCI Express root port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPortSpec {
    /// The bus below it: libvirt's controller index, 1 to 255, unique.
    pub bus: u8,
    /// Port number in the slot capabilities; libvirt's `<target port=.../>`.
    pub port: u8,
    /// Physical slot number in the slot capabilities; libvirt's `<target chassis=.../>`.
    pub chassis: u8,
}

/// Image formats that a machine may run from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// Bytes as they are.
    Raw,
    /// qcow2 version 2 or 3.
    Qcow2,
}

/// An opened image and the chain below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The file.
    pub file: Fd,
    /// Its path, for messages and for matching the names that images give their backing files.
    pub path: String,
    /// Its format; never probed.
    pub format: ImageFormat,
    /// What this image's header names as its backing file, opened read-only.
    #[serde(default)]
    pub backing: Option<Box<ImageSpec>>,
    /// What this image's header names as its external data file.
    #[serde(default)]
    pub data_file: Option<Box<ImageSpec>>,
}

/// libvirt's `cache=`; absent means [`CacheMode::None`] where the file system can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// O_DIRECT, guest write cache on; falls back to writeback where O_DIRECT is refused.
    #[default]
    None,
    /// Host page cache, guest write cache on.
    Writeback,
    /// Host page cache, every write is flushed.
    Writethrough,
    /// O_DIRECT, every write is flushed.
    Directsync,
    /// Host page cache, flushes ignored: for throw-away guests.
    Unsafe,
}

/// libvirt's `discard=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiscardMode {
    /// The device does not offer discard.
    Ignore,
    /// Discarded space is given back.
    #[default]
    Unmap,
}

/// libvirt's `detect_zeroes=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectZeroes {
    /// Zeroes are data.
    #[default]
    Off,
    /// Zeroes become zero clusters.
    On,
    /// Zeroes become holes where discard is `unmap`.
    Unmap,
}

/// libvirt's `error_policy` and `rerror_policy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorPolicy {
    /// ENOSPC and a lost lock pause the guest; anything else goes to the guest.
    #[default]
    Enospace,
    /// Every error pauses the guest.
    Stop,
    /// Every error goes to the guest.
    Report,
    /// Errors are hidden from the guest (reads give what there is).
    Ignore,
}

/// How the storage below an image is driven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoEngine {
    /// io_uring where the host allows it, else threads.
    #[default]
    Auto,
    /// io_uring or refuse.
    IoUring,
    /// A pool of threads.
    Threads,
}

/// A virtio disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkSpec {
    /// What it shows.
    pub image: ImageSpec,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// The serial that the guest reads with VIRTIO_BLK_T_GET_ID; at most 20 bytes.
    #[serde(default)]
    pub serial: Option<String>,
    /// Request queues, 1 to 256.
    #[serde(default = "one")]
    pub queues: u16,
    /// Entries per queue, a power of two, 2 to 1024.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// Host and guest caching.
    #[serde(default)]
    pub cache: CacheMode,
    /// Whether discards are offered and passed on.
    #[serde(default)]
    pub discard: DiscardMode,
    /// What happens to zeroes that the guest writes.
    #[serde(default)]
    pub detect_zeroes: DetectZeroes,
    /// What write errors do.
    #[serde(default)]
    pub error_policy: ErrorPolicy,
    /// What read errors do.
    #[serde(default)]
    pub rerror_policy: ErrorPolicy,
    /// How the file is driven.
    #[serde(default)]
    pub io: IoEngine,
    /// Numbers of the threads that its queues are dealt out to, in turn; other disks may name them
    /// too. A thread of its own when empty.
    #[serde(default)]
    pub iothreads: Vec<u32>,
    /// Its place among the devices that firmware boots from, lowest first, each taken once. Where any
    /// device has one, those without are not booted from.
    #[serde(default)]
    pub boot_index: Option<u32>,
    /// How much the guest may ask of it.
    #[serde(default)]
    pub limits: Box<IoLimits>,
}

fn one() -> u16 {
    1
}

fn queue_size() -> u16 {
    256
}

impl BlkSpec {
    /// A writable disk with defaults.
    pub fn new(image: ImageSpec) -> Self {
        Self {
            image,
            read_only: false,
            serial: None,
            queues: one(),
            queue_size: queue_size(),
            cache: CacheMode::default(),
            discard: DiscardMode::default(),
            detect_zeroes: DetectZeroes::default(),
            error_policy: ErrorPolicy::default(),
            rerror_policy: ErrorPolicy::default(),
            io: IoEngine::default(),
            iothreads: Vec::new(),
            boot_index: None,
            limits: Box::default(),
        }
    }
}

/// A virtio entropy device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngSpec {
    /// Where the entropy comes from: an open `/dev/urandom` or the like.
    pub source: Fd,
    /// Bytes per `period_ms`, when limited.
    #[serde(default)]
    pub rate_bytes: Option<u64>,
    /// The period of the limit in milliseconds.
    #[serde(default)]
    pub period_ms: Option<u32>,
}

/// A virtio memory balloon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonSpec {
    /// Bytes of RAM that the guest is asked to content itself with, a multiple of 4096, at most all of
    /// it (`<currentMemory>`); all of it when absent.
    #[serde(default)]
    pub target: Option<u64>,
    /// The guest may take pages back by itself before it kills a process for want of memory.
    #[serde(default)]
    pub autodeflate: bool,
    /// The guest tells which of its pages are free, and they are given back to the host.
    #[serde(default)]
    pub free_page_reporting: bool,
    /// Seconds from one set of the guest's statistics to the next; 0: only when somebody asks.
    #[serde(default)]
    pub stats_period: u32,
}

/// What carries the frames of a network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetBackend {
    /// One descriptor of a tap per queue pair, 1 to 128, opened with `IFF_TAP`, `IFF_NO_PI`,
    /// `IFF_VNET_HDR`, and `IFF_MULTI_QUEUE` when there are several.
    Taps(Vec<Fd>),
    /// A connected Unix stream socket that carries frames with their length in front (four bytes,
    /// highest first), as passt does; one queue pair.
    Stream(Fd),
}

/// A virtio network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetSpec {
    /// Where its frames come from and go to.
    #[serde(flatten)]
    pub backend: NetBackend,
    /// The card's address.
    pub mac: MacAddress,
    /// What the guest is told to use, 68 to 65535; nothing when absent.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Whether the cable is plugged in.
    #[serde(default = "yes")]
    pub link: bool,
    /// Entries per queue, a power of two, 2 to 1024.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// Its place among the devices that firmware boots from, as a disk's. Without an option ROM there
    /// is no network boot: the firmware passes it over.
    #[serde(default)]
    pub boot_index: Option<u32>,
}

impl NetSpec {
    /// A card with its cable in, and defaults.
    pub fn new(backend: NetBackend, mac: MacAddress) -> Self {
        Self {
            backend,
            mac,
            mtu: None,
            link: true,
            queue_size: queue_size(),
            boot_index: None,
        }
    }
}

fn yes() -> bool {
    true
}
