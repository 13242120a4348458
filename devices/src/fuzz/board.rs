//! The whole machine: chipset, ports, configuration space, root ports and functions behind them.

use super::functions::{Toy, plug_toy};
use super::script::Script;
use crate::bus::Bus;
use crate::device::Device;
use crate::legacy::fw_cfg::{self, FwCfg, Item};
use crate::legacy::testing::{FakeApic, FakeExtInt};
use crate::legacy::{Chipset, ChipsetHost, ChipsetOptions};
use crate::pci::{BarPlan, ECAM_BASE};
use crate::registry::{self, Context, CreateError};
use crate::state::{Origin, Saved, Section};
use crate::testing::{FakeMachine, FakeRequests};
use rustix::fs::{MemfdFlags, memfd_create};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_api::spec::{
    DebugConsoleSpec, DebugExitSpec, DeviceKind, DeviceSpec, Fd, PciAddress, PvPanicSpec,
    RootPortSpec, SerialSpec,
};

/// Steps of one body.
const STEPS: usize = 600;
/// Ports that something answers at, and their neighbours.
const PORTS: &[u16] = &[
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71,
    0x92, 0xf4, 0x510, 0x511, 0x514, 0x518, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,
    0x505, 0x600, 0x602, 0x604, 0x605, 0x608, 0x620, 0x628, 0x402, 0x67f, 0xcf8, 0xcf9, 0xcfc,
    0xcfd, 0xcfe, 0xcff,
];

/// The number of the debug console's file.
const OUTPUT: i32 = 9;

/// A machine with one of everything that needs no file of a host.
pub(super) struct Pc {
    pub(super) machine: FakeMachine,
    chipset: Chipset,
    devices: Vec<Arc<dyn Device>>,
    /// Interrupts that were taken from the PIC.
    taken: Cell<u32>,
}

impl Pc {
    /// A machine at power-on, or from the sections of another one.
    pub(super) fn create(saved: Option<&[Section]>) -> Result<Self, CreateError> {
        let of = |id: &str| -> Option<Vec<Section>> {
            let own = |section: &&Section| section.device == id;
            saved.map(|all| all.iter().filter(own).cloned().collect())
        };
        let root = of(crate::pci::ID);
        // In the order of the real machine: a guest may put the ECAM where the chipset is.
        let chipset = |pio: &Bus, mmio: &Bus, requests: &Arc<FakeRequests>| {
            let host = ChipsetHost {
                pio: pio.clone(),
                mmio: mmio.clone(),
                apic: Arc::new(FakeApic::default()),
                ext_int: Arc::new(FakeExtInt::default()),
                requests: requests.clone(),
            };
            Chipset::create(&host, &ChipsetOptions::default(), origin(saved))
        };
        let (machine, chipset) =
            FakeMachine::with_chipset(0x1_0000, origin(root.as_deref()), chipset)?;
        let context = Context {
            irqs: chipset.irq_lines(),
            ..machine.context.clone()
        };
        let mut devices = chipset.devices();
        devices.push(machine.context.pci.clone());
        context.files.add(OUTPUT, output().map_err(no_file)?);
        for spec in specs() {
            let own = of(&spec.id);
            devices.push(registry::create(&spec, &context, origin(own.as_deref()))?);
        }
        let own = of(fw_cfg::KIND);
        devices.push(Arc::new(FwCfg::create(
            &machine.context.pio,
            machine.memory.clone(),
            vec![
                Item::file("etc/table-loader", vec![1; 128]),
                Item::number(5, &[1, 0]),
            ],
            origin(own.as_deref()),
        )?));
        let own = of("toy");
        devices.push(plug_toy(&machine, &Toy::new(), origin(own.as_deref()))?);
        Ok(Self {
            machine,
            chipset,
            devices,
            taken: Cell::new(0),
        })
    }

    pub(super) fn pause(&self) {
        for device in &self.devices {
            device.pause();
        }
    }

    pub(super) fn resume(&self) {
        for device in &self.devices {
            device.resume();
        }
    }

    fn reset(&self) {
        self.pause();
        for device in &self.devices {
            device.reset();
        }
        self.resume();
    }

    /// Everything, paused.
    pub(super) fn save(&self) -> Vec<Section> {
        let mut all = Vec::new();
        for device in &self.devices {
            match device.save().expect("plain data") {
                Saved::Sections(sections) => all.extend(sections),
                Saved::Stateless => {}
                Saved::Unsupported(reason) => panic!("{}: {reason}", device.id()),
            }
        }
        all
    }

    /// One thing that a guest does to ports, interrupts or the chipset's registers.
    pub(super) fn step(&self, script: &mut Script<'_>) {
        let (pio, mmio) = (&self.machine.context.pio, &self.machine.context.mmio);
        match script.below(16) {
            0..=6 => {
                let port = port(script);
                pio.write(port.into(), &script.access());
            }
            7..=9 => {
                let length = script.access().len();
                pio.read(port(script).into(), &mut [0; 8][..length]);
            }
            10 | 11 => {
                let at = script.pick(&[0_u64, 0x10, 0x40, 0x20, 0xff8]);
                mmio.write(crate::legacy::ioapic::BASE + at, &script.access());
            }
            12 => {
                let line = self.chipset.irq_lines().line(u32::from(script.below(26)));
                line.set_level(true);
                line.set_level(script.flag());
            }
            13 => {
                if self.chipset.pic_pending() {
                    self.chipset.pic_acknowledge();
                    self.taken.set(self.taken.get() + 1);
                }
            }
            14 => self.chipset.ioapic_eoi(script.byte()),
            _ => match script.byte() {
                0..4 => self.reset(),
                4..32 => {
                    self.pause();
                    self.resume();
                }
                32..64 => self.chipset.press_power_button(),
                64..128 => self.fw_cfg_access(script),
                _ => {}
            },
        }
    }

