//! `<interface type='user'>`. What leaves here becomes words of passt's command line, so every text is
//! one that cannot be taken for more than it is.

use crate::model::findings::Findings;
use crate::model::user_network::{PortForward, PortRange, Protocol, UserNetwork};
use crate::model::value::{self, is_interface_name};
use crate::xml::Element;
use std::net::IpAddr;

/// Most ranges of one `<portForward>`, and most of these of an interface.
const MOST: usize = 64;

const ADDRESS: &str = "an IP address";
const PORT: &str = "a port, 1 to 65535";
const INTERFACE: &str =
    "the name of an interface: up to 15 letters, digits, '-', '_' and '.', such as eth0";

/// Reads what an interface of this type says.
pub(super) fn read(interface: Element<'_>, findings: &mut Findings<'_>) -> UserNetwork {
    let backend = interface.child("backend");
    let log = backend.and_then(|backend| {
        findings.parsed(backend, "logFile", "an absolute path", |path| {
            let fits = path.starts_with('/') && !path.contains('\0');
            fits.then(|| path.to_string())
        })
    });
    let device = interface
        .child("source")
        .and_then(|source| device(source, findings));
    let forwards: Vec<Element<'_>> = interface.children_named("portForward").collect();
    if let Some(extra) = forwards.get(MOST) {
        findings.error(
            extra.position(),
            format!("an interface has {MOST} <portForward> at most"),
        );
    }
    refuse_queues(interface, findings);
    UserNetwork {
        log,
        device,
        addresses: addresses(interface, findings),
        forwards: forwards
            .into_iter()
            .take(MOST)
            .filter_map(|element| forward(element, findings))
            .collect(),
    }
}

/// Says that an interface of another type has what only this one can have.
pub(super) fn refuse_elsewhere(interface: Element<'_>, findings: &mut Findings<'_>) {
    if let Some(forward) = interface.child("portForward") {
        findings.keep_with_hint(
            forward.position(),
            "ports are forwarded with type='user' only",
            "the guest of a network or bridge is reached at its own address",
        );
    }
    if let Some(ip) = interface.child("ip") {
        findings.keep_with_hint(
            ip.position(),
            "the guest's address is given with type='user' only",
            "a network's DHCP server gives addresses: <host mac='...' ip='...'/> in its <dhcp>",
        );
    }
}

fn refuse_queues(interface: Element<'_>, findings: &mut Findings<'_>) {
    let driver = interface.child("driver");
    let queues = driver.and_then(|driver| driver.attribute("queues"));
    if let Some(queues) = queues
        && value::unsigned32(queues.value()).is_some_and(|queues| queues > 1)
    {
        findings.keep_with_hint(
            queues.position(),
            "an interface of type='user' has one pair of queues",
            "remove queues='...'",
        );
    }
}

fn device(element: Element<'_>, findings: &mut Findings<'_>) -> Option<String> {
    findings.parsed(element, "dev", INTERFACE, |name| {
        is_interface_name(name).then(|| name.to_string())
    })
}

fn addresses(interface: Element<'_>, findings: &mut Findings<'_>) -> Vec<(IpAddr, Option<u8>)> {
    let mut addresses: Vec<(IpAddr, Option<u8>)> = Vec::new();
    for element in interface.children_named("ip") {
        let Some(attribute) = element.attribute("address") else {
            findings.error_with_hint(
                element.position(),
                "<ip> has no address",
                "add address='...'",
            );
            continue;
        };
        let Ok(address) = attribute.value().parse::<IpAddr>() else {
            findings.bad_attribute(element, attribute, ADDRESS);
            continue;
        };
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        if let Some(stated) = element.attribute("family")
            && stated.value() != family
        {
            findings.bad_attribute(element, stated, &format!("'{family}' for this address"));
        }
        if addresses
            .iter()
            .any(|(a, _)| a.is_ipv4() == address.is_ipv4())
        {
            findings.error_with_hint(
                element.position(),
                format!("a second {family} address of the interface"),
                "it can have one of each family",
            );
            continue;
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let expected = format!("a number from 0 to {most}");
        let prefix = findings.parsed(element, "prefix", &expected, |text| {
            value::unsigned32(text)
                .and_then(|bits| u8::try_from(bits).ok())
                .filter(|bits| *bits <= most)
        });
        addresses.push((address, prefix));
    }
    addresses
}

fn forward(element: Element<'_>, findings: &mut Findings<'_>) -> Option<PortForward> {
    let protocol = match element.value("proto") {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        // The tables say what else is wrong with it.
        Some(_) => return None,
        None => {
            findings.error_with_hint(
                element.position(),
                "<portForward> does not say which protocol",
                "add proto='tcp' or proto='udp'",
            );
            return None;
        }
    };
    let ranges: Vec<Element<'_>> = element.children_named("range").collect();
    if let Some(extra) = ranges.get(MOST) {
        findings.error(
            extra.position(),
            format!("a <portForward> has {MOST} <range> at most"),
        );
    }
    Some(PortForward {
        protocol,
        address: findings.parsed(element, "address", ADDRESS, |text| text.parse().ok()),
        device: device(element, findings),
        ranges: ranges
            .into_iter()
            .take(MOST)
            .filter_map(|element| range(element, findings))
            .collect(),
    })
}

fn range(element: Element<'_>, findings: &mut Findings<'_>) -> Option<PortRange> {
    let mut port = |name: &str| {
        findings.parsed(element, name, PORT, |text| {
            value::unsigned32(text)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0)
        })
    };
    let (start, end, to) = (port("start"), port("end"), port("to"));
    if element.attribute("start").is_none() {
        findings.error_with_hint(
            element.position(),
            "<range> does not say where it starts",
            "add start='...'",
        );
    }
    let start = start?;
    let end = end.unwrap_or(start);
    let exclude = element.value("exclude") == Some("yes");
    if end < start {
        findings.error_with_hint(
            element.position(),
            format!("the range ends at {end}, before it starts at {start}"),
            "start= is the lower one",
        );
        return None;
    }
    if let Some(to) = to {
        if exclude {
            findings.error_with_hint(
                element.position(),
                "a range that is excluded leads nowhere",
                "remove to= or exclude=",
            );
            return None;
        }
        if to.checked_add(end - start).is_none() {
            findings.error(
                element.position(),
                format!("the range would end above port 65535 of the guest: it starts at {to}"),
            );
            return None;
        }
    }
    Some(PortRange {
        start,
        end,
        to,
        exclude,
    })
}

