use super::*;
use crate::xml::Document;

/// The network that everybody has.
const DEFAULT: &str = include_str!("../../../dist/default-network.xml");

fn parse(text: &str) -> Result<(Network, Diagnostics), Vec<String>> {
    let document = Document::parse(text, "n.xml").map_err(|found| lines(&found))?;
    Network::parse(&document).map_err(|found| lines(&found))
}

fn lines(found: &Diagnostics) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

fn network(inner: &str) -> String {
    format!("<network><name>n</name>{inner}</network>")
}

#[test]
fn the_default_network_is_what_it_says() {
    let (network, warnings) = parse(DEFAULT).unwrap();
    assert!(warnings.is_empty() && network.refusals_at_start().is_empty());
    assert_eq!(network.forward.mode, ForwardMode::Nat);
    assert_eq!(network.bridge.name.as_deref(), Some("virbr0"));
    let subnet = &network.subnets[0];
    assert_eq!(
        (subnet.network().to_string(), subnet.prefix),
        ("192.168.122.0".into(), 24)
    );
    let range = subnet.dhcp.as_ref().unwrap().ranges[0];
    assert_eq!(range.1.to_string(), "192.168.122.254");
}

#[test]
fn what_is_missing_is_filled_in_once() {
    let text = "<network>\n  <name>n</name><!-- mine -->\n  <forward/>\n  \
                <ip address='10.0.0.1' prefix='24'/>\n</network>\n";
    let mut document = Document::parse(text, "n.xml").unwrap();
    let (mut network, _) = Network::parse(&document).unwrap();
    complete_network(&mut document, &mut network, |name| name == "virbr0").unwrap();
    let first = document.text();
    assert!(
        first.contains("<bridge name='virbr1' stp='on' delay='0'/>"),
        "{first}"
    );
    assert!(first.contains("<!-- mine -->") && first.contains("<mac address='52:54:00:"));
    complete_network(&mut document, &mut network, |_| false).unwrap();
    assert_eq!(document.text(), first);
    assert!(network.uuid.is_some() && network.mac.is_some());
    let shown = network_xml(&document, Some(2)).unwrap();
    assert!(shown.starts_with("<network connections='2'>"), "{shown}");
    let again = Document::parse(&shown, "n.xml").unwrap();
    Network::parse(&again).unwrap();
    assert_eq!(network_xml(&again, None).unwrap(), first);
}

/// Each mistake, and a part of what is said of it; line and column come with it.
#[test]
fn mistakes_are_refused_with_their_place() {
    let ip = "<ip address='10.0.0.1' netmask='255.255.255.0'>";
    let cases = [
        (
            network("<foward/>"),
            "n.xml:1:24: error: <foward> is not known in <network>",
        ),
        (
            network("<forward mode='natt'/>"),
            "'natt' is no value for mode=",
        ),
        (network("<forward/>"), "the network has no address"),
        (network("<ip address='fe80::1'/>"), "family='ipv6'"),
        (
            network("<ip address='10.0.0.1' netmask='255.0.255.0'/>"),
            "netmask=",
        ),
        (network("<ip address='10.0.0.1' prefix='33'/>"), "1 to 32"),
        (
            network(&format!(
                "{ip}<dhcp><range start='10.0.0.9' end='10.0.0.2'/></dhcp></ip>"
            )),
            "ends before it starts",
        ),
        (
            network(&format!(
                "{ip}<dhcp><range start='10.0.1.2' end='10.0.1.9'/></dhcp></ip>"
            )),
            "an address inside 10.0.0.0/24",
        ),
        (
            network(&format!(
                "{ip}<dhcp><host mac='52:54:00:00:00:01'/></dhcp></ip>"
            )),
            "who it is and what it gets",
        ),
        (
            network(&format!(
                "{ip}<dhcp><host name='a&#10;user=root' ip='10.0.0.2'/></dhcp></ip>"
            )),
            "name=",
        ),
        (network("<bridge name='a b'/>"), "the name of an interface"),
        (
            network("<bridge name='virbr0\";drop'/>"),
            "the name of an interface",
        ),
        (network("<domain name='a,b'/>"), "letters, digits"),
        (
            network("<dns><txt name='a' value='x&#10;y'/></dns>"),
            "control characters",
        ),
        (
            network("<dns enable='no'><txt name='a'/></dns>"),
            "has no effect",
        ),
        (
            network("<forward mode='bridge'/><bridge name='br0'/><mtu size='1'/>"),
            "mode='bridge'",
        ),
        (
            network("<forward mode='nat'><interface dev='eth0'/><interface dev='eth1'/></forward>"),
            "one interface at most",
        ),
        (network("<mtu size='60'/>"), "68 to 65535"),
        (network("<mac address='01:00:00:00:00:00'/>"), "six pairs"),
        (
            network("<route address='10.1.0.1' prefix='16' gateway='10.0.0.2'/>"),
            "did you mean 10.1.0.0?",
        ),
        ("<domain/>".to_string(), "no network definition"),
        ("<network/>".to_string(), "no <name>"),
    ];
    for (text, wanted) in cases {
        let errors = parse(&text).expect_err(&text).join("\n");
        assert!(errors.contains(wanted), "{text}: {errors}");
    }
}

#[test]
fn what_is_not_built_is_kept_and_refused_at_start() {
    for inner in [
        "<forward mode='hostdev'/>",
        "<forward mode='bridge'/>",
        "<port isolated='yes'/>",
        "<vlan><tag id='4'/></vlan>",
        "<forward mode='vepa'><interface dev='eth0'/><interface dev='eth1'/></forward>",
    ] {
        let (network, _) = parse(&network(inner)).expect(inner);
        assert!(!network.refusals_at_start().is_empty(), "{inner}");
    }
    let (network, warnings) = parse(&network("<bridge name='b' zone='z'/>")).unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(network.refusals_at_start().is_empty());
}

#[test]
fn networks_of_addresses() {
    let of = |address: &str, prefix| network_of(address.parse().unwrap(), prefix).to_string();
    assert_eq!(of("192.168.122.77", 24), "192.168.122.0");
    assert_eq!(of("192.168.122.77", 0), "0.0.0.0");
    assert_eq!(of("10.255.1.1", 32), "10.255.1.1");
    assert_eq!(of("2001:db8::9", 64), "2001:db8::");
    assert_eq!(of("2001:db8::9", 0), "::");
}

proptest::proptest! {
    /// Whatever is put into a document: it is read or refused with places inside it, and what is
    /// accepted is what it was when it is completed, written and read again.
    #[test]
    fn changed_documents_are_survived(at in 0usize..500, cut in 0usize..12, put in "[ -~]{0,8}") {
        let mut text: Vec<char> = DEFAULT.chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        let text: String = text.into_iter().collect();
        let Ok(mut document) = Document::parse(&text, "n.xml") else {
            return Ok(());
        };
        let (mut network, _) = match Network::parse(&document) {
            Ok(read) => read,
            Err(errors) => {
                let lines = text.lines().count() + 1;
                for error in &errors {
                    proptest::prop_assert!((1..=lines).contains(&(error.line as usize)), "{error}");
                }
                return Ok(());
            }
        };
        if complete_network(&mut document, &mut network, |_| false).is_ok() {
            let shown = network_xml(&document, None).expect("a dump");
            let again = Document::parse(&shown, "n.xml").expect("well-formed");
            let (same, _) = Network::parse(&again).expect("a dump is a definition");
            proptest::prop_assert_eq!(same, network);
        }
    }
}
