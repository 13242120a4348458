//! `<network>`: a virtual network, what it means and what it lacks.
//!
//! ```text
//! Document --Network::parse--> Network + warnings      (or every error at once)
//!     |                          |
//!     '-------- complete --------'   UUID, bridge and MAC address, filled in once
//! ```
//!
//! Every name and text that leaves here is one that may stand in a file of dnsmasq's or in a rule of
//! nftables: parsing refuses what could be taken for more than it is. Nothing here looks at the host.

mod addresses;
mod complete;
mod live;
mod names;
mod parse;

pub use complete::complete_network;
pub use live::network_xml;

use super::device::MacAddress;
use crate::xml::{Diagnostics, Position};
use std::net::{IpAddr, Ipv4Addr};
use uuid::Uuid;

/// A network definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// `<name>`
    pub name: String,
    /// `<uuid>`
    pub uuid: Option<Uuid>,
    /// `<forward>`
    pub forward: Forward,
    /// `<bridge>`
    pub bridge: Bridge,
    /// `<mac>`: the bridge's address.
    pub mac: Option<MacAddress>,
    /// `<mtu>`
    pub mtu: Option<u16>,
    /// `<domain>`
    pub domain: Option<NameDomain>,
    /// `<dns>`
    pub dns: Dns,
    /// `<ip>`, in the order of the document.
    pub subnets: Vec<Subnet>,
    /// `<route>`
    pub routes: Vec<Route>,
    /// What is kept and refused at start.
    pub(super) kept: Diagnostics,
}

/// How guests reach the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forward {
    /// `mode=`
    pub mode: ForwardMode,
    /// The only interface of the host that it goes through.
    pub dev: Option<String>,
    /// `<nat ipv6=...>`: whether IPv6 is translated too.
    pub nat_ipv6: bool,
    /// `<nat><address>`: the first and the last.
    pub nat_addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `<nat><port>`: the first and the last.
    pub nat_ports: Option<(u16, u16)>,
}

/// `<forward mode=...>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardMode {
    /// No `<forward>`: guests reach each other and the host.
    #[default]
    Isolated,
    /// The host's address stands for those of guests.
    Nat,
    /// Forwarded as it is, both ways.
    Route,
    /// Forwarded without any rule.
    Open,
    /// Guests are plugged into a bridge that the host has.
    Bridge,
    /// Another one; kept, refused at start.
    Other,
}

impl ForwardMode {
    /// Whether the bridge is made by the start of the network.
    pub fn makes_bridge(self) -> bool {
        !matches!(self, Self::Bridge | Self::Other)
    }

    /// Whether the host forwards packets for it.
    pub fn forwards(self) -> bool {
        matches!(self, Self::Nat | Self::Route | Self::Open)
    }
}

/// `<bridge>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// `name=`; a complete definition has one.
    pub name: Option<String>,
    /// `stp=`
    pub stp: bool,
    /// `delay=`, in seconds, 0 to 30.
    pub delay: u32,
}

/// `<domain>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameDomain {
    /// `name=`
    pub name: String,
    /// `localOnly=`
    pub local_only: bool,
}

/// `<dns>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// `enable=`
    pub enable: bool,
    /// `forwardPlainNames=`
    pub forward_plain_names: bool,
    /// `<forwarder>`
    pub forwarders: Vec<Forwarder>,
    /// `<txt>`: name and value.
    pub txts: Vec<(String, String)>,
    /// `<srv>`
    pub srvs: Vec<Srv>,
    /// `<host>`: an address and its names.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
}

/// `<dns><forwarder>`: at least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarder {
    /// Whom to ask; nobody when absent.
    pub addr: Option<IpAddr>,
    /// For names of this domain.
    pub domain: Option<String>,
}

/// `<dns><srv>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// `service=`
    pub service: String,
    /// `protocol=`
    pub protocol: String,
    /// `domain=`
    pub domain: Option<String>,
    /// `target=`
    pub target: Option<String>,
    /// `port=`, `priority=`, `weight=`
    pub numbers: [Option<u16>; 3],
}

/// `<ip>`: the host's address on the bridge and the network that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The place of the element.
    pub at: Position,
    /// The host's address.
    pub address: IpAddr,
    /// Bits of the network's prefix.
    pub prefix: u8,
    /// `<dhcp>`
    pub dhcp: Option<Dhcp>,
}

/// `<dhcp>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// `<range>`: the first, the last, and how long leases last.
    pub ranges: Vec<(IpAddr, IpAddr, Option<Lease>)>,
    /// `<host>`
    pub hosts: Vec<DhcpHost>,
}

/// How long a lease lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// For ever.
    Infinite,
    /// So many seconds.
    Seconds(u32),
}

/// `<dhcp><host>`: who it is, and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpHost {
    /// `mac=`
    pub mac: Option<MacAddress>,
    /// `id=`: the DUID of DHCPv6.
    pub id: Option<String>,
    /// `name=`
    pub name: Option<String>,
    /// `ip=`
    pub ip: Option<IpAddr>,
    /// `<lease>`
    pub lease: Option<Lease>,
}

/// `<route>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network's address.
    pub address: IpAddr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// A guest that forwards.
    pub gateway: IpAddr,
    /// `metric=`
    pub metric: Option<u32>,
}

impl Subnet {
    /// The first address of its network.
    pub fn network(&self) -> IpAddr {
        network_of(self.address, self.prefix)
    }

    /// Whether an address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && network_of(address, self.prefix) == self.network()
    }
}

/// The first address of the network that an address belongs to.
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix.min(32)))
                .unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests;
