//! Machines and files that the tests of this module start from.

use super::{BootBoard, BootCpus, BootFile, BootInput, BootPci, Span, SystemInfo};
use devices::memory::GuestMemory;
use std::fs::File;
use std::io::Write;
use uuid::Uuid;
use vm_memory::{Bytes, GuestAddress};
use vmm_api::spec::CpuTopology;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// A machine with everything that a [`BootInput`] borrows.
pub(super) struct Given {
    pub(super) kernel: File,
    pub(super) initrd: Option<File>,
    pub(super) cmdline: String,
    pub(super) apic_ids: Vec<u32>,
    pub(super) present: u32,
    pub(super) topology: Option<CpuTopology>,
    pub(super) ram: Vec<Span>,
    pub(super) ram_is_zero: bool,
    pub(super) mmio32: Vec<Span>,
    pub(super) mmio64: Option<Span>,
    pub(super) ecam: Span,
    pub(super) last_bus: u8,
    pub(super) serial_ports: Vec<u8>,
    pub(super) pvpanic: bool,
    pub(super) fw_cfg: bool,
}

/// An unlinked file with this content.
pub(super) fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("space for it");
    file
}

impl Given {
    /// One vCPU, 64 MiB of RAM, COM1, and this kernel.
    pub(super) fn kernel(content: &[u8]) -> Self {
        Self {
            kernel: file(content),
            initrd: None,
            cmdline: "console=ttyS0".into(),
            apic_ids: vec![0],
            present: 1,
            topology: None,
            ram: vec![Span::new(0, 64 * MIB)],
            ram_is_zero: true,
            mmio32: vec![
                Span::new(0x8000_0000, 0x3000_0000),
                Span::new(0xc000_0000, 0x3ec0_0000),
            ],
            mmio64: Some(Span::new(0x80_0000_0000, 0x80_0000_0000)),
            ecam: Span::new(0xb000_0000, 256 * MIB),
            last_bus: 14,
            serial_ports: vec![0],
            pvpanic: false,
            fw_cfg: false,
        }
    }

    pub(super) fn input(&self) -> BootInput<'_> {
        BootInput {
            kernel: BootFile {
                file: &self.kernel,
                name: "vmlinuz",
            },
            initrd: self.initrd.as_ref().map(|file| BootFile {
                file,
                name: "initrd.img",
            }),
            cmdline: &self.cmdline,
            ram_is_zero: self.ram_is_zero,
            board: self.board(),
        }
    }

    /// The machine without its kernel.
    pub(super) fn board(&self) -> BootBoard<'_> {
        BootBoard {
            uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            machine: "vm-q35-1",
            cpus: BootCpus {
                apic_ids: &self.apic_ids,
                present: self.present,
                topology: self.topology,
            },
            ram: &self.ram,
            pci: BootPci {
                ecam: self.ecam,
                last_bus: self.last_bus,
                mmio32: &self.mmio32,
                mmio64: self.mmio64,
            },
            serial_ports: &self.serial_ports,
            pvpanic: self.pvpanic,
            fw_cfg: self.fw_cfg,
            system: SystemInfo::default(),
        }
    }

    /// Guest memory for the RAM given, all `fill`.
    pub(super) fn memory(&self, fill: u8) -> GuestMemory {
        let ranges: Vec<_> = self
            .ram
            .iter()
            .map(|span| {
                let len = usize::try_from(span.len).expect("64-bit host");
                (GuestAddress(span.base), len)
            })
            .collect();
        let memory = GuestMemory::from_ranges(&ranges).expect("address space");
        if fill != 0 {
            for (start, len) in ranges {
                memory
                    .write_slice(&vec![fill; len], start)
                    .expect("its own RAM");
            }
        }
        memory
    }
}

/// `len` bytes of guest memory.
pub(super) fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .expect("RAM");
    bytes
}
