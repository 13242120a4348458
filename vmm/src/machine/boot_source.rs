//! What the guest starts from, kept for resets: the kernel's files, or the firmware's image.
//!
//! ```text
//!            first start                    reset                   restore
//! kernel     files read into RAM            read again              files are kept for a reset
//! firmware   image read, shadow copied,     shadow copied again     image and items of fw_cfg are the
//!            items of fw_cfg made           from the same image     saved ones, whatever the files say
//! ```

use super::build::BuildError;
use crate::arch::cpuid::apic_ids;
use crate::boot::{
    self, BootBoard, BootCpus, BootDevice, BootDeviceKind, BootError, BootFile, BootInput, BootPci,
    Entry, FirmwareInput, Span, firmware,
};
use crate::memory::{Rom, layout};
use devices::device::Device;
use devices::files::Files;
use devices::legacy::fw_cfg::{self, FwCfg};
use devices::memory::GuestMemory;
use devices::registry::{Context, CreateError};
use devices::state::{Origin, Saved, Section, StateError, hex, unhex};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::sync::Arc;
use vmm_api::spec::{
    BootSpec, DeviceKind, DeviceSpec, FirmwareSpec, MachineSpec, NamedFd, PciAddress,
};

/// The alias of the image, its section kind, and the version of that.
const ROM: &str = "firmware";
const ROM_VERSION: u32 = 1;

/// What the guest starts from.
#[derive(Debug)]
pub enum BootSource {
    /// The files of a direct boot.
    Kernel {
        /// The kernel and its name.
        kernel: (File, String),
        /// The initial RAM disk, if any.
        initrd: Option<(File, String)>,
    },
    /// The firmware's image.
    Firmware(Arc<Rom>),
}

impl BootSource {
    /// Takes the files that the spec names. With saved `sections` the firmware is theirs.
    pub(super) fn take(
        spec: &MachineSpec,
        files: &Files,
        sections: Option<&[Section]>,
    ) -> Result<Self, BuildError> {
        let take = |named: &NamedFd| {
            let fd = files.take(named.fd).map_err(|source| BuildError::File {
                what: named.name.clone(),
                source,
            })?;
            Ok::<_, BuildError>((File::from(fd), named.name.clone()))
        };
        match &spec.boot {
            BootSpec::Kernel { kernel, initrd, .. } => Ok(Self::Kernel {
                kernel: take(kernel)?,
                initrd: initrd.as_ref().map(take).transpose()?,
            }),
            BootSpec::Firmware(FirmwareSpec { rom, .. }) => {
                let (file, name) = take(rom)?;
                let rom = match sections {
                    None => Rom::read(&file, &name)?,
                    Some(sections) => saved_rom(sections)?,
                };
                Ok(Self::Firmware(Arc::new(rom)))
            }
        }
    }

    /// The firmware's image, where there is firmware.
    pub(super) fn rom(&self) -> Option<&Arc<Rom>> {
        match self {
            Self::Kernel { .. } => None,
            Self::Firmware(rom) => Some(rom),
        }
    }

    /// Puts into RAM what must be there when the boot vCPU starts.
    pub(super) fn load(
        &self,
        spec: &MachineSpec,
        memory: &GuestMemory,
        ram_is_zero: bool,
    ) -> Result<Entry, BootError> {
        let file = |(file, name)| BootFile { file, name };
        match self {
            Self::Kernel { kernel, initrd } => {
                let kernel = file((&kernel.0, kernel.1.as_str()));
                let initrd = initrd.as_ref().map(|(f, name)| file((f, name.as_str())));
                let lists = Lists::of(spec);
                let input = BootInput {
                    kernel,
                    initrd,
                    cmdline: spec.boot.cmdline(),
                    ram_is_zero,
                    board: lists.board(spec),
                };
                boot::load(memory, &input)
            }
            Self::Firmware(rom) => firmware::shadow(memory, &rom.bytes()),
        }
    }

    /// What the CMOS memory holds at the first start.
    pub(super) fn cmos(&self, spec: &MachineSpec) -> Vec<(u8, u8)> {
        match self {
            Self::Kernel { .. } => Vec::new(),
            Self::Firmware(_) => firmware::cmos(&Lists::of(spec).board(spec)),
        }
    }

    /// The devices that are there for firmware alone; `origin` has the sections of all.
    pub(super) fn devices(
        &self,
        spec: &MachineSpec,
        context: &Context,
        sections: Option<&[Section]>,
    ) -> Result<Vec<Arc<dyn Device>>, BuildError> {
        let (Self::Firmware(rom), BootSpec::Firmware(part)) = (self, &spec.boot) else {
            return Ok(Vec::new());
        };
        let own: Option<Vec<Section>> = sections.map(|sections| of(sections, fw_cfg::KIND));
        let (items, origin) = match &own {
            None => (items(spec, part, rom.len())?, Origin::Fresh),
            Some(own) => (Vec::new(), Origin::Restored(own)),
        };
        let fw_cfg = FwCfg::create(&context.pio, context.memory.clone(), items, origin)?;
        Ok(vec![Arc::new(fw_cfg), Arc::new(RomDevice(Arc::clone(rom)))])
    }
}

/// What fw_cfg says of this machine.
fn items(
    spec: &MachineSpec,
    part: &FirmwareSpec,
    image: u64,
) -> Result<Vec<fw_cfg::Item>, BootError> {
    let lists = Lists::of(spec);
    firmware::items(&FirmwareInput {
        board: lists.board(spec),
        image,
        menu: part.menu,
        serial: part.serial,
        reboot_timeout: part.reboot_timeout,
        order: &order(&spec.devices),
    })
}

