//! `<ip>` and `<route>`: the networks' addresses, and what must lie inside of what.

use super::names::host_name;
use super::{Dhcp, DhcpHost, Lease, Route, Subnet, network_of};
use crate::model::device::MacAddress;
use crate::model::findings::Findings;
use crate::model::value::{unsigned, unsigned32};
use crate::xml::Element;
use std::net::{IpAddr, Ipv4Addr};

/// libvirt's least: dnsmasq takes no shorter lease.
const SHORTEST_LEASE: u64 = 120;

pub(super) fn subnets(root: Element<'_>, findings: &mut Findings<'_>) -> Vec<Subnet> {
    let found: Vec<Subnet> = root
        .children_named("ip")
        .filter_map(|element| subnet(element, findings))
        .collect();
    for v4 in [true, false] {
        let with_dhcp = |subnet: &&Subnet| subnet.dhcp.is_some() && subnet.address.is_ipv4() == v4;
        if let Some(second) = found.iter().filter(with_dhcp).nth(1) {
            findings.error_with_hint(
                second.at,
                "two <ip> of one family have <dhcp>",
                "only one can have it: a guest could not know which it gets",
            );
        }
    }
    found
}

fn subnet(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Subnet> {
    let (address, prefix) = address_and_prefix(element, findings)?;
    let mut subnet = Subnet {
        at: element.position(),
        address,
        prefix,
        dhcp: None,
    };
    subnet.dhcp = element.child("dhcp").map(|dhcp| Dhcp {
        ranges: dhcp
            .children_named("range")
            .filter_map(|range| self::range(range, &subnet, findings))
            .collect(),
        hosts: dhcp
            .children_named("host")
            .filter_map(|host| self::host(host, &subnet, findings))
            .collect(),
    });
    Some(subnet)
}

/// An attribute that must be there, through a parser.
pub(super) fn required<T>(
    element: Element<'_>,
    name: &str,
    expected: &str,
    findings: &mut Findings<'_>,
    parser: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    if element.attribute(name).is_none() {
        findings.error_with_hint(
            element.position(),
            format!("<{}> has no {name}=", element.name()),
            format!("{name}= takes {expected}"),
        );
        return None;
    }
    findings.parsed(element, name, expected, parser)
}

/// The family that an element is of, and a word for messages.
fn family(element: Element<'_>) -> (bool, &'static str) {
    match element.value("family") {
        Some("ipv6") => (false, "an IPv6 address"),
        _ => (true, "an IPv4 address, or an IPv6 one with family='ipv6'"),
    }
}

fn address_and_prefix(element: Element<'_>, findings: &mut Findings<'_>) -> Option<(IpAddr, u8)> {
    let (v4, expected) = family(element);
    let right = |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == v4);
    let address = required(element, "address", expected, findings, right)?;
    let longest = if v4 { 32 } else { 128 };
    if let Some(netmask) = element.attribute("netmask") {
        let both = element.attribute("prefix").is_some();
        if both || !v4 {
            findings.error_with_hint(
                netmask.position(),
                format!("<{}> has a netmask= that it cannot have", element.name()),
                "write prefix= alone",
            );
            return None;
        }
        let bits = findings.parsed(element, "netmask", "a mask such as 255.255.255.0", mask)?;
        return Some((address, bits));
    }
    if element.attribute("prefix").is_some() {
        let fits = |text: &str| unsigned32(text).and_then(|bits| u8::try_from(bits).ok());
        let bits = findings.parsed(
            element,
            "prefix",
            &format!("a number from 1 to {longest}"),
            |text| fits(text).filter(|bits| (1..=longest).contains(bits)),
        )?;
        return Some((address, bits));
    }
    Some((address, usual_prefix(address)))
}

/// What libvirt takes without a word: an IPv4 address's class.
fn usual_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
        IpAddr::V6(_) => 64,
    }
}

