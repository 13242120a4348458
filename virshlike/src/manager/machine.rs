//! From a definition to the machine spec: every file is opened here, every refusal made here, and
//! nothing has been started or written yet.

use super::network::Plug;
use super::{boot, cpu, display, host, numa, ports, user_network};
use crate::error::{Error, Kind, Result};
use crate::model::{self, Clock, DiskBus, DiskDevice, DiskSource, InterfaceSource};
use crate::runtime::chain::{self, Wanted};
use crate::runtime::files::{self, Access, Descriptors};
use crate::runtime::passt::Helper;
use crate::runtime::record::LiveCpu;
use crate::runtime::{VmDriver, tap};
use crate::xml::Position;
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;
use vmm_api::spec::{
    BalloonSpec, BlkSpec, DeviceKind, DeviceSpec, EndActions, HostSpec, MACHINE_NEWEST, MacAddress,
    MachineSpec, MemoryBacking, MemorySpec, NetBackend, NetSpec, Origin, PciAddress, PvPanicSpec,
    RngSpec, RootPortSpec, SPEC_VERSION, SerialSpec,
};

/// A machine whose files are open.
#[derive(Debug)]
pub struct Built {
    /// The spec; its host part holds `/dev/kvm` only so far.
    pub spec: MachineSpec,
    /// Every descriptor that it names.
    pub descriptors: Descriptors,
    /// Names of the taps, by the alias of the interface.
    pub taps: BTreeMap<String, String>,
    /// Who serves the cards that have no tap; not started yet.
    pub helpers: Vec<Helper>,
    /// What `dumpxml` shows of its CPU while it runs.
    pub cpu: Option<LiveCpu>,
    /// What works and may surprise.
    pub warnings: Vec<String>,
}

/// What a machine is built with beside its definition.
pub struct Means<'a> {
    /// The KVM device.
    pub kvm: &'a Path,
    /// The BIOS in place of the host's.
    pub bios: Option<&'a Path>,
    /// Who knows the host's CPU.
    pub driver: &'a dyn VmDriver,
    /// The active networks that its cards are plugged into, by alias.
    pub plugs: &'a BTreeMap<String, Plug>,
}

/// Builds the spec of a checked definition.
///
/// # Errors
/// What cannot be had: files, memory, KVM, or a part that this build does not know.
pub fn build(model: &model::Domain, uuid: Uuid, file: &str, means: &Means<'_>) -> Result<Built> {
    let Means {
        kvm,
        bios,
        driver,
        plugs,
    } = *means;
    let place = Place { file };
    let mut warnings = Vec::new();
    let cpu = cpu::settle(model, &place, || driver.host_cpu(host::open_kvm(kvm)?))?;
    warnings.extend(cpu.warnings);
    numa::check(model.numatune.as_ref(), &place)?;
    let huge = model.memory.backing.hugepages_kib;
    warnings.extend(host::check_memory(
        model.memory.size_kib,
        huge,
        host::memory(),
    )?);
    if let Some(why) = huge.and_then(|page| host::huge_page_misfit(model.memory.size_kib, page)) {
        return Err(place.refuse(model.memory.at, why));
    }
    let mut descriptors = Descriptors::default();
    let boot = boot::source(model, bios, &place, &mut descriptors)?;
    let mut devices = devices(model, &place, &mut descriptors)?;
    devices.extend(balloon(model, &place)?);
    let kvm = descriptors.keep(host::open_kvm(kvm)?);
    // Last, for others see a tap come and go.
    let mut taps = BTreeMap::new();
    let mut helpers = Vec::new();
    for (index, interface) in model.interfaces.iter().enumerate() {
        let backend = match &interface.source {
            InterfaceSource::User(network) => {
                let place = (uuid, index);
                let (backend, helper) =
                    user_network::connect(interface, network, place, &mut descriptors)?;
                helpers.push(helper);
                backend
            }
            _ => {
                let (backend, tap) = self::tap(interface, plugs, &place, &mut descriptors)?;
                taps.insert(interface.alias.clone(), tap);
                backend
            }
        };
        devices.push(card(interface, plugs, &place, backend)?);
    }
    boot::set_order(model, &mut devices);
    let spec = MachineSpec {
        version: SPEC_VERSION,
        name: model.name.clone(),
        uuid,
        machine: MACHINE_NEWEST.into(),
        cpus: cpu.spec,
        memory: memory(&model.memory),
        boot,
        end_actions: EndActions {
            on_poweroff: model.on_poweroff,
            on_reboot: model.on_reboot,
            on_crash: model.on_crash,
        },
        rtc_offset: rtc_offset(model.clock),
        devices,
        origin: Origin::Fresh,
        host: HostSpec {
            kvm: Some(kvm),
            ..HostSpec::default()
        },
    };
    refuse_problems(&spec)?;
    Ok(Built {
        spec,
        descriptors,
        taps,
        helpers,
        cpu: cpu.live,
        warnings,
    })
}