    /// An access to the firmware configuration device, described somewhere in RAM.
    fn fw_cfg_access(&self, script: &mut Script<'_>) {
        let mut bytes = Vec::new();
        let control = u32::from(script.below(0x40)) << 16 | u32::from(script.below(32));
        bytes.extend(control.to_be_bytes());
        bytes.extend((script.value() as u32).to_be_bytes());
        bytes.extend(script.value().to_be_bytes());
        let at = script.pick(&[0_u32, 0x1000, 0x8ffc, 0xfff0, 0xfff8, u32::MAX]);
        let memory = self.machine.memory.memory();
        // Not all of these places are RAM.
        let _outside = memory.write_slice(&bytes, GuestAddress(at.into()));
        self.machine.context.pio.write(0x518, &at.to_be_bytes());
    }
}

fn origin(saved: Option<&[Section]>) -> Origin<'_> {
    saved.map_or(Origin::Fresh, Origin::Restored)
}

/// A file in memory for what the firmware says.
fn output() -> std::io::Result<OwnedFd> {
    Ok(memfd_create("output", MemfdFlags::CLOEXEC)?)
}

fn no_file(source: std::io::Error) -> CreateError {
    CreateError::Host {
        id: "debug-console0".into(),
        what: "a file in memory".into(),
        source,
    }
}

fn port(script: &mut Script<'_>) -> u16 {
    match script.below(16) {
        0 => script.word(),
        _ => script.pick(PORTS),
    }
}

fn specs() -> Vec<DeviceSpec> {
    let plain = |id: &str, kind| DeviceSpec {
        id: id.into(),
        address: None,
        kind,
    };
    let bridge = |bus: u8, slot: u8, function: u8| DeviceSpec {
        id: format!("pci.{bus}"),
        address: PciAddress::new(0, slot, function),
        kind: DeviceKind::PcieRootPort(RootPortSpec {
            bus,
            port: bus,
            chassis: bus,
        }),
    };
    vec![
        plain("serial0", DeviceKind::Serial(SerialSpec::default())),
        plain("panic0", DeviceKind::PvPanic(PvPanicSpec {})),
        plain(
            "debug-exit0",
            DeviceKind::DebugExit(DebugExitSpec::default()),
        ),
        plain(
            "debug-console0",
            DeviceKind::DebugConsole(DebugConsoleSpec { output: Fd(OUTPUT) }),
        ),
        bridge(1, 2, 0),
        bridge(2, 2, 1),
    ]
}

/// Ports, wired interrupts and the chipset. What was reached survives being saved and restored. Whether an
/// interrupt was taken.
pub fn ports(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let pc = Pc::create(None).expect("empty buses");
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        pc.step(&mut script);
    }
    survives(&pc);
    pc.taken.get() > 0
}

/// Saving changes nothing, and what it gives makes the same machine.
fn survives(pc: &Pc) {
    pc.pause();
    let sections = pc.save();
    assert_eq!(pc.save(), sections, "saving changes something");
    let other = match Pc::create(Some(&sections)) {
        Ok(other) => other,
        Err(error) => panic!("a machine's own state is refused: {error}"),
    };
    assert_eq!(other.save(), sections);
}

/// Configuration space through both of its ways, bridges, and BARs that come, go and move. Whether a root
/// port or a function behind one has changed.
pub fn pci(bytes: &[u8]) -> bool {
    let mut script = Script::new(bytes);
    let pc = Pc::create(None).expect("empty buses");
    let functions = || -> Vec<Section> {
        let ours =
            |section: &Section| section.device == "toy" || section.device.starts_with("pci.");
        pc.save().into_iter().filter(ours).collect()
    };
    pc.pause();
    let fresh = functions();
    pc.resume();
    let (pio, mmio) = (&pc.machine.context.pio, &pc.machine.context.mmio);
    for _ in 0..STEPS {
        if script.is_over() {
            break;
        }
        let function = script.pick(&[
            0x00, 0x10, 0x11, 0x28, 0xf8, 0x100, 0x108, 0x200, 0xff00_u64,
        ]);
        let offset = match script.below(8) {
            0 => u64::from(script.word()) % 4096,
            _ => u64::from(script.byte()),
        };
        let access = script.access();
        match script.below(10) {
            0..=3 => {
                mmio.write(ECAM_BASE + (function << 12) + offset, &access);
            }
            4 => {
                mmio.read(
                    ECAM_BASE + (function << 12) + offset,
                    &mut [0; 8][..access.len()],
                );
            }
            5 => {
                let address = 0x8000_0000 | (function << 8) | (offset & 0xfc);
                pio.write(0xcf8, &(address as u32).to_le_bytes());
            }
            6 => {
                pio.write(0xcfc + (offset & 3), &access);
            }
            7 => {
                pio.read(0xcfc + (offset & 3), &mut [0; 8][..access.len()]);
            }
            8 => {
                let (bus, _) = BarPlan::bus(script.below(3));
                let at = bus + (u64::from(script.word()) << script.below(12));
                mmio.write(at, &access);
                mmio.read(at, &mut [0; 8][..access.len()]);
            }
            _ => pc.step(&mut script),
        }
    }
    survives(&pc);
    functions() != fresh
}
