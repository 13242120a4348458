//! Devices of a domain definition.
//!
//! Every device has `at`, the place of its element, and `alias`: the one that the document gives,
//! else libvirt's name for it (`virtio-disk0`, `net0`, ...), which is not written into the
//! document.

use super::user_network::UserNetwork;
use crate::xml::Position;
use vmm_api::spec::{
    CacheMode, DetectZeroes, DiscardMode, ErrorPolicy, ImageFormat, IoEngine, IoLimits, PciAddress,
    SharePolicy,
};

/// `<disk>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `device=`
    pub device: DiskDevice,
    /// Where the data is; `None` for an empty CD-ROM drive.
    pub source: Option<DiskSource>,
    /// `<backingStore>`: `None` says nothing (the image's header decides), an empty list says that
    /// there is none, else the chain from the top down.
    pub backing: Option<Vec<BackingImage>>,
    /// `<driver type=...>`; raw when absent.
    pub format: ImageFormat,
    /// Whether the document states the format. A qcow2 file is refused where it does not.
    pub format_stated: bool,
    /// `<driver cache=...>`
    pub cache: Option<CacheMode>,
    /// `<driver io=...>`
    pub io: IoEngine,
    /// `<driver discard=...>`
    pub discard: Option<DiscardMode>,
    /// `<driver detect_zeroes=...>`
    pub detect_zeroes: Option<DetectZeroes>,
    /// `<driver error_policy=...>`
    pub error_policy: Option<ErrorPolicy>,
    /// `<driver rerror_policy=...>`; the write policy when absent.
    pub rerror_policy: Option<ErrorPolicy>,
    /// `<driver queues=...>`, 1 to 256.
    pub queues: Option<u16>,
    /// `<driver iothread=...>`, or the ids in its `<iothreads>`; the disk's own thread when empty.
    pub iothreads: Vec<u32>,
    /// `<driver queue_size=...>`, a power of two from 2 to 1024.
    pub queue_size: Option<u16>,
    /// `<target dev=...>`
    pub target: String,
    /// `<target bus=...>`; from the target's name when absent.
    pub bus: DiskBus,
    /// Whether the document states the bus.
    pub bus_stated: bool,
    /// `<readonly/>`, or a CD-ROM.
    pub readonly: bool,
    /// `<shareable/>`
    pub shareable: bool,
    /// `<serial>`
    pub serial: Option<String>,
    /// `<boot order=...>`
    pub boot_order: Option<u32>,
    /// `<iotune>`
    pub limits: IoLimits,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}

/// `<disk device=...>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskDevice {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
    /// A floppy drive; accepted without effect.
    Floppy,
    /// SCSI commands passed through; kept, refused at start.
    Lun,
}

/// `<source>` of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// `type='file'`: an absolute path.
    File(String),
    /// `type='block'`: a device node.
    Block(String),
    /// Another type (network, volume, ...); kept, refused at start.
    Other(String),
}

/// One image of a stated `<backingStore>` chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingImage {
    /// Where it is.
    pub source: DiskSource,
    /// `<format type=...>`; raw when absent.
    pub format: ImageFormat,
}

/// `<target bus=...>` of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi or an older SCSI controller.
    Scsi,
    /// IDE.
    Ide,
    /// SATA.
    Sata,
    /// USB storage.
    Usb,
    /// Floppy controller.
    Fdc,
    /// Xen, SD and whatever else libvirt knows.
    Other,
}

/// `<controller>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `type=`, such as `pci` or `virtio-serial`.
    pub kind: String,
    /// `model=`
    pub model: Option<String>,
    /// `index=`; the bus number of a PCI controller.
    pub index: Option<u32>,
    /// `<target chassis=...>`
    pub chassis: Option<u8>,
    /// `<target port=...>`
    pub port: Option<u8>,
    /// `ports=` of a virtio-serial controller.
    pub ports: Option<u16>,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}

impl Controller {
    /// Whether it has ports for channels and virtio consoles.
    pub fn is_virtio_serial(&self) -> bool {
        self.kind == "virtio-serial"
    }

    /// Whether it is a PCI Express root port.
    pub fn is_root_port(&self) -> bool {
        self.kind == "pci" && self.model.as_deref() == Some("pcie-root-port")
    }
}

/// `<interface>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `type=` and `<source>`.
    pub source: InterfaceSource,
    /// `<mac address=...>`
    pub mac: Option<MacAddress>,
    /// `<model type=...>`; virtio when absent.
    pub model: String,
    /// `<target dev=...>`
    pub target: Option<String>,
    /// `<target managed=...>`: whether the tap is ours to make.
    pub managed: bool,
    /// `<link state=...>`: whether the cable is in.
    pub link_up: bool,
    /// `<mtu size=...>`
    pub mtu: Option<u16>,
    /// `<driver queues=...>`
    pub queues: Option<u16>,
    /// `<boot order=...>`
    pub boot_order: Option<u32>,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}

