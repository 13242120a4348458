//! What the boot loader is told: plain data, borrowed for the length of one call.

use std::fs::File;
use uuid::Uuid;
use vmm_api::spec::{CpuTopology, PciAddress};

/// A span of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

impl Span {
    /// A span by its first address and its length.
    pub const fn new(base: u64, len: u64) -> Self {
        Self { base, len }
    }

    /// The first address behind the span, saturating at the end of the address space.
    pub const fn end(self) -> u64 {
        self.base.saturating_add(self.len)
    }

    /// Whether the two share an address.
    pub const fn overlaps(self, other: Self) -> bool {
        self.base < other.end() && other.base < self.end()
    }
}

/// An open file, read by position: its offset is never relied on, but it may move.
#[derive(Debug, Clone, Copy)]
pub struct BootFile<'a> {
    /// The open file.
    pub file: &'a File,
    /// What to call it in messages.
    pub name: &'a str,
}

/// The vCPUs as tables describe them.
#[derive(Debug, Clone, Copy)]
pub struct BootCpus<'a> {
    /// Local APIC identifiers of all vCPUs that there can ever be, in vCPU order; at most
    /// [`MAX_VCPUS`](vmm_api::spec::MAX_VCPUS), each below 255.
    pub apic_ids: &'a [u32],
    /// How many of them, from the first, are present at start; at least 1.
    pub present: u32,
    /// How they are grouped; one socket per vCPU when absent.
    pub topology: Option<CpuTopology>,
}

/// The PCI address space of the root bus.
#[derive(Debug, Clone, Copy)]
pub struct BootPci<'a> {
    /// The ECAM window: 1 MiB per bus, from bus 0.
    pub ecam: Span,
    /// The highest bus that there can be: that of the last root port, or 0. Linux looks for devices
    /// on every bus up to here that it has not found yet, at 64 exits each, so this is not just 255.
    pub last_bus: u8,
    /// Windows for BARs below 4 GiB, apart from RAM, the ECAM window, and the APICs.
    pub mmio32: &'a [Span],
    /// The window for BARs above 4 GiB.
    pub mmio64: Option<Span>,
}

/// Texts of SMBIOS type 1; an absent or empty one gets our own name or none.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemInfo<'a> {
    /// Manufacturer.
    pub manufacturer: Option<&'a str>,
    /// Product name.
    pub product: Option<&'a str>,
    /// Version; the machine version when absent.
    pub version: Option<&'a str>,
    /// Serial number.
    pub serial: Option<&'a str>,
    /// SKU number.
    pub sku: Option<&'a str>,
    /// Family.
    pub family: Option<&'a str>,
}

/// The machine as its guest is told of it, in tables.
#[derive(Debug, Clone, Copy)]
pub struct BootBoard<'a> {
    /// The domain's UUID, shown in SMBIOS.
    pub uuid: Uuid,
    /// The machine version, such as `vm-q35-1`.
    pub machine: &'a str,
    /// vCPUs.
    pub cpus: BootCpus<'a>,
    /// The RAM that the guest has at start, ascending and apart. The first span starts at 0; it
    /// backs the legacy area from 0xa0000 to 1 MiB too, which is never offered as usable.
    pub ram: &'a [Span],
    /// The root bus.
    pub pci: BootPci<'a>,
    /// Serial ports present: 0 for COM1 to 3 for COM4.
    pub serial_ports: &'a [u8],
    /// The panic device is present.
    pub pvpanic: bool,
    /// The firmware configuration device is present.
    pub fw_cfg: bool,
    /// SMBIOS texts.
    pub system: SystemInfo<'a>,
}

/// Everything that a kernel is started with.
#[derive(Debug, Clone, Copy)]
pub struct BootInput<'a> {
    /// bzImage, ELF vmlinux or any PVH ELF.
    pub kernel: BootFile<'a>,
    /// The initial RAM disk.
    pub initrd: Option<BootFile<'a>>,
    /// The command line, without a terminating zero.
    pub cmdline: &'a str,
    /// RAM was never written: it reads as zeros and need not be cleared. False after a reset.
    pub ram_is_zero: bool,
    /// The machine.
    pub board: BootBoard<'a>,
}

/// Everything that firmware is told.
#[derive(Debug, Clone, Copy)]
pub struct FirmwareInput<'a> {
    /// The machine.
    pub board: BootBoard<'a>,
    /// Bytes of the firmware's image.
    pub image: u64,
    /// Milliseconds that the boot menu waits; no menu when absent.
    pub menu: Option<u32>,
    /// COM1 is the firmware's console.
    pub serial: bool,
    /// Milliseconds from a boot that failed to the next one; none when absent.
    pub reboot_timeout: Option<u32>,
    /// What to boot from, first things first; the firmware's own order when empty.
    pub order: &'a [BootDevice],
}

/// A device that firmware may boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootDevice {
    /// What it is.
    pub kind: BootDeviceKind,
    /// Where it is: slot and function are looked at.
    pub address: PciAddress,
    /// The root port that it is behind, if it is not on the root bus.
    pub port: Option<PciAddress>,
}

/// Kinds of devices that can be booted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootDeviceKind {
    /// A virtio disk.
    Disk,
    /// A network card.
    Network,
}
