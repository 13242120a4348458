//! `<os>`: what is booted, by which firmware, and what of it cannot work.

use crate::model::device::DiskDevice;
use crate::model::domain::{BootDevice, Domain, Os};
use crate::model::findings::Findings;
use crate::model::value;
use crate::xml::Element;
use vmm_api::spec::{MACHINE_NEWEST, MAX_BOOT_WAIT};

/// How long SeaBIOS waits at its menu where nothing is said, in milliseconds.
const MENU_WAIT: u32 = 2500;

pub(super) fn os(root: Element<'_>, findings: &mut Findings<'_>) -> Os {
    let Some(element) = root.child("os") else {
        findings.error_with_hint(
            root.position(),
            "the domain has no <os>",
            "add <os><type arch='x86_64' machine='q35'>hvm</type></os>",
        );
        return Os::default();
    };
    let mut os = Os {
        at: element.position(),
        ..Os::default()
    };
    match element.child("type") {
        None => findings.error_with_hint(
            element.position(),
            "<os> has no <type>",
            "add <type arch='x86_64' machine='q35'>hvm</type>",
        ),
        Some(kind) => {
            if kind.text().trim() != "hvm" {
                findings.error_with_hint(
                    kind.text_position(),
                    format!("<type> '{}' is not run here", kind.text().trim()),
                    "it takes 'hvm'",
                );
            }
            if let Some(arch) = kind.attribute("arch")
                && arch.value() != "x86_64"
            {
                findings.error_with_hint(
                    arch.value_position(),
                    format!("the architecture '{}' is not run here", arch.value()),
                    "it takes 'x86_64'",
                );
            }
            os.machine = machine(kind, findings);
        }
    }
    let file = |name: &str| {
        element
            .child(name)
            .map(|child| child.text().trim().to_string())
            .filter(|path| !path.is_empty())
    };
    os.kernel = file("kernel");
    os.initrd = file("initrd");
    os.cmdline = element
        .child("cmdline")
        .map(|c| c.text().trim().to_string());
    os.boot = boot_devices(element, findings);
    firmware(element, &mut os, findings);
    os
}

fn boot_devices(os: Element<'_>, findings: &mut Findings<'_>) -> Vec<BootDevice> {
    let mut devices = Vec::new();
    for boot in os.children_named("boot") {
        let device = findings.parsed(boot, "dev", "'hd', 'cdrom', 'network' or 'fd'", boot_device);
        match device {
            Some(device) if devices.contains(&device) => findings.warn(
                boot.position(),
                format!(
                    "<boot dev='{}'> has no effect: it is there already, and the first one counts",
                    boot.value("dev").unwrap_or_default()
                ),
            ),
            device => devices.extend(device),
        }
    }
    devices
}

fn boot_device(word: &str) -> Option<BootDevice> {
    Some(match word {
        "hd" => BootDevice::Disk,
        "cdrom" => BootDevice::Cdrom,
        "network" => BootDevice::Network,
        "fd" => BootDevice::Floppy,
        _ => return None,
    })
}

/// `<loader>` of a ROM, `<bootmenu>` and `<bios>`; other firmware has been judged by the tables.
fn firmware(element: Element<'_>, os: &mut Os, findings: &mut Findings<'_>) {
    os.loader = element
        .child("loader")
        .filter(|loader| is_rom(element, *loader))
        .map(|loader| loader.text().trim().to_string())
        .filter(|path| !path.is_empty());
    if let Some(menu) = element.child("bootmenu") {
        let expected = format!("milliseconds from 0 to {MAX_BOOT_WAIT}");
        let wait = findings.parsed(menu, "timeout", &expected, |text| {
            value::unsigned32(text).filter(|wait| *wait <= MAX_BOOT_WAIT)
        });
        let enabled = menu.value("enable") == Some("yes");
        os.boot_menu = enabled.then(|| wait.unwrap_or(MENU_WAIT));
    }
    if let Some(bios) = element.child("bios") {
        os.use_serial = bios.value("useserial").map(|word| word == "yes");
        let expected = format!("milliseconds from -1 to {MAX_BOOT_WAIT}; -1 never starts again");
        let wait = findings.parsed(bios, "rebootTimeout", &expected, |text| match text {
            "-1" => Some(None),
            text => value::unsigned32(text)
                .filter(|wait| *wait <= MAX_BOOT_WAIT)
                .map(Some),
        });
        os.reboot_timeout = wait.flatten();
    }
}

/// A loader that says nothing of its type is a ROM, but for UEFI.
pub(super) fn is_rom(os: Element<'_>, loader: Element<'_>) -> bool {
    match loader.value("type") {
        Some(kind) => kind == "rom",
        None => os.value("firmware") != Some("efi"),
    }
}

