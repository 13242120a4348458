//! `<interface type='user'>`: a network of the guest's own that passt carries to and from the host's
//! sockets. Plain values; what passt is told of them is `runtime::passt`'s.

use std::net::IpAddr;

/// What a definition says of the guest's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserNetwork {
    /// `<backend logFile=...>`: an absolute path.
    pub log: Option<String>,
    /// `<source dev=...>`: the host's interface whose addresses and routes the guest is shown.
    pub device: Option<String>,
    /// `<ip>`: the guest's addresses with the lengths of their networks' part; one of each family at
    /// most.
    pub addresses: Vec<(IpAddr, Option<u8>)>,
    /// `<portForward>`
    pub forwards: Vec<PortForward>,
}

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// `<portForward>`: ports of the host that lead to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// `proto=`
    pub protocol: Protocol,
    /// `address=`: the host's address; all of them when absent.
    pub address: Option<IpAddr>,
    /// `dev=`: the host's interface; all of them when absent.
    pub device: Option<String>,
    /// `<range>`; all ports when there is none.
    pub ranges: Vec<PortRange>,
}

/// `<range>`: at least one port, none of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub start: u16,
    /// The last one; not before the first.
    pub end: u16,
    /// The guest's port for the first; the same when absent.
    pub to: Option<u16>,
    /// These ports are not forwarded, out of a range around them.
    pub exclude: bool,
}
