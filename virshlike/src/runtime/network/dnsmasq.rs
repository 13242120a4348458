//! The server that gives guests addresses and names: one dnsmasq per network, which listens on the
//! network's bridge alone.
//!
//! It puts itself into the background once it serves, closes what it inherited, and has a group of its
//! own, so it outlives whoever started it. It is found again by its process id and known by its
//! command line: it names a file in the network's own folder.

use super::{DNSMASQ, NetworkRecord};
use crate::error::{Error, Kind, Result};
use crate::model::{Dhcp, DhcpHost, ForwardMode, Lease, Network, Subnet};
use crate::runtime::background;
use crate::runtime::cgroup::Group;
use crate::runtime::limits::Limits;
use crate::spawn::Plan;
use crate::store::atomic;
use rustix::process::Pid;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Most leases of one network.
const MOST_LEASES: u128 = 65_536;

fn config_path(dir: &Path) -> PathBuf {
    dir.join("dnsmasq.conf")
}

fn pid_path(dir: &Path) -> PathBuf {
    dir.join("dnsmasq.pid")
}

/// Whether a network has a server at all.
pub fn is_needed(network: &Network) -> bool {
    let dhcp = network.subnets.iter().any(|subnet| subnet.dhcp.is_some());
    let makes = network.forward.mode.makes_bridge();
    makes && !network.subnets.is_empty() && (network.dns.enable || dhcp)
}

/// The server's settings. Every text in them is one that the parse of the definition has let pass.
pub fn config(network: &Network, record: &NetworkRecord, dir: &Path, leases: &Path) -> String {
    let mut lines = vec![
        format!("# Network '{}'; written anew at each start.", network.name),
        "strict-order".into(),
        "except-interface=lo".into(),
        "bind-dynamic".into(),
        format!("interface={}", record.bridge),
        format!("pid-file={}", pid_path(dir).display()),
    ];
    names(network, &mut lines);
    if let Some(mtu) = network.mtu {
        lines.push(format!("dhcp-option=option:mtu,{mtu}"));
    }
    let with_dhcp = || network.subnets.iter().filter(|s| s.dhcp.is_some());
    if with_dhcp().next().is_some() {
        lines.push("dhcp-no-override".into());
        lines.push("dhcp-authoritative".into());
        lines.push(format!("dhcp-leasefile={}", leases.display()));
        lines.push(format!("dhcp-lease-max={}", most_leases(network)));
        // There is nowhere to go from an isolated network.
        if network.forward.mode == ForwardMode::Isolated {
            lines.push("dhcp-option=3".into());
        }
    }
    for subnet in &network.subnets {
        if let Some(dhcp) = &subnet.dhcp {
            addresses(subnet, dhcp, &mut lines);
        } else if subnet.address.is_ipv6() {
            lines.push(format!("dhcp-range={},ra-only", subnet.address));
        }
    }
    if network.subnets.iter().any(|s| s.address.is_ipv6()) {
        lines.push("enable-ra".into());
    }
    lines.push(String::new());
    lines.join("\n")
}

fn names(network: &Network, lines: &mut Vec<String>) {
    let dns = &network.dns;
    if !dns.enable {
        lines.push("port=0".into());
    }
    if let Some(domain) = &network.domain {
        lines.push(format!("domain={}", domain.name));
        lines.push("expand-hosts".into());
        if domain.local_only {
            lines.push(format!("local=/{}/", domain.name));
        }
    }
    if !dns.forward_plain_names {
        lines.push("domain-needed".into());
        lines.push("local=//".into());
    }
    let everything = dns.forwarders.iter().any(|f| f.domain.is_none());
    if everything || (network.forward.mode == ForwardMode::Isolated && dns.forwarders.is_empty()) {
        lines.push("no-resolv".into());
    }
    for forwarder in &dns.forwarders {
        let domain = forwarder
            .domain
            .as_ref()
            .map(|domain| format!("/{domain}/"));
        let addr = forwarder.addr.map(|addr| addr.to_string());
        lines.push(format!(
            "server={}{}",
            domain.unwrap_or_default(),
            // "#" is whoever is asked for everything else.
            addr.unwrap_or_else(|| "#".into())
        ));
    }
    for (name, value) in &dns.txts {
        lines.push(format!("txt-record={name},\"{value}\""));
    }
    for srv in &dns.srvs {
        let mut line = format!("srv-host=_{}._{}", srv.service, srv.protocol);
        if let Some(domain) = &srv.domain {
            let _ = write!(line, ".{domain}");
        }
        if let Some(target) = &srv.target {
            let [port, priority, weight] = srv.numbers;
            let _ = write!(line, ",{target},{}", port.unwrap_or(1));
            let _ = write!(line, ",{},{}", priority.unwrap_or(0), weight.unwrap_or(0));
        }
        lines.push(line);
    }
    for (address, names) in &dns.hosts {
        lines.push(format!("host-record={},{address}", names.join(",")));
    }
}

