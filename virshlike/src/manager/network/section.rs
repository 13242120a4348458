//! The parts of a network's definition that net-update changes entries of, under virsh's names, and
//! those that it cannot change, with libvirt's reason.

use crate::error::{Error, Kind, Result};
use std::str::FromStr;

/// Where entries stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `<ip><dhcp><host>`
    DhcpHost,
    /// `<ip><dhcp><range>`
    DhcpRange,
    /// `<dns><host>`
    DnsHost,
    /// `<dns><txt>`
    DnsTxt,
    /// `<dns><srv>`
    DnsSrv,
    /// `<forward><interface>`
    ForwardInterface,
    /// `<portgroup>`
    PortGroup,
    /// One that is known and has no entries to change, by its place in [`FIXED`].
    Fixed(usize),
}

/// Sections whose entries change.
const CHANGED: &[(&str, Section)] = &[
    ("ip-dhcp-host", Section::DhcpHost),
    ("ip-dhcp-range", Section::DhcpRange),
    ("dns-host", Section::DnsHost),
    ("dns-txt", Section::DnsTxt),
    ("dns-srv", Section::DnsSrv),
    ("forward-interface", Section::ForwardInterface),
    ("portgroup", Section::PortGroup),
];

/// Sections that libvirt names and changes no entry of: the word, and what its refusal calls it.
const FIXED: &[(&str, &str)] = &[
    ("bridge", "bridge"),
    ("domain", "domain"),
    ("ip", "ip"),
    ("forward", "forward"),
    ("forward-pf", "forward pf"),
];

impl Section {
    /// The element, and the attributes by which entries are known: one that is the same in both is
    /// enough, unless `whole`.
    pub(super) fn facts(self) -> (&'static str, &'static [&'static str], bool) {
        match self {
            Self::DhcpHost => ("host", &["mac", "id", "name", "ip"], false),
            Self::DhcpRange => ("range", &["start", "end"], true),
            Self::DnsHost => ("host", &["ip"], true),
            Self::DnsTxt => ("txt", &["name"], true),
            Self::DnsSrv => ("srv", &["service", "protocol", "domain", "target"], true),
            Self::ForwardInterface => ("interface", &["dev"], true),
            Self::PortGroup => ("portgroup", &["name"], true),
            Self::Fixed(_) => ("", &[], true),
        }
    }

    /// The path of the element that holds the entries, below the network.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::DhcpHost | Self::DhcpRange => "ip/dhcp",
            Self::DnsHost | Self::DnsTxt | Self::DnsSrv => "dns",
            Self::ForwardInterface => "forward",
            Self::PortGroup | Self::Fixed(_) => "",
        }
    }

    /// libvirt's refusal of changing an entry in place, where it has one.
    pub(super) fn refuse_modify(self) -> Result<()> {
        let entries = match self {
            Self::DhcpHost | Self::PortGroup | Self::Fixed(_) => return Ok(()),
            Self::DhcpRange => "dhcp ranges",
            Self::DnsHost => "DNS HOST records",
            Self::DnsTxt => "DNS TXT records",
            Self::DnsSrv => "DNS SRV records",
            Self::ForwardInterface => "forward interface entries",
        };
        let refusal = format!("{entries} cannot be modified, only added or deleted");
        Err(Error::invalid_operation(&refusal).hint("delete the old entry, then add the new one"))
    }

    /// libvirt's refusal of a section that has no entries.
    pub(super) fn refuse_fixed(self, network: &str) -> Result<()> {
        let Self::Fixed(place) = self else {
            return Ok(());
        };
        let name = FIXED.get(place).map_or("", |(_, name)| name);
        Err(Error::new(
            Kind::Unsupported,
            "this function is not supported by the connection driver",
        )
        .cause(format!(
            "can't update '{name}' section of network '{network}'"
        ))
        .hint(format!(
            "change it for the next start: vm net-edit {network}"
        )))
    }

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        if let Self::Fixed(place) = self {
            return FIXED.get(place).map_or("", |(word, _)| word);
        }
        let known = CHANGED.iter().find(|(_, section)| *section == self);
        known.map_or("", |(word, _)| word)
    }
}

impl FromStr for Section {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        if let Some((_, section)) = CHANGED.iter().find(|(known, _)| *known == word) {
            return Ok(*section);
        }
        let fixed = FIXED.iter().position(|(known, _)| *known == word);
        fixed.map(Self::Fixed).ok_or_else(|| {
            let words: Vec<&str> = CHANGED.iter().map(|(word, _)| *word).collect();
            format!("it is one of {}", words.join(", "))
        })
    }
}
