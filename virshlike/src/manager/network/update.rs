//! net-update: single entries of a network's definition, and of the network that was started with
//! it. An entry is given as the XML element that it is.

use super::{Checked, Found, Networks, check};
use crate::error::{Error, Kind, Result};
use crate::manager::definition::mistakes;
use crate::model::Network;
use crate::runtime::network::dnsmasq;
use crate::xml::{Document, Edits, Element, NewElement, NodeId};
use std::net::IpAddr;

/// What is done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Put behind the others.
    Add,
    /// Put in place of the one that it is about.
    Modify,
    /// The one that it is about is removed.
    Delete,
}

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
}

impl Section {
    /// The element, and the attributes by which entries are known: one that is the same in both is
    /// enough, unless `whole`.
    fn facts(self) -> (&'static str, &'static [&'static str], bool) {
        match self {
            Self::DhcpHost => ("host", &["mac", "id", "name", "ip"], false),
            Self::DhcpRange => ("range", &["start", "end"], true),
            Self::DnsHost => ("host", &["ip"], true),
            Self::DnsTxt => ("txt", &["name"], true),
            Self::DnsSrv => ("srv", &["service", "protocol", "domain", "target"], true),
        }
    }

    fn is_of_address(self) -> bool {
        matches!(self, Self::DhcpHost | Self::DhcpRange)
    }

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DhcpHost => "ip-dhcp-host",
            Self::DhcpRange => "ip-dhcp-range",
            Self::DnsHost => "dns-host",
            Self::DnsTxt => "dns-txt",
            Self::DnsSrv => "dns-srv",
        }
    }
}

/// A change of one entry.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What is done.
    pub command: Command,
    /// Where.
    pub section: Section,
    /// The entry.
    pub xml: &'a str,
    /// Which `<ip>` it is of; the first that fits when absent.
    pub parent: Option<usize>,
}

impl Networks<'_> {
    /// Changes an entry of the definition on disk (`config`), of the active network (`live`), or of
    /// both. Nothing is changed unless both changes are right.
    ///
    /// # Errors
    /// An entry that is wrong, there already or not there; a network that is not active or has no
    /// definition; a server that does not take it, which then has its old settings.
    pub fn update(
        &self,
        found: &Found,
        change: Change<'_>,
        live: bool,
        config: bool,
    ) -> Result<()> {
        self.sweep();
        let _network = self.lock(found.uuid, &found.name)?;
        let record = self.active(found.uuid);
        if live && record.is_none() {
            return Err(Error::invalid_operation("network is not running"));
        }
        let found = Found {
            record,
            ..found.clone()
        };
        let stored = config
            .then(|| changed(&self.stored(&found)?.1, change))
            .transpose()?;
        let running = live
            .then(|| changed(&self.current(&found)?, change))
            .transpose()?;
        // The server first: it is the one that may refuse.
        if let Some(running) = running {
            self.serve(&found, &running)?;
        }
        if let Some(stored) = stored {
            let writer = self.store.writer()?;
            writer.put(&found.name, stored.document.as_str())?;
        }
        let detail = format!("{:?} {}", change.command, change.section.as_str());
        self.manager.note(
            found.uuid,
            "net-update",
            &found.name,
            &detail.to_lowercase(),
        );
        Ok(())
    }

    /// Gives the server other settings; the old ones when it does not take them.
    fn serve(&self, found: &Found, new: &Checked) -> Result<()> {
        let Some(record) = &found.record else {
            return Ok(());
        };
        let dir = self.dir(found.uuid);
        let leases = self.store.layout().leases(found.uuid);
        let restart = |network: &Network| {
            dnsmasq::stop(dir.path());
            match dnsmasq::is_needed(network) {
                true => dnsmasq::start(network, record, dir.path(), &leases),
                false => Ok(()),
            }
        };
        let old = self.current(found)?;
        if let Err(error) = restart(&new.model) {
            // What it says the second time is told by its not serving.
            let _ = restart(&old.model);
            return Err(error);
        }
        dir.write_live(new.document.as_str())
    }
}