/// The bits of a netmask without holes.
fn mask(text: &str) -> Option<u8> {
    let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let bits = mask.leading_ones();
    (mask.count_ones() == bits && bits > 0)
        .then_some(bits)
        .and_then(|bits| u8::try_from(bits).ok())
}

fn inside(subnet: &Subnet, text: &str) -> Option<IpAddr> {
    let address = text.parse().ok()?;
    subnet.contains(address).then_some(address)
}

fn range(
    element: Element<'_>,
    subnet: &Subnet,
    findings: &mut Findings<'_>,
) -> Option<(IpAddr, IpAddr, Option<Lease>)> {
    let expected = format!("an address inside {}/{}", subnet.network(), subnet.prefix);
    let mut end = |name: &str| {
        required(element, name, &expected, findings, |text| {
            inside(subnet, text)
        })
    };
    let (start, last) = (end("start")?, end("end")?);
    if start > last {
        findings.error_with_hint(
            element.position(),
            "<range> ends before it starts",
            "exchange start= and end=",
        );
        return None;
    }
    Some((start, last, lease(element, findings)))
}

pub(super) fn host(
    element: Element<'_>,
    subnet: &Subnet,
    findings: &mut Findings<'_>,
) -> Option<DhcpHost> {
    let expected = format!("an address inside {}/{}", subnet.network(), subnet.prefix);
    let id = |text: &str| {
        let good = |c: char| c.is_ascii_hexdigit() || c == ':';
        let fits = !text.is_empty() && text.len() <= 400 && text.chars().all(good);
        fits.then(|| text.to_string())
    };
    let host = DhcpHost {
        mac: findings.parsed(
            element,
            "mac",
            "six pairs of hex digits, such as 52:54:00:12:34:56",
            |text| text.parse::<MacAddress>().ok(),
        ),
        id: findings.parsed(element, "id", "hex digits with colons between them", id),
        name: findings.parsed(element, "name", super::names::A_NAME, host_name),
        ip: findings.parsed(element, "ip", &expected, |text| inside(subnet, text)),
        lease: lease(element, findings),
    };
    let known = host.mac.is_some() || host.id.is_some() || host.name.is_some();
    let gets = host.ip.is_some() || host.name.is_some();
    if !(findings.told_in(element) || known && gets) {
        findings.error_with_hint(
            element.position(),
            "<host> does not say who it is and what it gets",
            "write <host mac='52:54:00:12:34:56' name='web01' ip='...'/>",
        );
        return None;
    }
    Some(host)
}

fn lease(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Lease> {
    let lease = element.child("lease")?;
    let each = match lease.value("unit").unwrap_or("minutes") {
        "seconds" => 1,
        "hours" => 3600,
        _ => 60,
    };
    required(
        lease,
        "expiry",
        "0 for ever, or a time of at least two minutes",
        findings,
        |text| match unsigned(text)?.checked_mul(each)? {
            0 => Some(Lease::Infinite),
            seconds if seconds >= SHORTEST_LEASE => u32::try_from(seconds).ok().map(Lease::Seconds),
            _ => None,
        },
    )
}

pub(super) fn routes(root: Element<'_>, findings: &mut Findings<'_>) -> Vec<Route> {
    root.children_named("route")
        .filter_map(|element| {
            let (address, prefix) = address_and_prefix(element, findings)?;
            if network_of(address, prefix) != address {
                findings.error_with_hint(
                    element.position(),
                    format!("{address} is no network of {prefix} bits"),
                    format!("did you mean {}?", network_of(address, prefix)),
                );
                return None;
            }
            let (v4, expected) = family(element);
            let right = |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == v4);
            Some(Route {
                address,
                prefix,
                gateway: required(element, "gateway", expected, findings, right)?,
                metric: findings.parsed(element, "metric", "a number above 0", |text| {
                    unsigned32(text).filter(|metric| *metric > 0)
                }),
            })
        })
        .collect()
}
