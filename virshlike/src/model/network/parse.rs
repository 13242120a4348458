//! From a document to a [`Network`], with every mistake in one report.

use super::{Bridge, Forward, ForwardMode, Network};
use super::{addresses, names};
use crate::model::device::MacAddress;
use crate::model::findings::{Findings, shown};
use crate::model::parse::check_name;
use crate::model::schema;
use crate::model::value::{is_interface_name, on_off, unsigned32};
use crate::xml::{Diagnostics, Document, Element};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use uuid::Uuid;

impl Network {
    /// Reads a network definition. The second part of the answer are warnings: what is accepted and
    /// has no effect.
    ///
    /// # Errors
    /// Every mistake in the document, each with its place.
    pub fn parse(document: &Document) -> Result<(Self, Diagnostics), Diagnostics> {
        let mut findings = Findings::new(document);
        let root = document.root();
        if root.name() != "network" {
            findings.error_with_hint(
                root.position(),
                format!("<{}> is no network definition", root.name()),
                "the outermost element is <network>",
            );
            return Err(findings.finish().0);
        }
        schema::check_network(root, &mut findings);
        let network = read(root, &mut findings);
        let failed = findings.has_errors();
        let (errors, warnings, kept) = findings.finish();
        if failed {
            return Err(errors);
        }
        Ok((Self { kept, ..network }, warnings))
    }

    /// Why this network cannot be started by this build: each part that is kept in the definition
    /// and not built yet, by name and place. Empty when it can.
    pub fn refusals_at_start(&self) -> Diagnostics {
        self.kept.clone()
    }
}

fn read(root: Element<'_>, findings: &mut Findings<'_>) -> Network {
    let forward = forward(root, findings);
    let subnets = addresses::subnets(root, findings);
    let network = Network {
        // Stand-ins for what is missing keep the other checks going.
        name: name(root, findings).unwrap_or_default(),
        uuid: uuid(root, findings),
        bridge: bridge(root, findings),
        mac: mac(root, findings),
        mtu: mtu(root, findings),
        domain: names::domain(root, findings),
        dns: names::dns(root, findings),
        routes: addresses::routes(root, findings),
        forward,
        subnets,
        kept: Diagnostics::new(),
    };
    agree(root, &network, findings);
    port_groups(root, findings);
    network
}

/// As libvirt: a port group has a name of its own, and one at most is the default.
fn port_groups(root: Element<'_>, findings: &mut Findings<'_>) {
    let mut names = BTreeSet::new();
    let mut default = None;
    for group in root.children_named("portgroup") {
        let name = group.value("name").unwrap_or_default();
        if name.is_empty() {
            findings.error_with_hint(
                group.position(),
                "<portgroup> has no name",
                "add name='...'",
            );
        } else if !names.insert(name) {
            findings.error_with_hint(
                group.position(),
                format!("the port group '{}' is there twice", shown(name)),
                "remove one of them, or choose another name",
            );
        }
        if group.value("default") != Some("yes") {
            continue;
        }
        if let Some(first) = default.replace(name) {
            findings.error_with_hint(
                group.position(),
                format!(
                    "a different port group, '{}', is the default already",
                    shown(first)
                ),
                "only one default is allowed",
            );
        }
    }
}

/// What must fit together.
fn agree(root: Element<'_>, network: &Network, findings: &mut Findings<'_>) {
    let mode = network.forward.mode;
    let at = root
        .child("forward")
        .map_or(root.position(), Element::position);
    if matches!(mode, ForwardMode::Nat | ForwardMode::Route) && root.child("ip").is_none() {
        findings.error_with_hint(
            at,
            "forwarding is asked for, but the network has no address",
            "add <ip address='192.168.100.1' netmask='255.255.255.0'/>, or write mode='open'",
        );
    }
    if mode == ForwardMode::Bridge {
        if network.bridge.name.is_none() {
            findings.keep_with_hint(
                at,
                "mode='bridge' without <bridge>: plugging into an interface itself is not built",
                "name a bridge of the host: <bridge name='br0'/>",
            );
        }
        for name in ["ip", "dns", "domain", "mac", "route", "mtu"] {
            if let Some(element) = root.child(name) {
                findings.error_with_hint(
                    element.position(),
                    format!(
                        "<{name}> is not possible with mode='bridge': the bridge is the host's"
                    ),
                    "remove it, or choose another mode",
                );
            }
        }
    }
}

fn name(root: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let Some(element) = root.child("name") else {
        findings.error_with_hint(
            root.position(),
            "the network has no <name>",
            "add <name>...</name> as its first element",
        );
        return None;
    };
    match check_name(element.text()) {
        Ok(()) => Some(element.text().to_string()),
        Err(reason) => {
            findings.error(element.text_position(), reason);
            None
        }
    }
}

fn uuid(root: Element<'_>, findings: &mut Findings<'_>) -> Option<Uuid> {
    let element = root.child("uuid")?;
    let uuid = Uuid::try_parse(element.text().trim()).ok();
    if uuid.is_none() {
        findings.error_with_hint(
            element.text_position(),
            format!("'{}' is no UUID", shown(element.text().trim())),
            "leave <uuid> out to get a new one",
        );
    }
    uuid
}

