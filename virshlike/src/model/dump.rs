//! A definition as `dumpxml` shows it.
//!
//! The inactive form is what the person wrote, without secrets unless they are asked for. The live
//! form adds what a running domain knows of itself: its number, aliases, pseudo-terminals and tap
//! devices. The migratable form is for libvirt, which does not know our machine versions.

use super::domain::Domain;
use super::{memory, schema};
use crate::runtime::record::{LiveCpu, Port, VncPlace};
use crate::xml::{Diagnostics, Document, Edits, Element, NewElement, Position};
use std::collections::BTreeMap;

/// What a dump shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Passwords too.
    pub security_info: bool,
    /// A form that libvirt takes as a definition.
    pub migratable: bool,
}

/// What a running domain knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// The domain's number.
    pub id: u32,
    /// Pseudo-terminals by the alias of the serial port.
    pub ttys: BTreeMap<String, String>,
    /// Tap devices by the alias of the interface.
    pub taps: BTreeMap<String, String>,
    /// Places in virtual networks by the alias of the interface.
    pub ports: BTreeMap<String, Port>,
    /// The CPU, where the definition alone does not tell.
    pub cpu: Option<LiveCpu>,
    /// Sockets by the alias of the channel.
    pub sockets: BTreeMap<String, String>,
    /// Where the VNC server listens.
    pub vnc: Option<VncPlace>,
    /// What the balloon leaves to the guest, in KiB.
    pub current_kib: Option<u64>,
    /// Whether the guest has a channel open, by its alias, as far as that is known.
    pub connected: BTreeMap<String, bool>,
}

/// The definition as it is stored, for `dumpxml --inactive` and for domains that are shut off.
///
/// # Errors
/// When the result would not parse, which an edit of a parsed document does not bring about.
pub fn inactive_xml(document: &Document, options: DumpOptions) -> Result<String, Diagnostics> {
    let mut edits = Edits::new();
    hide(document, options, &mut edits);
    apply(document, edits)
}

/// The definition of a running domain with what it knows of itself.
///
/// # Errors
/// As for [`inactive_xml`].
pub fn live_xml(
    document: &Document,
    domain: &Domain,
    live: &Live,
    options: DumpOptions,
) -> Result<String, Diagnostics> {
    let mut edits = Edits::new();
    hide(document, options, &mut edits);
    show_cpu(document.root(), live.cpu.as_ref(), &mut edits);
    // Where the document says nothing, all of the memory is meant.
    let said = document.root().child("currentMemory").is_some();
    if let Some(kib) = live
        .current_kib
        .filter(|kib| said || *kib != domain.memory.size_kib)
    {
        memory::amount(document, "currentMemory", kib, &mut edits);
    }
    if !options.migratable {
        edits.set_attribute(document.root().id(), "id", &live.id.to_string());
        if let Some(devices) = document.root().child("devices") {
            show_devices(devices, domain, live, &mut edits);
        }
    }
    apply(document, edits)
}

fn apply(document: &Document, edits: Edits) -> Result<String, Diagnostics> {
    let mut shown = document.clone();
    shown.apply(edits)?;
    Ok(shown.text())
}

fn hide(document: &Document, options: DumpOptions, edits: &mut Edits) {
    let root = document.root();
    let devices = root.child("devices");
    if !options.security_info {
        for graphics in devices
            .into_iter()
            .flat_map(|devices| devices.children_named("graphics"))
        {
            edits.remove_attribute(graphics.id(), "passwd");
        }
    }
    if options.migratable {
        if let Some(kind) = root.child("os").and_then(|os| os.child("type")) {
            edits.set_attribute(kind.id(), "machine", "q35");
        }
        for controller in devices
            .into_iter()
            .flat_map(|devices| devices.children_named("controller"))
        {
            match (controller.value("type"), controller.value("model")) {
                // A definition that was made for i440fx has become one for q35.
                (Some("pci"), Some("pci-root")) => {
                    edits.set_attribute(controller.id(), "model", "pcie-root");
                }
                (Some("ide"), _) => edits.remove(controller.id()),
                _ => {}
            }
        }
    }
}

/// The inactive form with the CPU as it would be on a host, for `dumpxml --update-cpu`.
///
/// # Errors
/// As for [`inactive_xml`].
pub fn updated_xml(
    document: &Document,
    cpu: &LiveCpu,
    options: DumpOptions,
) -> Result<String, Diagnostics> {
    let mut edits = Edits::new();
    hide(document, options, &mut edits);
    show_cpu(document.root(), Some(cpu), &mut edits);
    apply(document, edits)
}

/// libvirt's order; features and NUMA nodes stand behind what is about the whole CPU.
const CPU_ORDER: &[&str] = &[
    "model",
    "vendor",
    "topology",
    "cache",
    "maxphysaddr",
    "feature",
    "numa",
];