/// What must fit together, of what is booted.
pub(super) fn check(root: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    let Some(os) = root.child("os") else { return };
    let serial = os
        .child("bios")
        .and_then(|bios| bios.attribute("useserial"));
    if let Some(serial) = serial
        && serial.value() == "yes"
        && domain.serials.is_empty()
    {
        findings.error_with_hint(
            serial.position(),
            "useserial='yes' needs a serial port, and there is none",
            "add <serial type='pty'/> to <devices>",
        );
    }
    if domain.os.kernel.is_some() {
        unused_firmware(os, findings);
        return;
    }
    if domain.os.initrd.is_some() || domain.os.cmdline.is_some() {
        findings.error_with_hint(
            domain.os.at,
            "<initrd> and <cmdline> belong to a <kernel>, and there is none",
            "add <kernel>",
        );
    }
    no_drivers(root, os, domain, findings);
    if !domain.boots_from_a_disk() {
        nothing_to_boot(os, domain, findings);
    }
}

/// A kernel that the host hands over is started without firmware.
fn unused_firmware(os: Element<'_>, findings: &mut Findings<'_>) {
    let loader = os.child("loader").filter(|loader| is_rom(os, *loader));
    let parts = [loader, os.child("bootmenu"), os.child("bios")];
    for part in parts.into_iter().flatten() {
        findings.warn(
            part.position(),
            format!(
                "<{}> has no effect: the <kernel> is started without firmware",
                part.name()
            ),
        );
    }
}

/// Devices in the order that the firmware has no driver for.
fn no_drivers(root: Element<'_>, os: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    const NO_PXE: &str = "the firmware boots from no network: SeaBIOS has no PXE for virtio cards of its own, and option ROMs (iPXE) are not loaded yet";
    for boot in os.children_named("boot") {
        match boot.value("dev") {
            Some("network") => findings.warn(
                boot.position(),
                format!("<boot dev='network'> has no effect: {NO_PXE}"),
            ),
            Some("fd") => findings.warn(
                boot.position(),
                "<boot dev='fd'> has no effect: there are no floppy drives",
            ),
            _ => {}
        }
    }
    let cards = root
        .child("devices")
        .into_iter()
        .flat_map(|devices| devices.children_named("interface"));
    for boot in cards.filter_map(|card| card.child("boot")) {
        findings.warn(
            boot.position(),
            format!("<boot> of a network card has no effect: {NO_PXE}"),
        );
    }
    for disk in &domain.disks {
        if disk.device == DiskDevice::Floppy && disk.boot_order.is_some() {
            findings.warn(
                disk.at,
                format!(
                    "<boot> of the disk '{}' has no effect: there are no floppy drives",
                    disk.target
                ),
            );
        }
    }
}

/// No disk can be meant, which only the start minds: one may be attached to the definition later.
fn nothing_to_boot(os: Element<'_>, domain: &Domain, findings: &mut Findings<'_>) {
    let image = |disk: &crate::model::device::Disk| {
        disk.device != DiskDevice::Floppy && disk.source.is_some()
    };
    if domain.disks.iter().any(image) {
        let at = os.child("boot").unwrap_or(os).position();
        findings.keep_with_hint(
            at,
            "the boot order has no disk or CD-ROM image of this definition in it",
            "add <boot dev='hd'/>, or <boot order='1'/> to a disk",
        );
    } else {
        findings.keep_with_hint(
            domain.os.at,
            "there is nothing to boot: the definition has neither a <kernel> nor a disk with an image",
            "add a <disk>, or <kernel>, <initrd> and <cmdline> to <os>",
        );
    }
}

/// The machine as written, if it is one of ours or becomes one.
fn machine(kind: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let attribute = kind.attribute("machine")?;
    let machine = attribute.value();
    let versioned = machine.strip_prefix("pc-").is_some_and(|version| {
        // Before they were named after their chipsets, machines had a version only.
        version.starts_with(|c: char| c.is_ascii_digit())
            || version.starts_with("q35-")
            || version.starts_with("i440fx-")
    });
    if versioned {
        findings.warn(
            attribute.value_position(),
            format!("machine='{machine}' is QEMU's; the domain gets our {MACHINE_NEWEST}"),
        );
    } else if !matches!(machine, "q35" | "pc" | MACHINE_NEWEST) {
        let known = [MACHINE_NEWEST, "q35", "pc"];
        let hint = match value::nearest(machine, known) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("it takes {}", value::alternatives(known)),
        };
        findings.error_with_hint(
            attribute.value_position(),
            format!("the machine '{machine}' is not built"),
            hint,
        );
    }
    Some(machine.to_string())
}
