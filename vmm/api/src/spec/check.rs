//! Conflicts inside a spec, all of them at once.
//!
//! The manager checks before it spawns and the `vmm` checks again before it builds, because a spec
//! crosses a process boundary. This must never touch the host.

use super::{
    BlkSpec, BootSpec, ConsoleSpec, CpuModel, DeviceKind, DeviceSpec, GpuSpec, MACHINE_NEWEST,
    MAX_APIC_ID, MAX_BOOT_WAIT, MAX_CONSOLE_PORTS, MAX_RESOLUTION, MAX_VCPUS, MAX_VIDEO_MEMORY,
    MIN_RESOLUTION, MachineSpec, NetBackend, NetSpec, PciAddress,
};
use crate::cpu;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that is wrong, with the place in the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, such as `devices/virtio-disk0/address`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Smallest RAM that a machine can be built with: the real-mode megabyte.
pub const MIN_MEMORY: u64 = 1 << 20;
/// Linux's limit for a boot command line, without the terminating zero.
const MAX_CMDLINE: usize = 2047;
/// virtio 1.3 §5.2.6.1: the length of a block device's serial.
const MAX_DISK_SERIAL: usize = 20;
/// Queue pairs of a network card.
const MAX_QUEUE_PAIRS: usize = 128;
/// virtio 1.3 §5.1.4: the smallest MTU of a network card, that of IPv4.
const MIN_MTU: u16 = 68;

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            path: path.into(),
            message: message.into(),
        });
    }
}

pub(super) fn check(spec: &MachineSpec) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    check_machine(spec, &mut problems);
    check_cpus(spec, &mut problems);
    check_devices(&spec.devices, &mut problems);
    check_balloons(spec, &mut problems);
    problems.0
}

fn check_machine(spec: &MachineSpec, problems: &mut Problems) {
    if spec.machine != MACHINE_NEWEST {
        problems.add(
            "machine",
            format!(
                "machine '{}' is not known; this build has {MACHINE_NEWEST}",
                spec.machine
            ),
        );
    }
    if spec.memory.size < MIN_MEMORY || !spec.memory.size.is_multiple_of(4096) {
        problems.add(
            "memory/size",
            format!(
                "{} bytes; it must be a multiple of 4096 and at least {MIN_MEMORY}",
                spec.memory.size
            ),
        );
    }
    if let Some(max) = spec.memory.max
        && (max < spec.memory.size || !max.is_multiple_of(4096))
    {
        problems.add(
            "memory/max",
            format!(
                "{max} bytes; it must be a multiple of 4096 and at least the size of {}",
                spec.memory.size
            ),
        );
    }
    check_boot(&spec.boot, problems);
}

fn check_boot(boot: &BootSpec, problems: &mut Problems) {
    if let BootSpec::Firmware(firmware) = boot {
        let waits = [
            ("boot/menu", firmware.menu),
            ("boot/reboot_timeout", firmware.reboot_timeout),
        ];
        for (path, wait) in waits {
            if let Some(wait) = wait.filter(|wait| *wait > MAX_BOOT_WAIT) {
                let message = format!("{wait} ms; at most {MAX_BOOT_WAIT} can be had");
                problems.add(path, message);
            }
        }
    }
    let cmdline = boot.cmdline();
    if cmdline.len() > MAX_CMDLINE {
        problems.add(
            "boot/cmdline",
            format!(
                "{} bytes; the kernel takes at most {MAX_CMDLINE}",
                cmdline.len()
            ),
        );
    }
    if cmdline.contains('\0') {
        problems.add("boot/cmdline", "contains a zero byte");
    }
}

fn check_cpus(spec: &MachineSpec, problems: &mut Problems) {
    let cpus = &spec.cpus;
    if cpus.count == 0 || cpus.count > MAX_VCPUS {
        problems.add(
            "cpus/count",
            format!("{} vCPUs; 1 to {MAX_VCPUS} can be had", cpus.count),
        );
    }
    if cpus.max < cpus.count || cpus.max > MAX_VCPUS {
        problems.add(
            "cpus/max",
            format!(
                "{}; it must lie between the count {} and {MAX_VCPUS}",
                cpus.max, cpus.count
            ),
        );
    }
    if let Some(topology) = &cpus.topology
        && topology.vcpus() != Some(cpus.max)
    {
        problems.add(
            "cpus/topology",
            format!(
                "the product of the topology must be the maximum of {} vCPUs",
                cpus.max
            ),
        );
    } else if let Some(topology) = &cpus.topology
        && topology.highest_apic_id() > MAX_APIC_ID
    {
        problems.add(
            "cpus/topology",
            format!(
                "its highest APIC identifier would be {}; there are none above {MAX_APIC_ID}",
                topology.highest_apic_id()
            ),
        );
    }
    if let CpuModel::Named { name, .. } = &cpus.model
        && cpu::find_model(name).is_none()
    {
        problems.add("cpus/model", format!("there is no CPU model '{name}'"));
    }
    for rule in &cpus.features {
        if cpu::Feature::named(&rule.name).is_none() {
            let message = format!("there is no CPU feature '{}'", rule.name);
            problems.add("cpus/features", message);
        }
    }
    if let Some(letters) = &cpus.vendor_id
        && (letters.len() != 12 || !letters.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        problems.add("cpus/vendor_id", "a vendor has twelve printable letters");
    }
}