/// A CPU as libvirt shows it while it runs: a model and every feature in which it differs.
fn show_cpu(root: Element<'_>, live: Option<&LiveCpu>, edits: &mut Edits) {
    let Some(element) = root.child("cpu") else {
        let shown = NewElement::new("cpu")
            .attribute("mode", "host-passthrough")
            .attribute("check", "none")
            .attribute("migratable", "on");
        edits.insert(root.id(), shown, schema::order(""));
        return;
    };
    let Some(live) = live else { return };
    for (name, value) in [("mode", "custom"), ("match", "exact"), ("check", "full")] {
        edits.set_attribute(element.id(), name, value);
    }
    match element.child("model") {
        Some(model) => {
            edits.set_text(model.id(), &live.model);
            edits.set_attribute(model.id(), "fallback", "forbid");
        }
        None => {
            let model = NewElement::new("model")
                .attribute("fallback", "forbid")
                .text(&live.model);
            edits.insert(element.id(), model, CPU_ORDER);
        }
    }
    if let (Some(vendor), None) = (&live.vendor, element.child("vendor")) {
        edits.insert(
            element.id(),
            NewElement::new("vendor").text(vendor),
            CPU_ORDER,
        );
    }
    for feature in element.children_named("feature") {
        edits.remove(feature.id());
    }
    let required = live.require.iter().map(|name| ("require", name));
    let disabled = live.disable.iter().map(|name| ("disable", name));
    for (policy, name) in required.chain(disabled) {
        let feature = NewElement::new("feature")
            .attribute("policy", policy)
            .attribute("name", name);
        edits.insert(element.id(), feature, CPU_ORDER);
    }
}

fn show_devices(devices: Element<'_>, domain: &Domain, live: &Live, edits: &mut Edits) {
    let aliases = aliases(domain);
    show_display(devices, live.vnc.as_ref(), edits);
    for device in devices.children() {
        let Some(alias) = aliases.get(&device.position()).copied() else {
            continue;
        };
        show_alias(device, alias, edits);
        match device.name() {
            "serial" | "console" => show_tty(device, live.ttys.get(alias), edits),
            "interface" => {
                show_tap(device, live.taps.get(alias), edits);
                show_port(device, live.ports.get(alias), edits);
            }
            "channel" => show_channel(device, alias, live, edits),
            _ => {}
        }
    }
    show_console(devices, domain, live, edits);
}

/// Every device's alias by the place of its element. A device without one is not shown with any.
fn aliases(domain: &Domain) -> BTreeMap<Position, &str> {
    fn pairs<'a, T>(
        devices: &'a [T],
        pair: impl Fn(&'a T) -> (Position, &'a str) + 'a,
    ) -> impl Iterator<Item = (Position, &'a str)> {
        devices.iter().map(pair)
    }
    pairs(&domain.disks, |d| (d.at, d.alias.as_str()))
        .chain(
            // Of the others there are none, or several share a number as USB companions do.
            domain
                .controllers
                .iter()
                .filter(|controller| controller.kind == "pci" || controller.is_virtio_serial())
                .map(|controller| (controller.at, controller.alias.as_str())),
        )
        .chain(pairs(&domain.interfaces, |d| (d.at, d.alias.as_str())))
        .chain(pairs(&domain.serials, |d| (d.at, d.alias.as_str())))
        .chain(pairs(&domain.channels, |d| (d.at, d.alias.as_str())))
        .chain(pairs(&domain.virtio_consoles, |d| (d.at, d.alias.as_str())))
        .chain(pairs(&domain.rngs, |d| (d.at, d.alias.as_str())))
        .chain(
            domain
                .panic
                .iter()
                .map(|panic| (panic.at, panic.alias.as_str())),
        )
        .chain(pairs(&domain.videos, |d| (d.at, d.alias.as_str())))
        .chain(pairs(&domain.inputs, |d| (d.at, d.alias.as_str())))
        .chain(
            domain
                .memballoon
                .iter()
                .map(|balloon| (balloon.at, balloon.alias.as_str())),
        )
        .collect()
}

fn show_alias(device: Element<'_>, alias: &str, edits: &mut Edits) {
    if device.child("alias").is_none() {
        let order = schema::order(&format!("devices/{}", device.name()));
        let element = NewElement::new("alias").attribute("name", alias);
        edits.insert(device.id(), element, order);
    }
}

fn show_tty(device: Element<'_>, tty: Option<&String>, edits: &mut Edits) {
    let Some(tty) = tty else { return };
    if device.name() == "console" {
        edits.set_attribute(device.id(), "tty", tty);
    }
    match device.child("source") {
        Some(source) => edits.set_attribute(source.id(), "path", tty),
        None => edits.insert(
            device.id(),
            NewElement::new("source").attribute("path", tty),
            SERIAL_ORDER,
        ),
    }
}

