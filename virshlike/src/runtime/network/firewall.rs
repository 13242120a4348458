//! Rules for a network: a table of its own in nftables, made and removed in one piece.
//!
//! A rule that accepts here cannot undo one that drops elsewhere: each table decides for itself. A
//! host whose own rules drop what is not named has to let guests pass there too; [`obstacles`] says
//! so. For the same reason nothing is written for DHCP and DNS: no rule of ours is in their way.

use super::NFT;
use crate::error::{Error, Kind, Result};
use crate::model::{ForwardMode, Network, Subnet};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// How the names of our tables begin.
const PREFIX: &str = "vm_";

/// The table of a network with this bridge.
pub fn table(bridge: &str) -> String {
    format!("{PREFIX}{bridge}")
}

/// The rules of a network, `None` where it needs none. What stands in them are numbers, addresses
/// and names of interfaces that the parse of the definition has let pass.
pub fn script(network: &Network, bridge: &str) -> Option<String> {
    let mode = network.forward.mode;
    let translated = match mode {
        ForwardMode::Nat | ForwardMode::Route | ForwardMode::Isolated => mode == ForwardMode::Nat,
        ForwardMode::Open | ForwardMode::Bridge | ForwardMode::Other => return None,
    };
    let table = table(bridge);
    // Declared and deleted first: loading it again replaces it.
    let mut text =
        format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    text.push_str(
        "\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n",
    );
    if mode != ForwardMode::Isolated {
        for subnet in &network.subnets {
            forward_rules(network, subnet, bridge, &mut text);
        }
    }
    for rule in [
        format!("iifname \"{bridge}\" oifname \"{bridge}\" accept"),
        format!("iifname \"{bridge}\" reject"),
        format!("oifname \"{bridge}\" reject"),
    ] {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
    if translated {
        text.push_str(
            "\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n",
        );
        for subnet in &network.subnets {
            if subnet.address.is_ipv4() || network.forward.nat_ipv6 {
                nat_rules(network, subnet, &mut text);
            }
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    Some(text)
}

fn family(subnet: &Subnet) -> &'static str {
    match subnet.address.is_ipv4() {
        true => "ip",
        false => "ip6",
    }
}

fn forward_rules(network: &Network, subnet: &Subnet, bridge: &str, text: &mut String) {
    let ip = family(subnet);
    let net = format!("{}/{}", subnet.network(), subnet.prefix);
    let device = |word: &str| match &network.forward.dev {
        Some(dev) => format!("{word} \"{dev}\" "),
        None => String::new(),
    };
    let translated = network.forward.mode == ForwardMode::Nat
        && (subnet.address.is_ipv4() || network.forward.nat_ipv6);
    // Answers alone come back to translated guests.
    let state = if translated {
        "ct state established,related "
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "\t\t{}oifname \"{bridge}\" {ip} daddr {net} {state}accept",
        device("iifname")
    );
    let _ = writeln!(
        text,
        "\t\tiifname \"{bridge}\" {}{ip} saddr {net} accept",
        device("oifname")
    );
}

fn nat_rules(network: &Network, subnet: &Subnet, text: &mut String) {
    let ip = family(subnet);
    let net = format!("{}/{}", subnet.network(), subnet.prefix);
    let out = match &network.forward.dev {
        Some(dev) => format!("oifname \"{dev}\" "),
        None => String::new(),
    };
    let local: &[&str] = match subnet.address.is_ipv4() {
        true => &["224.0.0.0/24", "255.255.255.255"],
        false => &["ff02::/16"],
    };
    for group in local {
        let _ = writeln!(text, "\t\t{ip} saddr {net} {ip} daddr {group} return");
    }
    let (first, last) = network.forward.nat_ports.unwrap_or((1024, 65535));
    let to = match network
        .forward
        .nat_addresses
        .filter(|_| subnet.address.is_ipv4())
    {
        Some((start, end)) if start == end => format!("snat ip to {start}"),
        Some((start, end)) => format!("snat ip to {start}-{end}"),
        None => "masquerade".to_string(),
    };
    let ports = match to.as_str() {
        "masquerade" => format!("{to} to :{first}-{last}"),
        _ => format!("{to}:{first}-{last}"),
    };
    let from = format!("{out}{ip} saddr {net} {ip} daddr != {net}");
    for protocol in ["tcp", "udp"] {
        let _ = writeln!(text, "\t\t{from} meta l4proto {protocol} {ports}");
    }
    let _ = writeln!(text, "\t\t{from} {to}");
}

fn nft(arguments: &[&str], input: &str) -> Result<Output> {
    let program = NFT.need()?;
    let failed = |error: std::io::Error| Error::io("run", &program, &error);
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(failed)
}

fn done(output: &Output, what: &str) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let mut error = Error::new(Kind::Host, what);
    error
        .causes
        .extend(words.lines().take(4).map(|line| format!("nft: {line}")));
    if words.contains("not permitted") {
        error.kind = Kind::Permission;
        error = error.hint("run it as root");
    }
    Err(error)
}

/// Loads rules in one piece.
///
/// # Errors
/// No program, no right, or what the kernel says; no rule is then changed.
pub fn load(script: &str) -> Result<()> {
    let output = nft(&["-f", "-"], script)?;
    done(&output, "cannot make the network's firewall rules")
}

/// Removes a table; one that is not there is fine.
///
/// # Errors
/// As [`load`].
pub fn remove(table: &str) -> Result<()> {
    let script = format!("table inet {table}\ndelete table inet {table}\n");
    let output = nft(&["-f", "-"], &script)?;
    done(&output, "cannot remove the network's firewall rules")
}

/// The tables of networks that there are; `None` where that cannot be told.
pub fn tables() -> Option<BTreeSet<String>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let output = nft(&["list", "tables", "inet"], "").ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "))
        .filter(|name| name.starts_with(PREFIX));
    Some(names.map(str::to_string).collect())
}