fn check_devices(devices: &[DeviceSpec], problems: &mut Problems) {
    let mut ids = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut addresses: BTreeMap<PciAddress, &str> = BTreeMap::new();
    let mut boot_order: BTreeMap<u32, &str> = BTreeMap::new();
    let buses = root_port_buses(devices, problems);
    for device in devices {
        let path = format!("devices/{}", device.id);
        if device.id.is_empty() || !ids.insert(&device.id) {
            problems.add(&path, "the id is empty or taken by another device");
        }
        if is_reserved(&device.id) {
            let message = "this id belongs to a part that every machine has; choose another";
            problems.add(&path, message);
        }
        match (is_legacy(&device.kind), device.address) {
            (true, Some(_)) => {
                problems.add(&path, "this device is not on PCI and takes no address");
            }
            (true, None) => {}
            (_, None) => problems.add(&path, "a PCI device needs an address"),
            (_, Some(address)) => {
                if let Some(other) = addresses.insert(address, &device.id) {
                    problems.add(&path, format!("{address} is taken by {other}"));
                }
                if address.bus == 0 && (address.slot == 0 || address.slot == 31) {
                    problems.add(&path, format!("{address} belongs to the machine itself"));
                }
                if address.bus != 0 && !buses.contains(&address.bus) {
                    problems.add(
                        &path,
                        format!("no root port leads to bus {:#04x}", address.bus),
                    );
                }
                if address.bus != 0 && address.slot != 0 {
                    problems.add(&path, format!("{address}: a root port has slot 0 only"));
                }
            }
        }
        if let Some(index) = device.kind.boot_index()
            && let Some(other) = boot_order.insert(index, &device.id)
        {
            problems.add(&path, format!("boot index {index} is taken by {other}"));
        }
        check_kind(device, &path, &mut ports, problems);
    }
}

/// Names of parts of the machine itself: what is saved of them has these, so no device may.
pub const RESERVED_IDS: [&str; 10] = [
    "machine", "firmware", "fw-cfg", "pci", "pic", "ioapic", "pit", "rtc", "i8042", "pm",
];

/// Whether a part of the machine itself is called so, a vCPU (`vcpu0`) included.
fn is_reserved(id: &str) -> bool {
    let number = id.strip_prefix("vcpu");
    let is_vcpu = number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    is_vcpu || RESERVED_IDS.contains(&id)
}

/// Whether a device sits at fixed ports instead of on PCI.
fn is_legacy(kind: &DeviceKind) -> bool {
    matches!(
        kind,
        DeviceKind::Serial(_)
            | DeviceKind::DebugExit(_)
            | DeviceKind::DebugConsole(_)
            | DeviceKind::PvPanic(_)
    )
}

fn root_port_buses(devices: &[DeviceSpec], problems: &mut Problems) -> BTreeSet<u8> {
    let mut buses = BTreeSet::new();
    for device in devices {
        if let DeviceKind::PcieRootPort(port) = &device.kind {
            let path = format!("devices/{}", device.id);
            if port.bus == 0 || !buses.insert(port.bus) {
                problems.add(
                    &path,
                    format!("bus {} is 0 or behind another port", port.bus),
                );
            }
            if device.address.is_some_and(|address| address.bus != 0) {
                problems.add(&path, "a root port sits on bus 0");
            }
        }
    }
    buses
}