fn refuse_problems(spec: &MachineSpec) -> Result<()> {
    let problems = spec.check();
    if problems.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(Kind::Definition, "the machine cannot be built as defined");
    error
        .causes
        .extend(problems.iter().map(ToString::to_string));
    Err(error.hint(format!("correct it: vm edit {}", spec.name)))
}

/// Positions in the definition, for messages.
pub(super) struct Place<'a> {
    /// The file.
    pub file: &'a str,
}

impl Place<'_> {
    fn refuse(&self, at: Position, why: impl std::fmt::Display) -> Error {
        Error::new(
            Kind::Unsupported,
            "the definition asks for what this build cannot do",
        )
        .cause(self.line(at, why))
    }

    /// A reason with its place in front.
    pub fn line(&self, at: Position, why: impl std::fmt::Display) -> String {
        format!("{}:{at}: {why}", self.file)
    }
}

/// Other kinds of clock are refused at start by name.
fn rtc_offset(clock: Clock) -> i32 {
    match clock {
        Clock::LocalTime => jiff::Zoned::now().offset().seconds(),
        Clock::Utc | Clock::Other => 0,
    }
}

fn memory(memory: &model::Memory) -> MemorySpec {
    let backing = match memory.backing.hugepages_kib {
        Some(0) => MemoryBacking::Hugetlb {
            page_size: host::memory().huge_size * 1024,
        },
        Some(size) => MemoryBacking::Hugetlb {
            page_size: size.saturating_mul(1024),
        },
        None if memory.backing.memfd || memory.backing.shared => MemoryBacking::SharedMemfd,
        None => MemoryBacking::Anonymous,
    };
    MemorySpec {
        size: memory.size_kib.saturating_mul(1024),
        max: memory.max_kib.map(|max| max.saturating_mul(1024)),
        backing,
        mergeable: !memory.backing.nosharepages,
        locked: memory.backing.locked,
        prealloc: memory.backing.immediate,
    }
}