/// A definition with the change in it.
fn changed(checked: &Checked, change: Change<'_>) -> Result<Checked> {
    let mut document = checked.document.clone();
    let entry =
        Document::parse(change.xml.trim(), "the entry").map_err(|found| mistakes(&found))?;
    let root = entry.root();
    let (name, _, _) = change.section.facts();
    if root.name() != name {
        return Err(Error::new(
            Kind::Definition,
            format!(
                "<{}> is no entry of {}",
                root.name(),
                change.section.as_str()
            ),
        )
        .hint(format!("it takes an element <{name} .../>")));
    }
    let mut edits = Edits::new();
    edit(&document, root, change, &mut edits)?;
    document.apply(edits).map_err(|found| mistakes(&found))?;
    let file = document.file_name().to_string();
    check(document.as_str(), &file)
}

/// Where entries of a section stand: the element that holds them, and what has to be made for it.
enum Holder<'a> {
    There(Element<'a>),
    /// An element of this name has to be put into this one.
    Missing(NodeId, &'static str),
}

fn holder<'a>(
    document: &'a Document,
    entry: Element<'_>,
    change: Change<'_>,
) -> Result<Holder<'a>> {
    let root = document.root();
    if !change.section.is_of_address() {
        return Ok(match root.child("dns") {
            Some(dns) => Holder::There(dns),
            None => Holder::Missing(root.id(), "dns"),
        });
    }
    let address = ["ip", "start"].iter().find_map(|name| entry.value(name));
    let v6 = matches!(address.map(str::parse::<IpAddr>), Some(Ok(IpAddr::V6(_))))
        || entry.value("id").is_some();
    let fits = |ip: &Element<'_>| (ip.value("family") == Some("ipv6")) == v6;
    let all: Vec<Element<'a>> = root.children_named("ip").collect();
    let ip = match change.parent {
        Some(index) => all.get(index).copied(),
        None => {
            let served = |ip: &&Element<'_>| fits(ip) && ip.child("dhcp").is_some();
            all.iter()
                .find(served)
                .or_else(|| all.iter().find(|ip| fits(ip)))
                .copied()
        }
    };
    let ip = ip.ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            "the network has no <ip> that this entry fits",
        )
        .hint("look at it: vm net-dumpxml NETWORK")
    })?;
    Ok(match ip.child("dhcp") {
        Some(dhcp) => Holder::There(dhcp),
        None => Holder::Missing(ip.id(), "dhcp"),
    })
}

fn edit(
    document: &Document,
    entry: Element<'_>,
    change: Change<'_>,
    edits: &mut Edits,
) -> Result<()> {
    let (name, _, _) = change.section.facts();
    let new = || NewElement::verbatim(name, entry.source());
    let section = change.section.as_str();
    let holder = holder(document, entry, change)?;
    let same = match &holder {
        Holder::There(parent) => parent
            .children_named(name)
            .find(|old| is_same(*old, entry, change)),
        Holder::Missing(..) => None,
    };
    match (change.command, same, holder) {
        (Command::Add, Some(old), _) => Err(Error::new(
            Kind::Exists,
            format!("there is an existing entry of {section} that matches it"),
        )
        .cause(old.source().to_string())
        .hint("change it with 'modify', or remove it with 'delete' first")),
        (Command::Add, None, Holder::There(parent)) => {
            edits.insert(parent.id(), new(), ORDER);
            Ok(())
        }
        (Command::Add, None, Holder::Missing(parent, element)) => {
            edits.insert(parent, NewElement::new(element).child(new()), ORDER);
            Ok(())
        }
        (Command::Modify, Some(old), Holder::There(parent)) => {
            edits.remove(old.id());
            edits.insert(parent.id(), new(), ORDER);
            Ok(())
        }
        (Command::Delete, Some(old), _) => {
            edits.remove(old.id());
            Ok(())
        }
        _ => Err(Error::new(
            Kind::NotFound,
            format!("there is no entry of {section} that matches it"),
        )
        .hint("look at them: vm net-dumpxml NETWORK")),
    }
}