fn addresses(subnet: &Subnet, dhcp: &Dhcp, lines: &mut Vec<String>) {
    let size = match subnet.address {
        IpAddr::V4(_) => {
            let bits = u32::from(subnet.prefix.min(32));
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            std::net::Ipv4Addr::from(mask).to_string()
        }
        IpAddr::V6(_) => subnet.prefix.to_string(),
    };
    for (start, end, lease) in &dhcp.ranges {
        let lease = lease.map(|lease| format!(",{}", time(lease)));
        let lease = lease.unwrap_or_default();
        lines.push(format!("dhcp-range={start},{end},{size}{lease}"));
    }
    if dhcp.ranges.is_empty() && !dhcp.hosts.is_empty() {
        let network = subnet.network();
        lines.push(match subnet.address {
            IpAddr::V4(_) => format!("dhcp-range={network},static,{size}"),
            IpAddr::V6(_) => format!("dhcp-range={network},static,{size}"),
        });
    }
    lines.extend(dhcp.hosts.iter().map(reservation));
}

fn reservation(host: &DhcpHost) -> String {
    let mut words = Vec::new();
    words.extend(host.mac.map(|mac| mac.to_string()));
    words.extend(host.id.as_ref().map(|id| format!("id:{id}")));
    words.extend(host.ip.map(|ip| match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    words.extend(host.name.clone());
    words.extend(host.lease.map(time));
    format!("dhcp-host={}", words.join(","))
}

fn time(lease: Lease) -> String {
    match lease {
        Lease::Infinite => "infinite".into(),
        Lease::Seconds(seconds) => format!("{seconds}"),
    }
}

fn most_leases(network: &Network) -> u128 {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let dhcp = network.subnets.iter().filter_map(|s| s.dhcp.as_ref());
    let of = |dhcp: &Dhcp| {
        let ranges = dhcp.ranges.iter();
        let sizes =
            ranges.map(|(start, end, _)| (number(*end) - number(*start)).min(MOST_LEASES) + 1);
        sizes.sum::<u128>() + dhcp.hosts.len() as u128
    };
    dhcp.map(of).sum::<u128>().clamp(1, MOST_LEASES)
}

/// Starts the server and waits until it serves.
///
/// # Errors
/// No program, settings that it refuses, or an address that somebody else listens on.
pub fn start(network: &Network, record: &NetworkRecord, dir: &Path, leases: &Path) -> Result<()> {
    let program = DNSMASQ.need()?;
    if let Some(folder) = leases.parent() {
        atomic::create_dir(folder, 0o700)?;
    }
    let path = config_path(dir);
    atomic::write_volatile(&path, config(network, record, dir, leases).as_bytes())?;
    let log = dir.join("dnsmasq.log");
    let output = File::create(&log).map_err(|error| Error::io("create", &log, &error))?;
    let group = Group::for_network(&record.name);
    let plan = Plan {
        program,
        arguments: vec![format!("--conf-file={}", path.display()).into()],
        descriptors: Vec::new(),
        output,
        cgroup: group.procs(),
        memory: None,
    };
    let status = background::launch(plan, None)?;
    if !status.success() {
        let mut error = Error::new(Kind::Host, "dnsmasq does not serve the network")
            .cause(format!("it ended with {status}"));
        let words = fs::read_to_string(&log).unwrap_or_default();
        let said = words.lines().filter(|line| !line.trim().is_empty());
        error.causes.extend(said.take(4).map(str::to_string));
        return Err(error);
    }
    if let Some((pid, _)) = process(dir)
        && let Ok(pid) = u32::try_from(pid.as_raw_nonzero().get())
        && let Some(why) = group.adopt(pid, &Limits::default())
    {
        tracing::debug!("dnsmasq stays in the group of this command: {why}");
    }
    Ok(())
}

/// The server that runs for a network's folder: its process, which cannot become another one.
pub fn process(dir: &Path) -> Option<(Pid, OwnedFd)> {
    let text = fs::read_to_string(pid_path(dir)).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let program = DNSMASQ.need().ok()?;
    let wanted = format!("--conf-file={}", config_path(dir).display());
    background::process(pid, &program, |line| {
        line.split(|byte| *byte == 0)
            .any(|word| word == wanted.as_bytes())
    })
}

/// Ends the server of a network's folder, if one runs.
pub fn stop(dir: &Path) {
    if let Some((_, handle)) = process(dir) {
        background::end(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::network::Phase;
    use crate::xml::Document;
    use uuid::Uuid;

    fn lines(inner: &str) -> Vec<String> {
        let text = format!("<network><name>n</name>{inner}</network>");
        let document = Document::parse(&text, "n.xml").unwrap();
        let (network, _) = Network::parse(&document).unwrap();
        let record = NetworkRecord {
            version: 1,
            name: "n".into(),
            uuid: Uuid::nil(),
            phase: Phase::Active,
            transient: false,
            bridge: "virbr0".into(),
            mac: None,
            rules: true,
        };
        let text = config(&network, &record, Path::new("/run/n"), Path::new("/lib/l"));
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn ranges_hosts_and_names_are_written_down() {
        let lines = lines(
            "<forward/><mtu size='1400'/><domain name='lab.test' localOnly='yes'/>\
             <dns forwardPlainNames='no'><forwarder addr='8.8.8.8'/><forwarder domain='a.test' addr='10.1.1.1'/>\
             <txt name='t' value='a, b'/><srv service='s' protocol='tcp' target='h' port='80'/>\
             <host ip='10.0.0.9'><hostname>x</hostname><hostname>y</hostname></host></dns>\
             <ip address='10.0.0.1' prefix='24'><dhcp>\
             <range start='10.0.0.2' end='10.0.0.9'><lease expiry='2' unit='hours'/></range>\
             <host mac='52:54:00:AA:00:01' name='web' ip='10.0.0.50'/></dhcp></ip>\
             <ip family='ipv6' address='fd00::1' prefix='64'/>",
        );
        for wanted in [
            "interface=virbr0",
            "except-interface=lo",
            "domain=lab.test",
            "local=/lab.test/",
            "domain-needed",
            "no-resolv",
            "server=8.8.8.8",
            "server=/a.test/10.1.1.1",
            "txt-record=t,\"a, b\"",
            "srv-host=_s._tcp,h,80,0,0",
            "host-record=x,y,10.0.0.9",
            "dhcp-range=10.0.0.2,10.0.0.9,255.255.255.0,7200",
            "dhcp-host=52:54:00:aa:00:01,10.0.0.50,web",
            "dhcp-option=option:mtu,1400",
            "dhcp-lease-max=9",
            "dhcp-range=fd00::1,ra-only",
            "enable-ra",
        ] {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{wanted}: {lines:#?}"
            );
        }
    }

    #[test]
    fn an_isolated_network_has_no_way_out() {
        let ip = "<ip address='10.0.0.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.2'/></dhcp></ip>";
        let lines = lines(ip);
        for wanted in [
            "no-resolv",
            "dhcp-option=3",
            "dhcp-range=10.0.0.0,static,255.255.255.0",
        ] {
            assert!(
                lines.iter().any(|line| line == wanted),
                "{wanted}: {lines:#?}"
            );
        }
    }
}