fn interface_name(
    element: Element<'_>,
    attribute: &str,
    findings: &mut Findings<'_>,
) -> Option<String> {
    findings.parsed(
        element,
        attribute,
        "the name of an interface: up to 15 letters, digits, '-', '_' and '.'",
        |name| is_interface_name(name).then(|| name.to_string()),
    )
}

fn bridge(root: Element<'_>, findings: &mut Findings<'_>) -> Bridge {
    let element = root.child("bridge");
    let delay = |text: &str| unsigned32(text).filter(|delay| *delay <= 30);
    Bridge {
        name: element.and_then(|element| interface_name(element, "name", findings)),
        stp: element
            .and_then(|element| on_off(element.value("stp")?))
            .unwrap_or(true),
        delay: element
            .and_then(|element| findings.parsed(element, "delay", "seconds from 0 to 30", delay))
            .unwrap_or(0),
    }
}

fn mac(root: Element<'_>, findings: &mut Findings<'_>) -> Option<MacAddress> {
    let element = root.child("mac")?;
    let single = |text: &str| {
        let mac = text.parse::<MacAddress>().ok()?;
        (mac.0[0] & 1 == 0).then_some(mac)
    };
    findings.parsed(
        element,
        "address",
        "six pairs of hex digits, such as 52:54:00:12:34:56, of one interface",
        single,
    )
}

fn mtu(root: Element<'_>, findings: &mut Findings<'_>) -> Option<u16> {
    let element = root.child("mtu")?;
    let fits = |text: &str| {
        let size = unsigned32(text).filter(|size| (68..=65535).contains(size))?;
        u16::try_from(size).ok()
    };
    findings.parsed(element, "size", "a number from 68 to 65535", fits)
}

fn forward(root: Element<'_>, findings: &mut Findings<'_>) -> Forward {
    let Some(element) = root.child("forward") else {
        return Forward::default();
    };
    let mode = match element.value("mode").unwrap_or("nat") {
        "nat" => ForwardMode::Nat,
        "route" => ForwardMode::Route,
        "open" => ForwardMode::Open,
        "bridge" => ForwardMode::Bridge,
        _ => ForwardMode::Other,
    };
    duplicates(element, findings);
    let mut forward = Forward {
        mode,
        dev: device(element, mode, findings),
        ..Forward::default()
    };
    if let Some(nat) = element.child("nat") {
        if !matches!(mode, ForwardMode::Nat) {
            findings.error_with_hint(
                nat.position(),
                "<nat> is for mode='nat'",
                "remove it, or write mode='nat'",
            );
        }
        forward.nat_ipv6 = nat.value("ipv6") == Some("yes");
        forward.nat_addresses = nat.child("address").and_then(|element| {
            pair(element, "an IPv4 address", findings, |text| {
                text.parse::<Ipv4Addr>().ok()
            })
        });
        forward.nat_ports = nat.child("port").and_then(|element| {
            let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
            pair(element, "a port from 1 to 65535", findings, port)
        });
    }
    forward
}

/// `start=` and `end=`, the first not behind the last.
fn pair<T: PartialOrd + Copy>(
    element: Element<'_>,
    expected: &str,
    findings: &mut Findings<'_>,
    parser: impl Fn(&str) -> Option<T> + Copy,
) -> Option<(T, T)> {
    let start = addresses::required(element, "start", expected, findings, parser)?;
    let end = addresses::required(element, "end", expected, findings, parser)?;
    if start > end {
        findings.error_with_hint(
            element.position(),
            format!("<{}> ends before it starts", element.name()),
            "exchange start= and end=",
        );
        return None;
    }
    Some((start, end))
}

/// `dev=` and `<interface dev=...>`, which are the same where there is one. What is routed goes out through
/// one interface at most, as libvirt has it; only a network that plugs guests straight into the host's
/// interfaces shares out several.
fn device(element: Element<'_>, mode: ForwardMode, findings: &mut Findings<'_>) -> Option<String> {
    let mut names = BTreeSet::new();
    let own = interface_name(element, "dev", findings);
    names.extend(own.clone());
    for interface in element.children_named("interface") {
        names.extend(interface_name(interface, "dev", findings));
    }
    let routed = matches!(
        mode,
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open
    );
    if routed && names.len() > 1 {
        let mode = element.value("mode").unwrap_or("nat");
        findings.error_with_hint(
            element.position(),
            format!(
                "a network with <forward mode='{mode}'> goes out through one interface at most"
            ),
            "name one of them, or none for all",
        );
    }
    own.or_else(|| names.into_iter().next())
}

/// The same device of the host twice.
fn duplicates(element: Element<'_>, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for address in element.children_named("address") {
        let parts: Vec<&str> = ["domain", "bus", "slot", "function"]
            .into_iter()
            .map(|name| address.value(name).unwrap_or_default())
            .collect();
        if !seen.insert(parts.join(":")) {
            findings.error_with_hint(
                address.position(),
                "the same PCI address is there twice",
                "remove one of them",
            );
        }
    }
}