/// libvirt's order, as far as an entry or its holder has to find its place.
const ORDER: &[&str] = &[
    "name",
    "uuid",
    "title",
    "description",
    "metadata",
    "forward",
    "bridge",
    "mtu",
    "mac",
    "domain",
    "dns",
    "ip",
    "forwarder",
    "txt",
    "srv",
    "tftp",
    "dhcp",
    "range",
    "host",
    "bootp",
];

/// Whether an entry is about the one that is there.
fn is_same(old: Element<'_>, new: Element<'_>, change: Change<'_>) -> bool {
    let (_, names, whole) = change.section.facts();
    let equal = |name: &str| match (old.value(name), new.value(name)) {
        (Some(old), Some(new)) => Some(old.eq_ignore_ascii_case(new)),
        _ => None,
    };
    let known: Vec<bool> = names.iter().filter_map(|name| equal(name)).collect();
    match change.command {
        // One that is known by its card or id gets another name or address.
        Command::Modify if change.section == Section::DhcpHost => {
            let by = ["mac", "id"].iter().find_map(|name| equal(name));
            by.unwrap_or_else(|| known.contains(&true))
        }
        Command::Add if !whole => known.contains(&true),
        _ => !known.is_empty() && known.iter().all(|same| *same),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: &str = "<network>\n  <name>n</name>\n  <ip address='10.0.0.1' prefix='24'>\n    <dhcp>\n      \
                       <host mac='52:54:00:00:00:01' name='a' ip='10.0.0.5'/>\n    </dhcp>\n  </ip>\n</network>\n";

    fn after(command: Command, section: Section, xml: &str) -> Result<String> {
        let checked = check(NET, "n.xml").unwrap();
        let change = Change {
            command,
            section,
            xml,
            parent: None,
        };
        changed(&checked, change).map(|checked| checked.document.text())
    }

    #[test]
    fn entries_are_added_changed_and_removed_where_they_belong() {
        let host = Section::DhcpHost;
        let two = "<host mac='52:54:00:00:00:02' ip='10.0.0.6'/>";
        let text = after(Command::Add, host, two).unwrap();
        assert!(
            text.contains(&format!("ip='10.0.0.5'/>\n      {two}\n    </dhcp>")),
            "{text}"
        );
        let text = after(
            Command::Modify,
            host,
            "<host mac='52:54:00:00:00:01' name='b' ip='10.0.0.7'/>",
        )
        .unwrap();
        assert!(
            text.contains("'10.0.0.7'") && !text.contains("'10.0.0.5'"),
            "{text}"
        );
        let text = after(Command::Delete, host, "<host mac='52:54:00:00:00:01'/>").unwrap();
        assert!(!text.contains("<host"), "{text}");
        let dns = "<host ip='10.0.0.9'><hostname>x</hostname></host>";
        let text = after(Command::Add, Section::DnsHost, dns).unwrap();
        assert!(
            text.contains("<dns>") && text.find("<dns>") < text.find("<ip "),
            "{text}"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let host = Section::DhcpHost;
        for (command, section, xml) in [
            (
                Command::Add,
                host,
                "<host mac='52:54:00:00:00:09' ip='10.0.0.5'/>",
            ),
            (
                Command::Add,
                host,
                "<host mac='52:54:00:00:00:09' ip='10.0.9.5'/>",
            ),
            (
                Command::Add,
                host,
                "<range start='10.0.0.7' end='10.0.0.8'/>",
            ),
            (
                Command::Add,
                host,
                "<host mac='52:54:00:00:00:09' ip='fd00::1'/>",
            ),
            (Command::Delete, host, "<host mac='52:54:00:00:00:09'/>"),
            (Command::Modify, Section::DnsHost, "<host ip='10.0.0.9'/>"),
            (Command::Add, Section::DnsTxt, "<txt name='a'"),
        ] {
            assert!(after(command, section, xml).is_err(), "{command:?} {xml}");
        }
    }
}
