//! The host's interfaces over rtnetlink: bridges that are made and removed, and the addresses and
//! routes that the host has. One socket, one question at a time.

use crate::error::{Error, Kind, Result, plain_io};
use crate::model::{Route, Subnet, network_of};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

/// Hundredths of a second, in which bridges count.
const CENTISECONDS: u32 = 100;

/// A bridge to make.
#[derive(Debug)]
pub struct BridgePlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub mac: [u8; 6],
    /// Its MTU; the kernel's when absent.
    pub mtu: Option<u16>,
    /// The spanning tree protocol.
    pub stp: bool,
    /// Seconds until a port forwards.
    pub delay: u32,
}

/// An interface that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// Its address, of those that have one like Ethernet's.
    pub mac: Option<[u8; 6]>,
    /// Whether it is a Linux bridge.
    pub is_bridge: bool,
}

/// A network that the host can reach, and through which interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The network's first address.
    pub network: IpAddr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// The interface's number.
    pub index: u32,
}

/// The kernel's table of interfaces, addresses and routes.
pub struct Links {
    socket: Socket,
}

type Messages = Vec<RouteNetlinkMessage>;

impl Links {
    /// A conversation with the kernel.
    ///
    /// # Errors
    /// No socket of that kind.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket })
        };
        open().map_err(|error: io::Error| failed("ask the kernel for interfaces", &error))
    }

    /// An interface by name.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link_of(&link)),
                _ => None,
            })),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(&format!("find the interface {name}"), &error)),
        }
    }

    /// Makes a bridge that is switched off; its number.
    ///
    /// # Errors
    /// The name is taken, no right, or no bridges in this kernel.
    pub fn make_bridge(&self, plan: &BridgePlan<'_>) -> Result<u32> {
        let stp = match plan.stp {
            true => BridgeStpState::KernelStp,
            false => BridgeStpState::Disabled,
        };
        let data = vec![
            InfoBridge::ForwardDelay(plan.delay * CENTISECONDS),
            InfoBridge::StpState(stp),
        ];
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(plan.name.into()),
            LinkAttribute::Address(plan.mac.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(data)),
            ]),
        ]);
        if let Some(mtu) = plan.mtu {
            message.attributes.push(LinkAttribute::Mtu(u32::from(mtu)));
        }
        let what = format!("make the bridge {}", plan.name);
        self.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(|error| failed(&what, &error))?;
        let made = self.find(plan.name)?;
        let gone = || Error::new(Kind::Host, format!("cannot {what}")).cause("it is gone already");
        Ok(made.ok_or_else(gone)?.index)
    }

    /// Gives an interface an address, which it may use at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&self, index: u32, name: &str, subnet: &Subnet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(subnet.address);
        message.header.prefix_len = subnet.prefix;
        message.header.index = index;
        // Nobody else is on a bridge that was just made.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.extend([
            AddressAttribute::Local(subnet.address),
            AddressAttribute::Address(subnet.address),
        ]);
        if let (IpAddr::V4(address), 1..=30) = (subnet.address, subnet.prefix) {
            let hosts = u32::MAX >> subnet.prefix;
            let last = u32::from(address) | hosts;
            message
                .attributes
                .push(AddressAttribute::Broadcast(last.into()));
        }
        let what = format!("give {name} the address {}", subnet.address);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags)
            .map(drop)
            .map_err(|error| failed(&what, &error))
    }

    /// Switches an interface on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&self, index: u32, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|error| failed(&format!("switch {name} on"), &error))
    }

    /// Plugs an interface into a bridge.
    ///
    /// # Errors
    /// One of the two is not there, or what the kernel says.
    pub fn join(&self, name: &str, bridge: &str) -> Result<()> {
        let what = format!("plug {name} into {bridge}");
        let missing = |name: &str| {
            Error::new(Kind::NotFound, format!("cannot {what}"))
                .cause(format!("there is no interface {name}"))
        };
        let port = self.find(name)?.ok_or_else(|| missing(name))?;
        let bridge = self.find(bridge)?.ok_or_else(|| missing(bridge))?;
        let mut message = LinkMessage::default();
        message.header.index = port.index;
        message
            .attributes
            .push(LinkAttribute::Controller(bridge.index));
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|error| failed(&what, &error))
    }

    /// Adds a route through an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_route(&self, index: u32, name: &str, route: &Route) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.address);
        message.header.destination_prefix_length = route.prefix;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.extend([
            RouteAttribute::Destination(RouteAddress::from(route.address)),
            RouteAttribute::Gateway(RouteAddress::from(route.gateway)),
            RouteAttribute::Oif(index),
        ]);
        message
            .attributes
            .extend(route.metric.map(RouteAttribute::Priority));
        let what = format!(
            "make the route to {}/{} through {name}",
            route.address, route.prefix
        );
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.ask(RouteNetlinkMessage::NewRoute(message), flags)
            .map(drop)
            .map_err(|error| failed(&what, &error))
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// What the kernel says; one that is gone is fine.
    pub fn remove(&self, index: u32, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.ask(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                Err(failed(&format!("remove the bridge {name}"), &error))
            }
            _ => Ok(()),
        }
    }

    /// Names of all interfaces by their number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self) -> Result<BTreeMap<u32, String>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self
            .ask(message, NLM_F_DUMP)
            .map_err(|error| failed("list the interfaces", &error))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => {
                    let index = link.header.index;
                    link.attributes
                        .into_iter()
                        .find_map(|attribute| match attribute {
                            LinkAttribute::IfName(name) => Some((index, name)),
                            _ => None,
                        })
                }
                _ => None,
            })
            .collect())
    }

    /// The networks that the host reaches without a default route: its addresses' and its routes'.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reached(&self) -> Result<Vec<Reached>> {
        let list = |message| {
            self.ask(message, NLM_F_DUMP)
                .map_err(|error| failed("list the host's addresses and routes", &error))
        };
        let mut found: Vec<Reached> = Vec::new();
        for answer in list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                found.extend(address_of(&message));
            }
        }
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = address_family;
            for answer in list(RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    found.extend(route_of(&message));
                }
            }
        }
        // Link-local networks are on every interface.
        found.retain(|reached| match reached.network {
            IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_multicast(),
            IpAddr::V4(address) => !address.is_multicast(),
        });
        Ok(found)
    }

    /// The interfaces through which a default route goes that a router's advertisement made, by number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn advertised_defaults(&self) -> Result<BTreeSet<u32>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        let answers = self
            .ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(|error| failed("list the host's routes", &error))?;
        let mut found = BTreeSet::new();
        for answer in answers {
            let RouteNetlinkMessage::NewRoute(route) = answer else {
                continue;
            };
            let header = &route.header;
            if header.protocol == RouteProtocol::Ra && header.destination_prefix_length == 0 {
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Oif(index) => found.extend([*index]),
                        RouteAttribute::MultiPath(hops) => {
                            found.extend(hops.iter().map(|hop| hop.interface_index));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(found)
    }

    /// One question and all its answers.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Messages> {
        let mut packet =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        packet.header.sequence_number = 1;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
                // Messages are padded to four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        mac: None,
        is_bridge: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos
                    .iter()
                    .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            _ => {}
        }
    }
    link
}