/// The devices that have a place in the boot order, first things first.
fn order(devices: &[DeviceSpec]) -> Vec<BootDevice> {
    let port = |bus: u8| {
        let leads = |device: &&DeviceSpec| matches!(&device.kind, DeviceKind::PcieRootPort(port) if port.bus == bus);
        devices.iter().find(leads)?.address
    };
    let mut order: Vec<(u32, BootDevice)> = devices
        .iter()
        .filter_map(|device| {
            let address: PciAddress = device.address?;
            let kind = match &device.kind {
                DeviceKind::VirtioNet(_) => BootDeviceKind::Network,
                _ => BootDeviceKind::Disk,
            };
            let place = BootDevice {
                kind,
                address,
                port: port(address.bus),
            };
            Some((device.kind.boot_index()?, place))
        })
        .collect();
    order.sort_by_key(|(index, _)| *index);
    order.into_iter().map(|(_, device)| device).collect()
}

/// What a description of the machine borrows.
struct Lists {
    ram: Vec<Span>,
    ports: Vec<u8>,
    apic_ids: Vec<u32>,
    mmio32: [Span; 1],
}

impl Lists {
    fn of(spec: &MachineSpec) -> Self {
        let ram = layout::ram_spans(spec.memory.size);
        Self {
            ram: ram.into_iter().map(span).collect(),
            ports: spec.devices.iter().filter_map(serial_port).collect(),
            apic_ids: apic_ids(&spec.cpus),
            mmio32: [span(layout::MMIO32)],
        }
    }

    fn board<'a>(&'a self, spec: &'a MachineSpec) -> BootBoard<'a> {
        let devices = &spec.devices;
        BootBoard {
            uuid: spec.uuid,
            machine: &spec.machine,
            cpus: BootCpus {
                apic_ids: &self.apic_ids,
                present: spec.cpus.count,
                topology: spec.cpus.topology,
            },
            ram: &self.ram,
            pci: BootPci {
                ecam: Span::new(layout::ECAM_BASE, layout::ECAM_SIZE),
                last_bus: devices.iter().filter_map(root_port_bus).max().unwrap_or(0),
                mmio32: &self.mmio32,
                mmio64: layout::mmio64(spec.memory.most()).map(span),
            },
            serial_ports: &self.ports,
            pvpanic: devices
                .iter()
                .any(|device| matches!(device.kind, DeviceKind::PvPanic(_))),
            fw_cfg: matches!(spec.boot, BootSpec::Firmware(_)),
            system: boot::SystemInfo::default(),
        }
    }
}

fn span(range: std::ops::Range<u64>) -> Span {
    Span::new(range.start, range.end - range.start)
}

fn serial_port(device: &DeviceSpec) -> Option<u8> {
    match &device.kind {
        DeviceKind::Serial(serial) => Some(serial.port),
        _ => None,
    }
}

fn root_port_bus(device: &DeviceSpec) -> Option<u8> {
    match &device.kind {
        DeviceKind::PcieRootPort(port) => Some(port.bus),
        _ => None,
    }
}

/// The sections of the device with this alias.
fn of(sections: &[Section], id: &str) -> Vec<Section> {
    let own = sections.iter().filter(|section| section.device == id);
    own.cloned().collect()
}

/// The image as saved: firmware that has run once must find the rest of itself, also when the file
/// has been replaced meanwhile.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RomState {
    /// The image in hexadecimal.
    image: String,
}

fn saved_rom(sections: &[Section]) -> Result<Rom, BuildError> {
    let own = of(sections, ROM);
    let state = Origin::Restored(&own).payload::<RomState>(ROM, ROM, ROM_VERSION);
    let invalid = |reason: String| {
        BuildError::from(CreateError::State(StateError::Invalid {
            device: ROM.into(),
            kind: ROM.into(),
            reason,
        }))
    };
    let state = state.map_err(CreateError::State)?;
    let image = state.and_then(|state| unhex(&state.image));
    let image = image.ok_or_else(|| invalid("the image is not hexadecimal".into()))?;
    Rom::new(&image, "saved").map_err(|error| invalid(error.to_string()))
}

/// The image as a device of the machine: it is saved, and never changes.
struct RomDevice(Arc<Rom>);

impl Device for RomDevice {
    fn id(&self) -> &str {
        ROM
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn reset(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        let state = RomState {
            image: hex(&self.0.bytes()),
        };
        Ok(Saved::Sections(vec![Section::new(
            ROM,
            ROM,
            ROM_VERSION,
            &state,
        )?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_api::spec::{BlkSpec, Fd, ImageFormat, ImageSpec, RootPortSpec};

    #[test]
    fn the_order_follows_the_index_and_knows_the_root_ports() {
        let at = |text: &str| text.parse().expect("an address");
        let disk = |id: &str, address: &str, index| {
            let mut blk = BlkSpec::new(ImageSpec {
                file: Fd(3),
                path: id.into(),
                format: ImageFormat::Raw,
                backing: None,
                data_file: None,
            });
            blk.boot_index = index;
            DeviceSpec {
                id: id.into(),
                address: Some(at(address)),
                kind: DeviceKind::VirtioBlk(blk),
            }
        };
        let port = DeviceSpec {
            id: "pci.7".into(),
            address: Some(at("0000:00:02.3")),
            kind: DeviceKind::PcieRootPort(RootPortSpec {
                bus: 7,
                port: 1,
                chassis: 1,
            }),
        };
        let devices = [
            disk("last", "0000:00:04.0", Some(9)),
            disk("none", "0000:00:05.0", None),
            port,
            disk("first", "0000:07:00.0", Some(1)),
        ];
        let order = order(&devices);
        assert_eq!(order.len(), 2);
        assert_eq!(order[0].port, Some(at("0000:00:02.3")));
        assert_eq!(
            (order[1].address, order[1].port),
            (at("0000:00:04.0"), None)
        );
    }
}