#[cfg(test)]
mod tests {
    use crate::model::{Domain, InterfaceSource};
    use crate::xml::Document;

    fn parse(kind: &str, inner: &str) -> Result<Domain, String> {
        let text = format!(
            "<domain type='kvm'>\n<name>a</name><memory>65536</memory><os><type>hvm</type>\
             <kernel>/k</kernel></os><devices>\n<interface type='{kind}'>\n{inner}\n</interface>\
             </devices></domain>"
        );
        let document = Document::parse(&text, "a.xml").expect("XML");
        let parsed = Domain::parse(&document);
        parsed
            .map(|(domain, warnings)| {
                assert!(warnings.is_empty(), "{warnings}");
                domain
            })
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn everything_that_passt_can_be_told_is_read() {
        let domain = parse(
            "user",
            "<source dev='eth0'/><ip family='ipv4' address='172.17.2.0' prefix='24'/>\
             <ip family='ipv6' address='2001:db8:ac10:fd01::feed'/>\
             <portForward proto='tcp' address='2001:db8:ac10:fd01::1:10'>\
             <range start='22' to='2022'/><range start='1000' end='1050'/>\
             <range start='1020' exclude='yes'/></portForward>\
             <portForward proto='udp' dev='eth0'/>\
             <backend type='passt' logFile='/var/log/passt.log'/>",
        );
        let domain = domain.expect("a definition");
        assert!(domain.refusals_at_start().is_empty());
        let InterfaceSource::User(network) = &domain.interfaces[0].source else {
            panic!("another source");
        };
        assert_eq!(network.log.as_deref(), Some("/var/log/passt.log"));
        assert_eq!(network.device.as_deref(), Some("eth0"));
        assert_eq!(network.addresses.len(), 2);
        assert_eq!(network.addresses[0].1, Some(24));
        let ranges = &network.forwards[0].ranges;
        assert_eq!(
            (ranges[0].start, ranges[0].end, ranges[0].to),
            (22, 22, Some(2022))
        );
        assert!(ranges[2].exclude && ranges[1].end == 1050);
        assert!(network.forwards[1].ranges.is_empty());
        let plain = parse("user", "<model type='virtio'/>").expect("a definition");
        assert_eq!(
            plain.interfaces[0].source,
            InterfaceSource::User(Default::default())
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_line() {
        let forward = |inner: &str| {
            format!("<portForward proto='tcp'>{inner}</portForward><backend type='passt'/>")
        };
        for (inner, wanted) in [
            ("<source dev='-x'/>".into(), "the name of an interface"),
            ("<source dev='a/b'/>".into(), "the name of an interface"),
            ("<ip address='10.0.0.300'/>".into(), "an IP address"),
            (
                "<ip family='ipv6' address='10.0.0.3'/>".into(),
                "'ipv4' for this",
            ),
            ("<ip address='10.0.0.3' prefix='33'/>".into(), "0 to 32"),
            (
                "<ip address='10.0.0.3'/><ip address='10.0.0.4'/>".into(),
                "a second ipv4",
            ),
            ("<ip prefix='8'/>".into(), "no address"),
            (
                "<backend type='passt' logFile='log'/>".into(),
                "an absolute path",
            ),
            (
                "<portForward/><backend type='passt'/>".into(),
                "which protocol",
            ),
            (forward("<range end='7'/>"), "where it starts"),
            (forward("<range start='0'/>"), "1 to 65535"),
            (forward("<range start='65536'/>"), "1 to 65535"),
            (forward("<range start='9' end='8'/>"), "before it starts"),
            (
                forward("<range start='9' end='12' to='65533'/>"),
                "above port 65535",
            ),
            (
                forward("<range start='9' to='9' exclude='yes'/>"),
                "leads nowhere",
            ),
        ] {
            let errors = parse("user", &inner).expect_err(&inner);
            assert!(
                errors.contains(wanted) && errors.contains("a.xml:4:"),
                "{inner}: {errors}"
            );
        }
    }

    #[test]
    fn several_queues_and_other_types_are_kept_and_refused_at_start() {
        for (kind, inner, wanted) in [
            ("user", "<driver queues='2'/>", "one pair of queues"),
            (
                "ethernet",
                "<ip address='10.0.0.3'/>",
                "with type='user' only",
            ),
            (
                "ethernet",
                "<portForward proto='tcp'/><backend type='passt'/>",
                "with type='user' only",
            ),
        ] {
            let domain = parse(kind, inner).expect("a definition");
            let refusals = domain.refusals_at_start().to_string();
            assert!(refusals.contains(wanted), "{inner}: {refusals}");
        }
    }
}