fn address_of(message: &AddressMessage) -> Option<Reached> {
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })?;
    let prefix = message.header.prefix_len;
    Some(Reached {
        network: network_of(address, prefix),
        prefix,
        index: message.header.index,
    })
}

/// A route to somewhere in particular, in the table that everybody uses.
fn route_of(message: &RouteMessage) -> Option<Reached> {
    let header = &message.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast;
    let mut network = None;
    let mut index = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                network = Some(IpAddr::V4(*address));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                network = Some(IpAddr::V6(*address));
            }
            RouteAttribute::Oif(number) => index = *number,
            _ => {}
        }
    }
    let prefix = header.destination_prefix_length;
    (main && prefix > 0).then_some(Reached {
        network: network?,
        prefix,
        index,
    })
}

fn failed(what: &str, error: &io::Error) -> Error {
    let base = Error::new(Kind::Host, format!("cannot {what}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error {
            kind: Kind::Permission,
            ..base
        }
        .cause("it needs the right CAP_NET_ADMIN")
        .hint("run it as root"),
        io::ErrorKind::AlreadyExists => Error {
            kind: Kind::Exists,
            ..base
        }
        .cause("an interface, address or route of that name exists already"),
        io::ErrorKind::Unsupported => base
            .cause(plain_io(error))
            .hint("load the module: modprobe bridge"),
        _ => base.cause(plain_io(error)),
    }
}
