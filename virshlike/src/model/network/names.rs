//! `<domain>` and `<dns>`. What is accepted here is written into a file of dnsmasq's, so nothing
//! passes that could end a value or a line.

use super::addresses::required;
use super::{Dns, Forwarder, NameDomain, Srv};
use crate::model::findings::Findings;
use crate::model::value::unsigned32;
use crate::xml::Element;
use std::net::IpAddr;

/// What [`host_name`] takes, for messages.
pub(super) const A_NAME: &str = "a name of letters, digits, '-', '_' and '.'";

/// Longest name in the DNS.
const MAX_NAME: usize = 253;
/// Longest text of a TXT record in one piece.
const MAX_TXT: usize = 255;

/// A name in the DNS.
pub(super) fn host_name(text: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    (begins && text.len() <= MAX_NAME && text.chars().all(good)).then(|| text.to_string())
}

/// A text in quotes: no control characters, quotes and backslashes.
fn quotable(text: &str) -> Option<String> {
    let bad = |c: char| c.is_control() || matches!(c, '"' | '\\');
    (text.len() <= MAX_TXT && !text.chars().any(bad)).then(|| text.to_string())
}

pub(super) fn domain(root: Element<'_>, findings: &mut Findings<'_>) -> Option<NameDomain> {
    let element = root.child("domain")?;
    Some(NameDomain {
        name: required(element, "name", A_NAME, findings, host_name)?,
        local_only: element.value("localOnly") == Some("yes"),
    })
}

pub(super) fn dns(root: Element<'_>, findings: &mut Findings<'_>) -> Dns {
    let element = root.child("dns");
    let word = |name: &str| element.and_then(|element| element.value(name));
    let dns = Dns {
        enable: word("enable") != Some("no"),
        forward_plain_names: word("forwardPlainNames") != Some("no"),
        forwarders: list(element, "forwarder", findings, forwarder),
        txts: list(element, "txt", findings, txt),
        srvs: list(element, "srv", findings, srv),
        hosts: list(element, "host", findings, host),
    };
    if let Some(child) = element.and_then(|element| element.children().next())
        && !dns.enable
    {
        findings.error_with_hint(
            child.position(),
            format!("<{}> has no effect: <dns enable='no'>", child.name()),
            "remove one of the two",
        );
    }
    dns
}

fn list<T>(
    element: Option<Element<'_>>,
    name: &str,
    findings: &mut Findings<'_>,
    read: impl Fn(Element<'_>, &mut Findings<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(element) = element else {
        return Vec::new();
    };
    element
        .children_named(name)
        .filter_map(|child| read(child, findings))
        .collect()
}

fn forwarder(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Forwarder> {
    let forwarder = Forwarder {
        addr: findings.parsed(element, "addr", "an address", |text| text.parse().ok()),
        domain: findings.parsed(element, "domain", A_NAME, host_name),
    };
    if forwarder.addr.is_none() && forwarder.domain.is_none() && !findings.told_in(element) {
        findings.error_with_hint(
            element.position(),
            "<forwarder> says neither whom to ask nor for what",
            "add addr='...' or domain='...'",
        );
        return None;
    }
    Some(forwarder)
}

fn txt(element: Element<'_>, findings: &mut Findings<'_>) -> Option<(String, String)> {
    let text = "up to 255 bytes without quotes, backslashes and control characters";
    let value = findings.parsed(element, "value", text, quotable);
    let name = required(element, "name", A_NAME, findings, host_name)?;
    Some((name, value.unwrap_or_default()))
}

fn srv(element: Element<'_>, findings: &mut Findings<'_>) -> Option<Srv> {
    let mut number = |name: &str| {
        findings.parsed(element, name, "a number from 0 to 65535", |text| {
            u16::try_from(unsigned32(text)?).ok()
        })
    };
    let numbers = ["port", "priority", "weight"].map(&mut number);
    let protocol = |text: &str| matches!(text, "tcp" | "udp").then(|| text.to_string());
    Some(Srv {
        service: required(element, "service", A_NAME, findings, host_name)?,
        protocol: required(element, "protocol", "'tcp' or 'udp'", findings, protocol)?,
        domain: findings.parsed(element, "domain", A_NAME, host_name),
        target: findings.parsed(element, "target", A_NAME, |text| match text {
            "." => Some(String::new()),
            _ => host_name(text),
        }),
        numbers,
    })
}

fn host(element: Element<'_>, findings: &mut Findings<'_>) -> Option<(IpAddr, Vec<String>)> {
    let address = required(element, "ip", "an address", findings, |text| {
        text.parse().ok()
    });
    let mut names = Vec::new();
    for hostname in element.children_named("hostname") {
        match host_name(hostname.text().trim()) {
            Some(name) => names.push(name),
            None => findings.error_with_hint(
                hostname.text_position(),
                "this is no name in the DNS",
                format!("it takes {A_NAME}"),
            ),
        }
    }
    if names.is_empty() && !findings.told_in(element) {
        findings.error_with_hint(
            element.position(),
            "<host> has no name",
            "add <hostname>...</hostname>",
        );
    }
    Some((address?, names))
}
