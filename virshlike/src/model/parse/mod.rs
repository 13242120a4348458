//! From a document to a [`Domain`], with every mistake in one report.
//!
//! ```text
//! names and words (schema) -> the parts of <domain> (this folder) -> what must agree (conflicts)
//! ```
//!
//! A reader that meets something wrong reports it and goes on with a stand-in; the stand-ins never
//! leave this folder, because a document with errors gives no [`Domain`].

mod conflicts;
mod cpu;
mod devices;
mod disk;
pub(super) mod display;
mod general;
mod os;
pub(super) mod ports;
mod sense;
mod sense_devices;
mod tune;
mod user_network;

use super::domain::{Domain, EndAction};
use super::findings::Findings;
use super::{policy, schema};
use crate::model::device::DiskBus;
use crate::xml::{Diagnostics, Document, Element};
use vmm_api::spec::PciAddress;

impl Domain {
    /// Reads a domain definition. The second part of the answer are warnings: what is accepted and
    /// has no effect.
    ///
    /// # Errors
    /// Every mistake in the document, each with its place.
    pub fn parse(document: &Document) -> Result<(Self, Diagnostics), Diagnostics> {
        let mut findings = Findings::new(document);
        let root = document.root();
        if root.name() != "domain" {
            findings.error_with_hint(
                root.position(),
                format!("<{}> is no domain definition", root.name()),
                "the outermost element is <domain type='kvm'>",
            );
            return Err(findings.finish().0);
        }
        schema::check(root, &mut findings);
        let domain = read(root, &mut findings);
        let failed = findings.has_errors();
        let (errors, warnings, kept) = findings.finish();
        if failed {
            return Err(errors);
        }
        Ok((Self { kept, ..domain }, warnings))
    }

    /// Why this domain cannot be started by this build: each part that is kept in the definition
    /// and not built yet, by name and place. Empty when it can.
    pub fn refusals_at_start(&self) -> Diagnostics {
        self.kept.clone()
    }
}

/// The PCI address of a device, without a word about mistakes in it.
pub(super) fn pci_address(device: Element<'_>, document: &Document) -> Option<PciAddress> {
    devices::pci_address(device, &mut Findings::new(document))
}

/// The bus of a `<disk>`.
pub(super) fn disk_bus(element: Element<'_>) -> DiskBus {
    let target = element
        .child("target")
        .and_then(|target| target.value("dev"));
    disk::bus(element, target.unwrap_or_default())
}

/// The number of a disk's name: 0 for `vda`.
pub(super) fn disk_number(name: &str) -> Option<u32> {
    disk::disk_index(name)
}

/// Whether a domain or a network can have this name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    general::check_name(name)
}

fn read(root: Element<'_>, findings: &mut Findings<'_>) -> Domain {
    general::check_type(root, findings);
    let name = general::name(root, findings);
    let memory = general::memory(root, findings);
    let vcpus = general::vcpus(root, findings);
    let cpu = cpu::cpu(root, vcpus.as_ref(), findings);
    let cputune = tune::cputune(root, vcpus.as_ref(), findings);
    let devices = root.child("devices");
    let list = |name: &'static str| {
        devices
            .into_iter()
            .flat_map(move |devices| devices.children_named(name))
            .enumerate()
    };
    let on_crash = general::crash_action(root, findings);
    let domain = Domain {
        // Stand-ins for what is missing keep the other checks going; see the module's words.
        name: name.unwrap_or_default(),
        uuid: general::uuid(root, findings),
        title: general::title(root, findings),
        description: root.child("description").map(|d| d.text().to_string()),
        memory: memory.unwrap_or_default(),
        vcpus: vcpus.unwrap_or_default(),
        cpu,
        cputune,
        numatune: tune::numatune(root, findings),
        io_weight: tune::io_weight(root, findings),
        memtune: tune::memtune(root, findings),
        os: os::os(root, findings),
        features: general::features(root),
        clock: general::clock(root, findings),
        on_poweroff: general::end_action(root, "on_poweroff", EndAction::Destroy, findings),
        on_reboot: general::end_action(root, "on_reboot", EndAction::Restart, findings),
        on_crash: on_crash.0,
        core_on_crash: on_crash.1,
        emulator: general::emulator(devices, findings),
        disks: list("disk")
            .filter_map(|(_, e)| disk::disk(e, findings))
            .collect(),
        controllers: list("controller")
            .filter_map(|(_, e)| devices::controller(e, findings))
            .collect(),
        interfaces: list("interface")
            .filter_map(|(index, e)| devices::interface(index, e, findings))
            .collect(),
        serials: devices::serials(devices, findings),
        iothreads: general::iothreads(root, findings),
        channels: list("channel")
            .filter_map(|(index, e)| ports::channel(index, e, findings))
            .collect(),
        virtio_consoles: list("console")
            .filter_map(|(index, e)| ports::console(index, e, findings))
            .collect(),
        rngs: list("rng")
            .filter_map(|(index, e)| devices::rng(index, e, findings))
            .collect(),
        panic: devices::panic(devices, findings),
        graphics: list("graphics")
            .filter_map(|(_, e)| display::graphics(e, findings))
            .collect(),
        videos: list("video")
            .map(|(index, e)| display::video(index, e, findings))
            .collect(),
        inputs: list("input")
            .filter_map(|(index, e)| display::input(index, e, findings))
            .collect(),
        memballoon: devices
            .and_then(|devices| devices.child("memballoon"))
            .map(|e| devices::memballoon(e, findings)),
        policy: policy::read(root, findings),
        kept: Diagnostics::new(),
    };
    conflicts::check(root, &domain, findings);
    os::check(root, &domain, findings);
    sense::check(root, findings);
    domain
}