/// What an interface is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSource {
    /// `type='network'`: a network's name.
    Network(String),
    /// `type='bridge'`: a host bridge.
    Bridge(String),
    /// `type='user'`: a network without rights, through passt.
    User(UserNetwork),
    /// `type='ethernet'`: a tap that somebody else plugs in.
    Ethernet,
    /// Another type (direct, hostdev, ...); kept, refused at start.
    Other(String),
}

/// A MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for MacAddress {
    type Err = ();

    /// Six pairs of hex digits with colons between them.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(())?;
            let digits =
                (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = digits
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or(())?;
        }
        parts.next().is_none().then_some(Self(bytes)).ok_or(())
    }
}

/// `<serial>`, or the serial port that a `<console>` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPort {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `<target port=...>`: 0 for COM1 to 3 for COM4.
    pub port: u8,
    /// `type=`
    pub backend: CharBackend,
    /// `<log file=...>`: a further log that the person asked for.
    pub log: Option<CharLog>,
}

/// Where a character device leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharBackend {
    /// A pseudo-terminal and our console socket.
    Pty,
    /// Nowhere.
    Null,
    /// `type='unix'` with mode bind and this path, if one is given.
    UnixListen(Option<String>),
    /// Another type; kept, refused at start.
    Other(String),
}

/// `<log file=... append=...>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CharLog {
    /// The file.
    pub file: String,
    /// Whether it is kept from one start to the next.
    pub append: bool,
}

/// `<channel>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// Where it leads.
    pub backend: CharBackend,
    /// `<target type='virtio' name=...>`
    pub name: Option<String>,
    /// Its port.
    pub place: PortPlace,
}

/// `<address type='virtio-serial'>`: a port of a controller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortPlace {
    /// Index of the controller.
    pub controller: u32,
    /// Number of the port; `None` until the definition is complete.
    pub port: Option<u16>,
}

/// `<console>` with `<target type='virtio'>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioConsole {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// Where it leads.
    pub backend: CharBackend,
    /// Its port.
    pub place: PortPlace,
}

/// `<rng model='virtio'>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `<backend model='random'>`: the file; `/dev/urandom` when the text is empty.
    pub source: String,
    /// `<rate bytes=...>`
    pub rate_bytes: Option<u64>,
    /// `<rate period=...>` in milliseconds; 1000 when absent.
    pub rate_period_ms: Option<u32>,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}

/// `<panic model='isa'>`: pvpanic at port 0x505.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panic {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
}

/// `<graphics>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphics {
    /// The place of the element.
    pub at: Position,
    /// `type=`, such as `vnc`.
    pub kind: String,
    /// `port=`; `None` for autoport.
    pub port: Option<u16>,
    /// `websocket=`; `Some(None)` for the first free port, `None` without WebSockets.
    pub websocket: Option<Option<u16>>,
    /// Where it listens; one at least.
    pub listens: Vec<GraphicsListen>,
    /// `passwd=`; never shown without being asked for.
    pub password: Option<String>,
    /// `passwdValidTo=`, in seconds since 1970.
    pub password_until: Option<u64>,
    /// `sharePolicy=`
    pub share: SharePolicy,
}

/// `<listen>` of a display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphicsListen {
    /// `type='address'`: on this address, with TCP.
    Address(String),
    /// `type='socket'`: on a Unix socket, at this path if one is given.
    Socket(Option<String>),
    /// `type='none'`: nowhere.
    None,
    /// `type='network'`: on the address of a network; kept, refused at start.
    Network,
}

/// `<video>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Video {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `<model type=...>`
    pub model: String,
    /// `<resolution>`: the width and height that it proposes to the guest.
    pub resolution: Option<(u32, u32)>,
    /// `vram=` of a virtio card, in KiB: what pictures of the guest may take.
    pub memory_kib: Option<u32>,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}

/// Models of which a machine has a virtio card; of some with a warning.
const CARDS: &[&str] = &["virtio", "default", "vga", "cirrus", "qxl", "bochs"];

/// Whether a model of `<video>` is a card of the machine.
pub(super) fn is_card(model: &str) -> bool {
    CARDS.contains(&model)
}

impl Video {
    /// Whether the machine has a card for it.
    pub fn is_card(&self) -> bool {
        is_card(&self.model)
    }
}

/// `<input>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// `type=`
    pub kind: String,
    /// `bus=`
    pub bus: Option<String>,
    /// `<address type='pci'>` of one on virtio.
    pub address: Option<PciAddress>,
}

/// `<memballoon>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemBalloon {
    /// The place of the element.
    pub at: Position,
    /// Unique name.
    pub alias: String,
    /// Whether there is one: `model='none'` says no.
    pub present: bool,
    /// `<stats period=...>` in seconds.
    pub stats_period: Option<u32>,
    /// `freePageReporting=`; when absent it is on for RAM that is not to be kept at hand.
    pub free_page_reporting: Option<bool>,
    /// `autodeflate=`
    pub autodeflate: bool,
    /// `<address type='pci'>`
    pub address: Option<PciAddress>,
}
