//! Bodies for fuzzing: plain functions from bytes, run bounded by tests and longer by a fuzzer. Each returns
//! whether the bytes got to the heart of the matter, so that a test can hold that some do.

use crate::model::{
    Domain, DumpOptions, Live, Network, complete, complete_network, inactive_xml, live_xml,
    network_xml,
};
use crate::runtime::network::record::{NETWORK_RECORD_VERSION, NetworkRecord, Phase};
use crate::runtime::network::{dnsmasq, firewall};
use crate::xml::xpath::Query;
use crate::xml::{Diagnostics, Document};
use std::path::Path;

/// Any bytes as a domain definition. Reading it never panics; every refusal has a place inside the
/// document; what is accepted is completed, stays what it is when it is written and read again, and its
/// live form is a definition too. Whether it was accepted.
pub fn domain_xml(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(read)
}

/// Any bytes as a network definition. As [`domain_xml`], and what is accepted makes settings of the DHCP
/// and DNS server and rules of the firewall in which every line is one that we write. Whether it was
/// accepted.
pub fn network_xml_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(read_network)
}

/// Any bytes as an XPath expression, asked of a small definition: a place for every mistake.
/// Whether there is an answer.
pub fn xpath(bytes: &[u8]) -> bool {
    const TEXT: &str = "<a b='1'><c x='2'>t<d/></c><c/><e:f xmlns:e='u'>3</e:f></a>";
    let (Ok(text), Ok(document)) = (std::str::from_utf8(bytes), Document::parse(TEXT, "t")) else {
        return false;
    };
    let answer = Query::parse(text).and_then(|query| query.evaluate(&document));
    if let Err(mistake) = &answer {
        let columns = 1..=text.chars().count() + 2;
        assert!(columns.contains(&mistake.column), "{text}: {mistake}");
    }
    answer.is_ok()
}

fn read_network(text: &str) -> bool {
    let mut document = match Document::parse(text, "t") {
        Ok(document) => document,
        Err(errors) => return refused(text, &errors),
    };
    let mut network = match Network::parse(&document) {
        Ok((network, warnings)) => {
            check_places(text, &warnings);
            check_places(text, &network.refusals_at_start());
            network
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            return refused(text, &errors);
        }
    };
    if let Err(errors) = complete_network(&mut document, &mut network, |_| false) {
        return refused(text, &errors);
    }
    let dump = network_xml(&document, None).expect("a dump");
    let mut again = Document::parse(&dump, "t").expect("well-formed");
    let (mut same, _) = Network::parse(&again).expect("a dump is a definition");
    assert_eq!(same, network);
    complete_network(&mut again, &mut same, |_| false).expect("complete");
    assert_eq!(again.as_str(), dump);
    let live = network_xml(&document, Some(3)).expect("a dump");
    let live = Document::parse(&live, "t").expect("well-formed");
    Network::parse(&live).expect("a live dump is a definition");
    check_settings(&network);
    true
}

/// Nothing of a definition ends a line of the server's settings, or begins one; or ends a rule.
fn check_settings(network: &Network) {
    const KEYS: &[&str] = &[
        "strict-order",
        "except-interface",
        "bind-dynamic",
        "interface",
        "pid-file",
        "domain",
        "expand-hosts",
        "local",
        "domain-needed",
        "no-resolv",
        "server",
        "txt-record",
        "srv-host",
        "host-record",
        "dhcp-option",
        "dhcp-no-override",
        "dhcp-authoritative",
        "dhcp-leasefile",
        "dhcp-lease-max",
        "dhcp-range",
        "dhcp-host",
        "enable-ra",
        "port",
    ];
    let bridge = network.bridge.name.clone().unwrap_or_default();
    let record = NetworkRecord {
        version: NETWORK_RECORD_VERSION,
        name: network.name.clone(),
        uuid: network.uuid.unwrap_or_default(),
        phase: Phase::Active,
        transient: false,
        bridge: bridge.clone(),
        mac: network.mac,
        rules: true,
    };
    let config = dnsmasq::config(network, &record, Path::new("/run"), Path::new("/lib"));
    let mut lines = config.lines();
    let head = lines.next().unwrap_or_default();
    assert!(head.starts_with("# Network '"), "{head}");
    for line in lines.filter(|line| !line.is_empty()) {
        let key = line.split('=').next().unwrap_or_default();
        assert!(KEYS.contains(&key), "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let Some(script) = firewall::script(network, &bridge) else {
        return;
    };
    let chains = 1 + usize::from(script.contains("chain postrouting"));
    assert_eq!(script.matches('{').count(), 1 + chains, "{script}");
    assert_eq!(script.matches('}').count(), 1 + chains, "{script}");
    let bare = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!script.chars().any(bare), "{script:?}");
    // Names are in quotes, two to each.
    assert_eq!(script.matches('"').count() % 2, 0, "{script}");
}

fn read(text: &str) -> bool {
    let mut document = match Document::parse(text, "t") {
        Ok(document) => document,
        Err(errors) => return refused(text, &errors),
    };
    assert_eq!(document.as_str(), text);
    let mut domain = match Domain::parse(&document) {
        Ok((domain, warnings)) => {
            check_places(text, &warnings);
            check_places(text, &domain.refusals_at_start());
            domain
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            return refused(text, &errors);
        }
    };
    if let Err(errors) = complete(&mut document, &mut domain) {
        return refused(text, &errors);
    }
    let all = DumpOptions {
        security_info: true,
        migratable: false,
    };
    let dump = inactive_xml(&document, all).expect("a dump");
    let mut again = Document::parse(&dump, "t").expect("well-formed");
    let (mut same, _) = Domain::parse(&again).expect("a dump is a definition");
    assert_eq!(same, domain);
    complete(&mut again, &mut same).expect("complete");
    assert_eq!(again.as_str(), dump);
    let live = live_xml(&document, &domain, &Live::default(), DumpOptions::default());
    let live = Document::parse(&live.expect("a dump"), "t").expect("well-formed");
    Domain::parse(&live).expect("a live dump is a definition");
    true
}

fn refused(text: &str, errors: &Diagnostics) -> bool {
    check_places(text, errors);
    false
}

/// Every finding is somewhere in the text.
fn check_places(text: &str, findings: &Diagnostics) {
    for finding in findings {
        let number = (finding.line as usize).wrapping_sub(1);
        let Some(line) = text.split('\n').nth(number) else {
            panic!("no such line: {finding}")
        };
        let columns = 1..=line.chars().count() + 1;
        assert!(columns.contains(&(finding.column as usize)), "{finding}");
        assert!(!finding.message.is_empty(), "a finding without words");
    }
}