/// libvirt's order; the tables have what streams share behind the rest.
const SERIAL_ORDER: &[&str] = &["source", "protocol", "log", "target", "alias", "address"];

fn show_tap(device: Element<'_>, tap: Option<&String>, edits: &mut Edits) {
    let Some(tap) = tap else { return };
    match device.child("target") {
        Some(target) => edits.set_attribute(target.id(), "dev", tap),
        None => edits.insert(
            device.id(),
            NewElement::new("target").attribute("dev", tap),
            schema::order("devices/interface"),
        ),
    }
}

/// The port or socket that was found for the VNC server, and its address where nobody wrote it.
fn show_display(devices: Element<'_>, place: Option<&VncPlace>, edits: &mut Edits) {
    let mut all = devices.children_named("graphics");
    let vnc = all.find(|graphics| graphics.value("type") == Some("vnc"));
    let (Some(graphics), Some(place)) = (vnc, place) else {
        return;
    };
    if let Some(port) = place.port {
        if !matches!(graphics.value("port"), Some(port) if port != "-1" && port != "0") {
            edits.set_attribute(graphics.id(), "autoport", "yes");
        }
        edits.set_attribute(graphics.id(), "port", &port.to_string());
    }
    if let Some(port) = place.websocket {
        edits.set_attribute(graphics.id(), "websocket", &port.to_string());
    }
    let listen = |kind: &str| {
        let mut all = graphics.children_named("listen");
        all.find(|listen| listen.value("type") == Some(kind))
    };
    if let (Some(address), None) = (&place.address, graphics.value("listen")) {
        edits.set_attribute(graphics.id(), "listen", address);
    }
    if let (Some(address), None) = (&place.address, graphics.child("listen")) {
        let listen = NewElement::new("listen")
            .attribute("type", "address")
            .attribute("address", address);
        edits.insert(graphics.id(), listen, schema::order("devices/graphics"));
    }
    if let (Some(socket), Some(listen)) = (&place.socket, listen("socket")) {
        edits.set_attribute(listen.id(), "socket", socket);
    }
}

/// Where in its network a card is plugged in.
fn show_port(device: Element<'_>, port: Option<&Port>, edits: &mut Edits) {
    if let (Some(source), Some(port)) = (device.child("source"), port) {
        edits.set_attribute(source.id(), "portid", &port.id.to_string());
        edits.set_attribute(source.id(), "bridge", &port.bridge);
    }
}

/// Where a channel's socket is, and whether the guest has its end open.
fn show_channel(device: Element<'_>, alias: &str, live: &Live, edits: &mut Edits) {
    match live.sockets.get(alias) {
        Some(path) => match device.child("source") {
            Some(source) => {
                edits.set_attribute(source.id(), "mode", "bind");
                edits.set_attribute(source.id(), "path", path);
            }
            None => edits.insert(
                device.id(),
                NewElement::new("source")
                    .attribute("mode", "bind")
                    .attribute("path", path),
                SERIAL_ORDER,
            ),
        },
        None => show_tty(device, live.ttys.get(alias), edits),
    }
    if let (Some(target), Some(connected)) = (device.child("target"), live.connected.get(alias)) {
        let state = if *connected {
            "connected"
        } else {
            "disconnected"
        };
        edits.set_attribute(target.id(), "state", state);
    }
}

/// The first serial port is a console too, as libvirt shows it; programs look for its tty there.
fn show_console(devices: Element<'_>, domain: &Domain, live: &Live, edits: &mut Edits) {
    let Some(first) = domain.serials.first() else {
        return;
    };
    let tty = live.ttys.get(&first.alias);
    if let Some(console) = devices.child("console") {
        let virtio = console
            .child("target")
            .and_then(|target| target.value("type"));
        if console.position() != first.at && matches!(virtio, None | Some("serial")) {
            show_alias(console, &first.alias, edits);
            show_tty(console, tty, edits);
        }
        return;
    }
    let Some(tty) = tty else { return };
    let console = NewElement::new("console")
        .attribute("type", "pty")
        .attribute("tty", tty)
        .child(NewElement::new("source").attribute("path", tty))
        .child(
            NewElement::new("target")
                .attribute("type", "serial")
                .attribute("port", first.port.to_string()),
        )
        .child(NewElement::new("alias").attribute("name", &first.alias));
    edits.insert(devices.id(), console, DEVICES_ORDER);
}

/// libvirt's order of the devices, as far as a console has to find its place.
const DEVICES_ORDER: &[&str] = &[
    "emulator",
    "disk",
    "controller",
    "lease",
    "filesystem",
    "interface",
    "smartcard",
    "serial",
    "parallel",
    "console",
    "channel",
];