fn devices(
    model: &model::Domain,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<Vec<DeviceSpec>> {
    let mut devices = Vec::new();
    for controller in model
        .controllers
        .iter()
        .filter(|controller| controller.is_root_port())
    {
        let bus = controller.index.and_then(|index| u8::try_from(index).ok());
        let bus = bus.ok_or_else(|| place.refuse(controller.at, "a root port needs an index"))?;
        devices.push(DeviceSpec {
            id: controller.alias.clone(),
            address: controller.address,
            kind: DeviceKind::PcieRootPort(RootPortSpec {
                bus,
                port: controller.port.unwrap_or(bus),
                chassis: controller.chassis.unwrap_or(bus),
            }),
        });
    }
    for controller in model.controllers.iter().filter(|c| c.is_virtio_serial()) {
        needed(controller.address, controller.at, place)?;
        devices.push(ports::device(controller, model)?);
    }
    for serial in &model.serials {
        devices.push(DeviceSpec {
            id: serial.alias.clone(),
            address: None,
            kind: DeviceKind::Serial(SerialSpec {
                port: serial.port,
                ..SerialSpec::default()
            }),
        });
    }
    if let Some(panic) = &model.panic {
        devices.push(DeviceSpec {
            id: panic.alias.clone(),
            address: None,
            kind: DeviceKind::PvPanic(PvPanicSpec::default()),
        });
    }
    for disk in &model.disks {
        devices.extend(self::disk(disk, place, descriptors)?);
    }
    for rng in &model.rngs {
        let source = match rng.source.as_str() {
            "" => "/dev/urandom",
            path => path,
        };
        let file = files::open_device(Path::new(source), Access::Read, "the entropy source")?;
        devices.push(DeviceSpec {
            id: rng.alias.clone(),
            address: needed(rng.address, rng.at, place)?,
            kind: DeviceKind::VirtioRng(RngSpec {
                source: descriptors.keep(file),
                rate_bytes: rng.rate_bytes,
                period_ms: rng.rate_period_ms,
            }),
        });
    }
    devices.extend(display::devices(model, place)?);
    Ok(devices)
}

/// The balloon, unless there shall be none. Free pages go back to the host by themselves, but not where
/// the RAM is to be kept at hand, or comes from a pool that may have run dry when it is wanted again.
fn balloon(model: &model::Domain, place: &Place) -> Result<Option<DeviceSpec>> {
    let Some(balloon) = model.memballoon.as_ref().filter(|balloon| balloon.present) else {
        return Ok(None);
    };
    let model::Memory {
        size_kib,
        current_kib,
        backing,
        ..
    } = &model.memory;
    let kept = backing.hugepages_kib.is_some() || backing.locked || backing.immediate;
    Ok(Some(DeviceSpec {
        id: balloon.alias.clone(),
        address: needed(balloon.address, balloon.at, place)?,
        kind: DeviceKind::VirtioBalloon(BalloonSpec {
            target: (current_kib < size_kib).then(|| current_kib.saturating_mul(1024)),
            autodeflate: balloon.autodeflate,
            free_page_reporting: balloon.free_page_reporting.unwrap_or(!kept),
            stats_period: balloon.stats_period.unwrap_or(0),
        }),
    }))
}

pub(super) fn needed(
    address: Option<PciAddress>,
    at: Position,
    place: &Place,
) -> Result<Option<PciAddress>> {
    match address {
        Some(address) => Ok(Some(address)),
        None => Err(place.refuse(at, "the device has no PCI address")),
    }
}

fn disk(
    disk: &model::Disk,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<Option<DeviceSpec>> {
    if disk.device == DiskDevice::Floppy {
        return Ok(None);
    }
    if disk.bus != DiskBus::Virtio {
        return Err(place
            .refuse(
                disk.at,
                format!("disk '{}' is not on the virtio bus", disk.target),
            )
            .hint(
                "write <target dev='vdX' bus='virtio'/>; the guest then sees another disk name",
            ));
    }
    let path = match &disk.source {
        Some(DiskSource::File(path) | DiskSource::Block(path)) => Path::new(path),
        Some(DiskSource::Other(kind)) => {
            return Err(place.refuse(disk.at, format!("disks of type '{kind}' are not built yet")));
        }
        None => {
            return Err(place
                .refuse(disk.at, "an empty drive is not built yet")
                .hint("remove the <disk>, or leave it out this time: vm start --map-to-virtio"));
        }
    };
    let what = format!("disk '{}'", disk.target);
    let image = chain::open(
        Wanted {
            path,
            format: disk.format_stated.then_some(disk.format),
            read_only: disk.readonly,
            shareable: disk.shareable,
            what: &what,
        },
        descriptors,
    )?;
    let defaults = BlkSpec::new(image);
    Ok(Some(DeviceSpec {
        id: disk.alias.clone(),
        address: needed(disk.address, disk.at, place)?,
        kind: DeviceKind::VirtioBlk(BlkSpec {
            read_only: disk.readonly,
            serial: disk.serial.clone(),
            queues: disk.queues.unwrap_or(defaults.queues),
            queue_size: disk.queue_size.unwrap_or(defaults.queue_size),
            cache: disk.cache.unwrap_or(defaults.cache),
            discard: disk.discard.unwrap_or(defaults.discard),
            detect_zeroes: disk.detect_zeroes.unwrap_or(defaults.detect_zeroes),
            error_policy: disk.error_policy.unwrap_or(defaults.error_policy),
            rerror_policy: disk
                .rerror_policy
                .or(disk.error_policy)
                .unwrap_or(defaults.rerror_policy),
            io: disk.io,
            iothreads: disk.iothreads.clone(),
            limits: Box::new(disk.limits),
            ..defaults
        }),
    }))
}

/// The tap of a network card, and its name.
fn tap(
    interface: &model::Interface,
    plugs: &BTreeMap<String, Plug>,
    place: &Place,
    descriptors: &mut Descriptors,
) -> Result<(NetBackend, String)> {
    let plug = plugs.get(&interface.alias);
    let bridge = match (&interface.source, plug) {
        (InterfaceSource::Bridge(name), _) => Some(name.as_str()),
        (InterfaceSource::Network(_), Some(plug)) => Some(plug.port.bridge.as_str()),
        (InterfaceSource::Ethernet, _) => None,
        (InterfaceSource::Network(_) | InterfaceSource::User(_) | InterfaceSource::Other(_), _) => {
            return Err(place.refuse(
                interface.at,
                "only networks, bridges and taps are plugged into",
            ));
        }
    };
    let plugged = tap::plug(tap::Wanted {
        name: interface.target.as_deref(),
        bridge,
        queues: interface.queues.unwrap_or(1),
        mac: mac(interface, place)?.0,
        mtu: interface.mtu.or(plug.and_then(|plug| plug.mtu)),
        made_here: interface.managed || bridge.is_some(),
    });
    let plugged = plugged
        .map_err(|error| error.cause(format!("{}:{}: the interface", place.file, interface.at)))?;
    let queues = plugged.queues.into_iter();
    let taps = queues.map(|queue| descriptors.keep(queue)).collect();
    Ok((NetBackend::Taps(taps), plugged.name))
}

fn mac(interface: &model::Interface, place: &Place) -> Result<model::MacAddress> {
    interface
        .mac
        .ok_or_else(|| place.refuse(interface.at, "the card has no MAC address"))
}

/// A network card on its back-end.
fn card(
    interface: &model::Interface,
    plugs: &BTreeMap<String, Plug>,
    place: &Place,
    backend: NetBackend,
) -> Result<DeviceSpec> {
    let plug = plugs.get(&interface.alias);
    let mac = mac(interface, place)?;
    Ok(DeviceSpec {
        id: interface.alias.clone(),
        address: needed(interface.address, interface.at, place)?,
        kind: DeviceKind::VirtioNet(NetSpec {
            mtu: interface.mtu.or(plug.and_then(|plug| plug.mtu)),
            link: interface.link_up,
            ..NetSpec::new(backend, MacAddress(mac.0))
        }),
    })
}
