//! A started network on the host: a bridge, rules of the firewall, and a server for DHCP and DNS.
//!
//! ```text
//! start:    record (starting) -> forwarding -> bridge and addresses -> rules -> server -> record (active)
//! destroy:  record (stopping) -> server -> leases, of a transient one -> rules -> bridge -> record gone
//! ```
//!
//! Each step is done where it is missing and undone where it is there, so that an interrupted start or
//! destroy is undone by the next command, and a part that somebody took away is put back. The record
//! comes before the first step and goes after the last: nothing of ours is ever unknown. Nothing here
//! touches an interface, a table or a process that it did not make.

pub mod dnsmasq;
pub mod firewall;
mod forwarding;
pub mod link;
pub mod record;

pub use record::{NetworkDir, NetworkRecord, Phase};

use crate::error::{Error, Kind, Result};
use crate::model::{ForwardMode, MacAddress, Network};
use crate::store::{atomic, fault};
use link::{BridgePlan, Links};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A program of the host's that a network needs.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What it is for, as the end of a sentence.
    pub what: &'static str,
    /// Debian's package.
    pub package: &'static str,
}

/// The firewall's program.
pub const NFT: Tool = Tool {
    name: "nft",
    what: "which makes the rules of networks",
    package: "nftables",
};

/// The server for DHCP and DNS.
pub const DNSMASQ: Tool = Tool {
    name: "dnsmasq",
    what: "which gives guests addresses and names",
    package: "dnsmasq-base",
};

impl Tool {
    /// Where it is. Ordinary users have no `sbin` in their path.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(usual)
            .map(|folder| folder.join(self.name))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
    }

    /// The same, or what to install.
    ///
    /// # Errors
    /// It is not there.
    pub fn need(self) -> Result<PathBuf> {
        self.find().ok_or_else(|| {
            Error::new(
                Kind::Host,
                format!("cannot find '{}', {}", self.name, self.what),
            )
            .hint(format!("install it: apt install {}", self.package))
        })
    }
}

/// A part of a started network that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bridge is gone.
    Bridge,
    /// The rules are gone.
    Rules,
    /// The server for DHCP and DNS is gone.
    Server,
}

impl Fault {
    /// What is wrong, as a clause.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "its bridge is gone",
            Self::Rules => "its firewall rules are gone",
            Self::Server => "its DHCP and DNS server is gone",
        }
    }
}

/// What one command has seen of the host: what all networks share is asked for once, and only when it
/// is needed.
#[derive(Debug, Default)]
pub struct Seen {
    tables: OnceCell<Option<BTreeSet<String>>>,
}

impl Seen {
    /// The tables of networks that there are; `None` where that cannot be told.
    fn tables(&self) -> Option<&BTreeSet<String>> {
        self.tables.get_or_init(firewall::tables).as_ref()
    }
}

/// What is made for a network.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The definition.
    pub network: &'a Network,
    /// What is written down of it.
    pub record: &'a NetworkRecord,
    /// Its folder in the runtime directory.
    pub dir: NetworkDir,
    /// The server's memory.
    pub leases: PathBuf,
}

