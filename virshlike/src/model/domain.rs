//! What a domain definition says, as types. Values here are valid and exact; nothing in a field
//! was rounded or guessed. Places are kept so that later refusals can point at a line.

use super::device::{
    Channel, Controller, Disk, Graphics, Input, Interface, MemBalloon, Panic, Rng, SerialPort,
    Video, VirtioConsole,
};
use super::policy::Policy;
use super::tune::{CpuTune, MemTune, NumaTune};
use crate::xml::{Diagnostics, Position};
use std::collections::BTreeSet;
use uuid::Uuid;
pub use vmm_api::cpu::Vendor;
pub use vmm_api::spec::{CpuTopology, EndAction, FeaturePolicy, FeatureRule};

/// A domain definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// `<name>`: 1 to 255 bytes, no slash, no control characters.
    pub name: String,
    /// `<uuid>`; [`super::complete`] makes one when it is missing.
    pub uuid: Option<Uuid>,
    /// `<title>`, one line.
    pub title: Option<String>,
    /// `<description>`.
    pub description: Option<String>,
    /// RAM.
    pub memory: Memory,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// `<cpu>`.
    pub cpu: Cpu,
    /// `<cputune>`, and `<vcpu cpuset=...>`.
    pub cputune: CpuTune,
    /// `<blkiotune><weight>`: the weight of the process's disk requests beside others, 1 to 10000.
    pub io_weight: Option<u64>,
    /// `<numatune>`, where it says from which nodes all memory comes.
    pub numatune: Option<NumaTune>,
    /// `<memtune>`.
    pub memtune: MemTune,
    /// `<os>`.
    pub os: Os,
    /// `<features>`.
    pub features: Features,
    /// `<clock>`.
    pub clock: Clock,
    /// `<on_poweroff>`; destroy when absent.
    pub on_poweroff: EndAction,
    /// `<on_reboot>`; restart when absent.
    pub on_reboot: EndAction,
    /// `<on_crash>`; destroy when absent.
    pub on_crash: EndAction,
    /// A core is written before that (`coredump-destroy`, `coredump-restart`).
    pub core_on_crash: bool,
    /// `<emulator>`: recorded, never run.
    pub emulator: Option<String>,
    /// Disks in the order of the document.
    pub disks: Vec<Disk>,
    /// Controllers in the order of the document.
    pub controllers: Vec<Controller>,
    /// Network interfaces in the order of the document.
    pub interfaces: Vec<Interface>,
    /// Serial ports, those that a lone `<console>` stands for included.
    pub serials: Vec<SerialPort>,
    /// Numbers of the `<iothreads>`.
    pub iothreads: BTreeSet<u32>,
    /// Channels in the order of the document.
    pub channels: Vec<Channel>,
    /// Consoles on virtio, in the order of the document.
    pub virtio_consoles: Vec<VirtioConsole>,
    /// Entropy devices.
    pub rngs: Vec<Rng>,
    /// The device by which a guest kernel reports that it has crashed.
    pub panic: Option<Panic>,
    /// Displays.
    pub graphics: Vec<Graphics>,
    /// Video cards.
    pub videos: Vec<Video>,
    /// Input devices.
    pub inputs: Vec<Input>,
    /// The balloon; `None` when the document says nothing of it.
    pub memballoon: Option<MemBalloon>,
    /// What our own elements in `<metadata>` ask for.
    pub policy: Policy,
    /// What is kept and not built yet; see [`Domain::refusals_at_start`].
    pub(super) kept: Diagnostics,
}

/// RAM. `size_kib` and `current_kib` are multiples of 4 KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// `<memory>` in KiB: what the guest can ever have without DIMMs.
    pub size_kib: u64,
    /// `<currentMemory>` in KiB, at most `size_kib`; the same when absent.
    pub current_kib: u64,
    /// `<maxMemory>` in KiB, at least `size_kib`: what the memory map has room for.
    pub max_kib: Option<u64>,
    /// `<memoryBacking>`.
    pub backing: Backing,
    /// Where `<memory>` stands.
    pub at: Position,
}