/// Chains of others that drop what is not named, in the way of guests' packets.
pub fn obstacles(forwards: bool) -> Vec<String> {
    let Ok(output) = nft(&["-j", "list", "chains"], "") else {
        return Vec::new();
    };
    obstacles_in(&output.stdout, forwards)
}

fn obstacles_in(json: &[u8], forwards: bool) -> Vec<String> {
    let known: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let chains = known["nftables"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for chain in chains.map(|item| &item["chain"]) {
        let word = |name: &str| chain[name].as_str().unwrap_or_default();
        let hook = word("hook");
        let what = match hook {
            "input" => "DHCP and DNS of guests",
            "forward" if forwards => "packets of guests",
            _ => continue,
        };
        if word("policy") == "drop" && !word("table").starts_with(PREFIX) {
            found.push(format!(
                "the chain {} of this host's table {} {} drops what it does not name: let {what} pass there",
                word("name"),
                word("family"),
                word("table"),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Document;

    fn rules(inner: &str) -> Option<String> {
        let text = format!("<network><name>n</name>{inner}</network>");
        let document = Document::parse(&text, "n.xml").unwrap();
        script(&Network::parse(&document).unwrap().0, "virbr0")
    }

    const IP: &str = "<ip address='10.0.0.1' prefix='24'/>";

    #[test]
    fn translated_guests_get_answers_alone() {
        let text = rules(&format!("<forward/>{IP}")).unwrap();
        let expected = "table inet vm_virbr0
delete table inet vm_virbr0
table inet vm_virbr0 {
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\toifname \"virbr0\" ip daddr 10.0.0.0/24 ct state established,related accept
\t\tiifname \"virbr0\" ip saddr 10.0.0.0/24 accept
\t\tiifname \"virbr0\" oifname \"virbr0\" accept
\t\tiifname \"virbr0\" reject
\t\toifname \"virbr0\" reject
\t}
\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tip saddr 10.0.0.0/24 ip daddr 224.0.0.0/24 return
\t\tip saddr 10.0.0.0/24 ip daddr 255.255.255.255 return
\t\tip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 meta l4proto tcp masquerade to :1024-65535
\t\tip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 meta l4proto udp masquerade to :1024-65535
\t\tip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade
\t}
}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn each_mode_has_its_rules() {
        let routed = rules(&format!("<forward mode='route' dev='eth1'/>{IP}")).unwrap();
        assert!(routed.contains(
            "\t\tiifname \"eth1\" oifname \"virbr0\" ip daddr 10.0.0.0/24 accept\n\
             \t\tiifname \"virbr0\" oifname \"eth1\" ip saddr 10.0.0.0/24 accept\n"
        ));
        assert!(!routed.contains("postrouting"));
        let alone = rules(IP).unwrap();
        assert!(
            !alone.contains("10.0.0.0") && alone.contains("reject"),
            "{alone}"
        );
        assert_eq!(rules(&format!("<forward mode='open'/>{IP}")), None);
        assert_eq!(rules("<forward mode='bridge'/><bridge name='br0'/>"), None);
        let nat = "<forward><nat ipv6='yes'><address start='1.2.3.4' end='1.2.3.6'/>\
                   <port start='60000' end='60100'/></nat></forward>";
        let both = rules(&format!(
            "{nat}{IP}<ip family='ipv6' address='fd00::1' prefix='64'/>"
        ));
        let both = both.unwrap();
        assert!(
            both.contains("tcp snat ip to 1.2.3.4-1.2.3.6:60000-60100\n"),
            "{both}"
        );
        assert!(both.contains("ip6 saddr fd00::/64 ip6 daddr != fd00::/64 masquerade\n"));
    }

    #[test]
    fn chains_of_others_that_drop_are_told() {
        let json = br#"{"nftables": [{"metainfo": {}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "vm_virbr0", "name": "forward", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "accept"}}]}"#;
        let told = obstacles_in(json, true);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("FORWARD") && told[0].contains("ip filter"));
        assert!(obstacles_in(json, false).is_empty());
        assert!(obstacles_in(b"nonsense", true).is_empty());
    }
}