fn check_kind(device: &DeviceSpec, path: &str, ports: &mut BTreeSet<u8>, problems: &mut Problems) {
    match &device.kind {
        DeviceKind::Serial(serial) => {
            if serial.port > 3 || !ports.insert(serial.port) {
                problems.add(
                    path,
                    format!("port {} is not 0 to 3, or taken", serial.port),
                );
            }
        }
        DeviceKind::VirtioBlk(blk) => check_blk(blk, path, problems),
        DeviceKind::VirtioNet(net) => check_net(net, path, problems),
        DeviceKind::VirtioConsole(console) => check_console(console, path, problems),
        DeviceKind::VirtioRng(rng) => {
            if rng.rate_bytes == Some(0) || rng.period_ms == Some(0) {
                problems.add(path, "a rate of 0 would never give entropy");
            }
        }
        DeviceKind::VirtioGpu(gpu) => check_gpu(gpu, path, problems),
        // A balloon is looked at beside the RAM that it is for.
        DeviceKind::VirtioBalloon(_)
        | DeviceKind::DebugExit(_)
        | DeviceKind::DebugConsole(_)
        | DeviceKind::PvPanic(_)
        | DeviceKind::PcieRootPort(_)
        | DeviceKind::VirtioInput(_) => {}
    }
}

fn check_gpu(gpu: &GpuSpec, path: &str, problems: &mut Problems) {
    let sides = MIN_RESOLUTION..=MAX_RESOLUTION;
    if !sides.contains(&gpu.width) || !sides.contains(&gpu.height) {
        let (width, height) = (gpu.width, gpu.height);
        problems.add(
            path,
            format!(
                "a picture of {width}x{height}; {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels can be had"
            ),
        );
    }
    if !(1 << 20..=MAX_VIDEO_MEMORY).contains(&gpu.memory) {
        problems.add(
            path,
            format!(
                "{} bytes for pictures; 1 MiB to {MAX_VIDEO_MEMORY} can be had",
                gpu.memory
            ),
        );
    }
}

fn check_balloons(spec: &MachineSpec, problems: &mut Problems) {
    let size = spec.memory.size;
    let balloons = spec.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::VirtioBalloon(balloon) => Some((&device.id, balloon)),
        _ => None,
    });
    for (index, (id, balloon)) in balloons.enumerate() {
        let path = format!("devices/{id}");
        if index > 0 {
            problems.add(&path, "a machine has one balloon at most");
        }
        if let Some(target) = balloon.target
            && (!(MIN_MEMORY..=size).contains(&target) || !target.is_multiple_of(4096))
        {
            problems.add(
                &path,
                format!(
                    "a target of {target} bytes; it must be a multiple of 4096 from {MIN_MEMORY} to {size}"
                ),
            );
        }
    }
}

fn check_console(console: &ConsoleSpec, path: &str, problems: &mut Problems) {
    let max = console.max_ports;
    if !(1..=MAX_CONSOLE_PORTS).contains(&max) {
        problems.add(
            path,
            format!("{max} ports; 1 to {MAX_CONSOLE_PORTS} can be had"),
        );
    }
    let mut numbers = BTreeSet::new();
    for port in &console.ports {
        let number = port.number;
        if number >= max || !numbers.insert(number) {
            problems.add(
                path,
                format!(
                    "port {number} of '{}' is taken, or not below {max}",
                    port.id
                ),
            );
        }
    }
}

fn check_queue_size(size: u16, path: &str, problems: &mut Problems) {
    if !size.is_power_of_two() || !(2..=1024).contains(&size) {
        problems.add(
            path,
            format!("queue size {size}; a power of two from 2 to 1024"),
        );
    }
}

fn check_blk(blk: &BlkSpec, path: &str, problems: &mut Problems) {
    if !(1..=256).contains(&blk.queues) {
        problems.add(path, format!("{} queues; 1 to 256 can be had", blk.queues));
    }
    check_queue_size(blk.queue_size, path, problems);
    if let Err(what) = blk.limits.check() {
        problems.add(path, what);
    }
    let serial = blk.serial.as_ref().map_or(0, String::len);
    if serial > MAX_DISK_SERIAL {
        problems.add(
            path,
            format!("the serial has more than {MAX_DISK_SERIAL} bytes"),
        );
    }
}

fn check_net(net: &NetSpec, path: &str, problems: &mut Problems) {
    if let NetBackend::Taps(taps) = &net.backend
        && !(1..=MAX_QUEUE_PAIRS).contains(&taps.len())
    {
        let pairs = taps.len();
        let message = format!("{pairs} queue pairs; 1 to {MAX_QUEUE_PAIRS} can be had");
        problems.add(path, message);
    }
    check_queue_size(net.queue_size, path, problems);
    if net.mac.is_multicast() {
        problems.add(
            path,
            format!(
                "{} names a group of cards; clear the lowest bit of its first byte",
                net.mac
            ),
        );
    }
    if net.mtu.is_some_and(|mtu| mtu < MIN_MTU) {
        problems.add(path, format!("the MTU must be at least {MIN_MTU}"));
    }
}