/// `<memoryBacking>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backing {
    /// `<hugepages>`: the page size in KiB, 0 for the host's default; `None` without.
    pub hugepages_kib: Option<u64>,
    /// `<nosharepages/>`.
    pub nosharepages: bool,
    /// `<locked/>`.
    pub locked: bool,
    /// `<source type='memfd'/>`.
    pub memfd: bool,
    /// `<access mode='shared'/>`.
    pub shared: bool,
    /// `<allocation mode='immediate'/>`.
    pub immediate: bool,
    /// `<discard/>`.
    pub discard: bool,
}

/// Virtual CPUs; `1 <= current <= max <= 254`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// How many there can ever be: the text of `<vcpu>`.
    pub max: u32,
    /// How many are there at start: `<vcpu current=...>`.
    pub current: u32,
    /// Where `<vcpu>` stands.
    pub at: Position,
}

/// `<cpu>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Its mode.
    pub mode: CpuMode,
    /// `<topology>`; its product is [`Vcpus::max`].
    pub topology: Option<CpuTopology>,
    /// `<feature>`, each name once and known.
    pub rules: Vec<FeatureRule>,
    /// `match=`.
    pub matching: CpuMatch,
    /// `<vendor>`: the only maker of hosts that it runs on.
    pub vendor: Option<Vendor>,
    /// `<model vendor_id=...>`: the twelve letters that the guest reads.
    pub vendor_id: Option<String>,
    /// `<maxphysaddr>`.
    pub address_bits: AddressBits,
    /// Where `<cpu>` stands.
    pub at: Position,
}

/// `<cpu match=...>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CpuMatch {
    /// What is written and nothing beside it.
    #[default]
    Exact,
    /// What is written and whatever the host has beyond.
    Minimum,
    /// What is written, on a host that has nothing beyond.
    Strict,
}

/// `<cpu><maxphysaddr>`: bits of a guest physical address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddressBits {
    /// The host's.
    #[default]
    Host,
    /// The host's, but not more than this.
    AtMost(u8),
    /// This many.
    Exactly(u8),
}

/// `<cpu mode=...>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CpuMode {
    /// No `<cpu>`, or one without a mode and a model: host-passthrough, migratable.
    #[default]
    Default,
    /// `host-passthrough`, with `migratable=`.
    HostPassthrough {
        /// Without features that cannot be migrated.
        migratable: bool,
    },
    /// `host-model`.
    HostModel,
    /// `maximum`.
    Maximum,
    /// `custom` qemu64 or kvm64, or an empty model: our oldest baseline.
    Baseline,
    /// A named model; one that is not ours is kept and refused at start.
    Named(String),
}

/// `<os>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// `<type machine=...>` as written; [`super::complete`] resolves it.
    pub machine: Option<String>,
    /// `<kernel>`.
    pub kernel: Option<String>,
    /// `<initrd>`.
    pub initrd: Option<String>,
    /// `<cmdline>`.
    pub cmdline: Option<String>,
    /// `<boot dev=...>` in order, each kind once.
    pub boot: Vec<BootDevice>,
    /// `<loader type='rom'>`: the firmware's image; the host's SeaBIOS when absent.
    pub loader: Option<String>,
    /// `<bootmenu enable='yes'>`: how many milliseconds it waits, at most 65535.
    pub boot_menu: Option<u32>,
    /// `<bios useserial=...>`; on with a first serial port when absent.
    pub use_serial: Option<bool>,
    /// `<bios rebootTimeout=...>`: milliseconds from a boot that found nothing to the next, at most
    /// 65535; there is no next when absent.
    pub reboot_timeout: Option<u32>,
    /// Where `<os>` stands.
    pub at: Position,
}

/// `<boot dev=...>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDevice {
    /// `hd`
    Disk,
    /// `cdrom`
    Cdrom,
    /// `network`
    Network,
    /// `fd`
    Floppy,
}

/// `<features>` that are honoured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// `<acpi/>`
    pub acpi: bool,
    /// `<apic/>`
    pub apic: bool,
}

/// `<clock offset=...>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// The RTC shows UTC.
    #[default]
    Utc,
    /// The RTC shows the host's local time.
    LocalTime,
    /// Anything else; kept, refused at start.
    Other,
}