impl Plan<'_> {
    /// What of it is missing on the host. Without the right to see rules these count as present.
    ///
    /// # Errors
    /// A kernel that does not answer.
    pub fn faults(&self, seen: &Seen) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        let bridge = Links::open()?.find(&self.record.bridge)?;
        let whole = match self.record.mac {
            Some(mac) => bridge.is_some_and(|link| link.is_bridge && link.mac == Some(mac.0)),
            None => bridge.is_some_and(|link| link.is_bridge),
        };
        if !whole {
            faults.push(Fault::Bridge);
        }
        let script = firewall::script(self.network, &self.record.bridge);
        let gone = |known: &BTreeSet<String>| !known.contains(&self.table());
        if script.is_some() && seen.tables().is_some_and(gone) {
            faults.push(Fault::Rules);
        }
        if dnsmasq::is_needed(self.network) && dnsmasq::process(self.dir.path()).is_none() {
            faults.push(Fault::Server);
        }
        Ok(faults)
    }

    fn table(&self) -> String {
        firewall::table(&self.record.bridge)
    }

    /// The programs that it needs.
    ///
    /// # Errors
    /// One is not there.
    pub fn check_tools(&self) -> Result<()> {
        if firewall::script(self.network, &self.record.bridge).is_some() {
            NFT.need()?;
        }
        if dnsmasq::is_needed(self.network) {
            DNSMASQ.need()?;
        }
        Ok(())
    }

    /// Makes what is missing; says what may surprise.
    ///
    /// # Errors
    /// What cannot be made; what was made before that is then still there, for [`take_down`].
    pub fn raise(&self, missing: &[Fault]) -> Result<Vec<String>> {
        let mut told = Vec::new();
        if !self.network.forward.mode.makes_bridge() {
            return Ok(told);
        }
        if self.network.forward.mode.forwards() {
            let v6 = self.network.subnets.iter().any(|s| s.address.is_ipv6());
            told.extend(forwarding::switch_on(v6)?);
        }
        if missing.contains(&Fault::Bridge) {
            self.make_bridge()?;
        }
        fault::point("net-start.bridge-made");
        if missing.contains(&Fault::Rules)
            && let Some(script) = firewall::script(self.network, &self.record.bridge)
        {
            firewall::load(&script)?;
            told.extend(firewall::obstacles(self.network.forward.mode.forwards()));
        }
        fault::point("net-start.rules-made");
        if missing.contains(&Fault::Server) && dnsmasq::is_needed(self.network) {
            dnsmasq::stop(self.dir.path());
            dnsmasq::start(self.network, self.record, self.dir.path(), &self.leases)?;
        }
        fault::point("net-start.served");
        Ok(told)
    }

    /// Makes the rules and the server of a started network those of another definition of it.
    ///
    /// # Errors
    /// Rules or settings that are refused; some may then have changed already.
    pub fn take_over(&self, old: &Plan<'_>) -> Result<()> {
        let script = |plan: &Plan<'_>| firewall::script(plan.network, &plan.record.bridge);
        if let Some(new) = script(self)
            && script(old).as_ref() != Some(&new)
        {
            firewall::load(&new)?;
        }
        let dir = self.dir.path();
        let settings = |plan: &Plan<'_>| {
            let config = || dnsmasq::config(plan.network, plan.record, dir, &plan.leases);
            dnsmasq::is_needed(plan.network).then(config)
        };
        if settings(self) == settings(old) {
            return Ok(());
        }
        dnsmasq::stop(dir);
        match dnsmasq::is_needed(self.network) {
            true => dnsmasq::start(self.network, self.record, dir, &self.leases),
            false => Ok(()),
        }
    }

    fn make_bridge(&self) -> Result<()> {
        let links = Links::open()?;
        let bridge = &self.record.bridge;
        let index = links.make_bridge(&BridgePlan {
            name: bridge,
            mac: self.record.mac.map_or([0; 6], |MacAddress(mac)| mac),
            mtu: self.network.mtu,
            stp: self.network.bridge.stp,
            delay: self.network.bridge.delay,
        })?;
        quiet_ipv6(self.network, bridge);
        for subnet in &self.network.subnets {
            links.add_address(index, bridge, subnet)?;
        }
        links.set_up(index, bridge)?;
        for route in &self.network.routes {
            links.add_route(index, bridge, route)?;
        }
        Ok(())
    }
}

/// Undoes a started network, or what there is of one. Each step is tried, whatever became of the
/// others. The `leases` of one that has no definition go with it.
///
/// # Errors
/// The first that failed.
pub fn take_down(record: &NetworkRecord, dir: &NetworkDir, leases: &Path) -> Result<()> {
    dnsmasq::stop(dir.path());
    crate::runtime::cgroup::forget_network(&record.name);
    fault::point("net-destroy.server-gone");
    let mut result = match record.transient {
        true => atomic::remove(leases),
        false => Ok(()),
    };
    if record.mac.is_some() {
        let table = firewall::table(&record.bridge);
        // Whoever has the bridge has the rules that are named after it. Without rules there is no need of
        // the program that makes them.
        if record.rules
            && !is_taken(record)
            && firewall::tables().is_none_or(|known| known.contains(&table))
        {
            result = result.and(firewall::remove(&table));
        }
        fault::point("net-destroy.rules-gone");
        result = result.and(remove_bridge(record));
        fault::point("net-destroy.bridge-gone");
    }
    result.and_then(|()| dir.remove())
}

/// Whether there is a link with the bridge's name that is not the bridge that was made.
fn is_taken(record: &NetworkRecord) -> bool {
    let link = Links::open().and_then(|links| links.find(&record.bridge));
    let mac = record.mac.map(|MacAddress(mac)| mac);
    link.is_ok_and(|link| link.is_some_and(|link| !link.is_bridge || link.mac != mac))
}

/// Removes the bridge, if it is the one that was made: of that name, and with that address.
fn remove_bridge(record: &NetworkRecord) -> Result<()> {
    let links = Links::open()?;
    let Some(mac) = record.mac else {
        return Ok(());
    };
    match links.find(&record.bridge)? {
        Some(link) if link.is_bridge && link.mac == Some(mac.0) => {
            links.remove(link.index, &record.bridge)
        }
        _ => Ok(()),
    }
}

/// As libvirt: a bridge without IPv6 addresses has no IPv6 at all, and none takes routes from guests.
fn quiet_ipv6(network: &Network, bridge: &str) {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(bridge);
    let has = network.subnets.iter().any(|s| s.address.is_ipv6());
    let open = network.forward.mode == ForwardMode::Open;
    // A kernel without IPv6 has no such files and needs none of this.
    let write = |file: &str, value: &str| drop(fs::write(folder.join(file), value));
    if !has && !open {
        write("disable_ipv6", "1");
    }
    write("accept_ra", "0");
    write("autoconf", "0");
}
