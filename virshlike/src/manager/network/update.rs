//! net-update: single entries of a network's definition, and of the network that was started with
//! it. An entry is given as the XML element that it is.

use super::run::refuse_kept;
pub use super::section::Section;
use super::{Checked, Found, Networks, check};
use crate::error::{Error, Kind, Result};
use crate::manager::definition::mistakes;
use crate::model;
use crate::xml::{Document, Edits, Element, NewElement, NodeId};
use std::net::IpAddr;

/// What is done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Put in front of the others.
    AddFirst,
    /// Put behind the others.
    AddLast,
    /// Put in place of the one that it is about.
    Modify,
    /// The one that it is about is removed.
    Delete,
}

impl Command {
    fn adds(self) -> bool {
        matches!(self, Self::AddFirst | Self::AddLast)
    }

    /// virsh's word.
    fn as_str(self) -> &'static str {
        match self {
            Self::AddFirst => "add-first",
            Self::AddLast => "add",
            Self::Modify => "modify",
            Self::Delete => "delete",
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
        change.section.refuse_fixed(&found.name)?;
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
        // Whatever can refuse is asked before the definition gets its name; held until it has it.
        let writer = config.then(|| self.store.writer()).transpose()?;
        let staged = match (&writer, &stored) {
            (Some(writer), Some(stored)) => {
                Some(writer.stage(&found.name, stored.document.as_str())?)
            }
            _ => None,
        };
        let before = running
            .is_some()
            .then(|| self.current(&found))
            .transpose()?;
        if let Some(running) = &running {
            self.serve(&found, running)?;
        }
        if let Some(staged) = staged
            && let Err(error) = staged.commit()
        {
            if let Some(before) = before {
                // What it says is told by its not serving.
                let _ = self.serve(&found, &before);
            }
            return Err(error);
        }
        drop(writer);
        let detail = format!("{} {}", change.command.as_str(), change.section.as_str());
        self.manager
            .note(found.uuid, "net-update", &found.name, &detail);
        Ok(())
    }

    /// Gives the host other rules and the server other settings; the old ones when they are refused.
    fn serve(&self, found: &Found, new: &Checked) -> Result<()> {
        let Some(record) = &found.record else {
            return Ok(());
        };
        refuse_kept(&new.model)?;
        let old = self.current(found)?;
        let before = self.plan(&old.model, record);
        let after = self.plan(&new.model, record);
        if let Err(error) = after.take_over(&before) {
            // What it says the second time is told by its not serving.
            let _ = before.take_over(&after);
            return Err(error);
        }
        self.dir(found.uuid).write_live(new.document.as_str())
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
    if change.command == Command::Modify {
        change.section.refuse_modify()?;
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
    match change.section.path() {
        "" => return Ok(Holder::There(root)),
        "dns" => {
            return Ok(match root.child("dns") {
                Some(dns) => Holder::There(dns),
                None => Holder::Missing(root.id(), "dns"),
            });
        }
        "forward" => {
            let forward = root.child("forward").map(Holder::There);
            return forward.ok_or_else(|| {
                Error::invalid_operation(
                    "the network has no <forward>: it goes through no interface",
                )
            });
        }
        _ => {}
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
    let path = change.section.path();
    let order = model::network_order(path);
    let around = model::network_order(path.rsplit_once('/').map_or("", |(around, _)| around));
    let same = match &holder {
        Holder::There(parent) => parent
            .children_named(name)
            .find(|old| is_same(*old, entry, change)),
        Holder::Missing(..) => None,
    };
    let exists = |what: String| {
        let message = format!("there is an existing entry of {section} that matches it");
        let hint = "change it with 'modify', or remove it with 'delete' first";
        Err(Error::new(Kind::Exists, message).cause(what).hint(hint))
    };
    if let Some(forward) = named(&holder, entry, change.section) {
        if change.command.adds() {
            return exists(format!(
                "<forward dev='{}'>",
                forward.value("dev").unwrap_or_default()
            ));
        }
        edits.remove_attribute(forward.id(), "dev");
        if let Some(old) = same {
            edits.remove(old.id());
        }
        return Ok(());
    }
    match (change.command, same, holder) {
        (command, Some(old), _) if command.adds() => exists(old.source().to_string()),
        (Command::AddFirst, None, Holder::There(parent)) => {
            edits.insert_first(parent.id(), new(), order);
            Ok(())
        }
        (Command::AddLast, None, Holder::There(parent)) => {
            edits.insert(parent.id(), new(), order);
            Ok(())
        }
        (command, None, Holder::Missing(parent, element)) if command.adds() => {
            edits.insert(parent, NewElement::new(element).child(new()), around);
            Ok(())
        }
        (Command::Modify, Some(old), _) => {
            edits.replace(old.id(), new());
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

/// The `<forward dev=...>` that names the interface of an entry: it stands for an entry too.
fn named<'a>(holder: &Holder<'a>, entry: Element<'_>, section: Section) -> Option<Element<'a>> {
    match holder {
        Holder::There(forward) if section == Section::ForwardInterface => {
            let dev = forward.value("dev");
            (dev.is_some() && dev == entry.value("dev")).then_some(*forward)
        }
        _ => None,
    }
}

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
        Command::AddFirst | Command::AddLast if !whole => known.contains(&true),
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
        let text = after(Command::AddLast, host, two).unwrap();
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
        let text = after(Command::AddLast, Section::DnsHost, dns).unwrap();
        assert!(
            text.contains("<dns>") && text.find("<dns>") < text.find("<ip "),
            "{text}"
        );
    }

    #[test]
    fn entries_find_libvirts_place_among_the_others() {
        let group = "<portgroup name='web'/>";
        let text = after(Command::AddLast, Section::PortGroup, group).unwrap();
        assert!(
            text.ends_with(&format!("</ip>\n  {group}\n</network>\n")),
            "{text}"
        );
        let range = "<range start='10.0.0.7' end='10.0.0.8'/>";
        let text = after(Command::AddLast, Section::DhcpRange, range).unwrap();
        assert!(text.find(range) < text.find("<host"), "{text}");
    }

    #[test]
    fn interfaces_are_those_of_forward() {
        let section = Section::ForwardInterface;
        let dev = |name: &str| format!("<interface dev='{name}'/>");
        let error = after(Command::AddLast, section, &dev("eth0")).unwrap_err();
        assert!(error.message.contains("no <forward>"), "{error}");
        let net = NET.replace("  <ip", "  <forward mode='nat' dev='eth0'/>\n  <ip");
        let changed = |net: &str, command, name: &str| {
            let checked = check(net, "n.xml").unwrap();
            let xml = dev(name);
            let change = Change {
                command,
                section,
                xml: &xml,
                parent: None,
            };
            changed(&checked, change).map(|checked| checked.document.text())
        };
        let bare = changed(&net, Command::Delete, "eth0").unwrap();
        assert!(bare.contains("<forward mode='nat'/>"), "{bare}");
        let added = changed(&bare, Command::AddLast, "eth0").unwrap();
        assert!(added.contains(&dev("eth0")), "{added}");
        for known in [&net, &added] {
            let error = changed(known, Command::AddFirst, "eth0").unwrap_err();
            assert_eq!(error.kind, Kind::Exists);
            assert!(changed(known, Command::Modify, "eth0").is_err());
        }
        // libvirt too forwards through one at most.
        let second = changed(&added, Command::AddLast, "eth1").unwrap_err();
        assert!(second.to_string().contains("one interface"), "{second:?}");
        let removed = changed(&added, Command::Delete, "eth0").unwrap();
        assert!(!removed.contains("eth0"), "{removed}");
    }

    #[test]
    fn first_is_in_front_of_its_like_and_changed_entries_keep_their_place() {
        let host =
            |number: u8| format!("<host mac='52:54:00:00:00:0{number}' ip='10.0.0.{number}'/>");
        let (two, three) = (host(2), host(3));
        let text = after(Command::AddFirst, Section::DhcpHost, &two).unwrap();
        assert!(text.find(&two) < text.find("name='a'"), "{text}");
        let range = "<range start='10.0.0.7' end='10.0.0.8'/>";
        let net = NET.replace(
            "      <host",
            &format!("      {range}\n      {two}\n      <host"),
        );
        let after = |command, xml: &str| {
            let change = Change {
                command,
                section: Section::DhcpHost,
                xml,
                parent: None,
            };
            let changed = changed(&check(&net, "n.xml").unwrap(), change);
            changed.map(|checked| checked.document.text()).unwrap()
        };
        let text = after(Command::AddFirst, &three);
        let places = [range, &three, &two, "name='a'"].map(|part| text.find(part));
        assert!(places.is_sorted() && places[0].is_some(), "{text}");
        let other = two.replace("10.0.0.2", "10.0.0.4");
        let text = after(Command::Modify, &other);
        assert_eq!(text, net.replace(&two, &other));
    }

    #[test]
    fn what_libvirt_does_not_modify_is_not() {
        for (section, xml) in [
            (
                Section::DhcpRange,
                "<range start='10.0.0.7' end='10.0.0.8'/>",
            ),
            (
                Section::DnsHost,
                "<host ip='10.0.0.9'><hostname>x</hostname></host>",
            ),
            (Section::DnsTxt, "<txt name='x' value='y'/>"),
            (Section::DnsSrv, "<srv service='x' protocol='tcp'/>"),
            (Section::ForwardInterface, "<interface dev='eth0'/>"),
        ] {
            let error = after(Command::Modify, section, xml).unwrap_err();
            let words = "cannot be modified, only added or deleted";
            assert!(error.message.ends_with(words), "{error}");
        }
    }

    #[test]
    fn every_section_of_virsh_is_known_and_some_never_change() {
        for word in [
            "bridge",
            "domain",
            "ip",
            "forward",
            "forward-pf",
            "ip-dhcp-host",
            "ip-dhcp-range",
            "forward-interface",
            "portgroup",
            "dns-host",
            "dns-txt",
            "dns-srv",
        ] {
            let section: Section = word.parse().unwrap();
            assert_eq!(section.as_str(), word);
            let refused = section.refuse_fixed("n").is_err();
            assert_eq!(refused, matches!(section, Section::Fixed(_)), "{word}");
        }
        let refused = Section::Fixed(4).refuse_fixed("n").unwrap_err();
        assert_eq!(
            refused.causes,
            ["can't update 'forward pf' section of network 'n'"]
        );
        assert!("nonsense".parse::<Section>().is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let host = Section::DhcpHost;
        for (command, section, xml) in [
            (
                Command::AddLast,
                host,
                "<host mac='52:54:00:00:00:09' ip='10.0.0.5'/>",
            ),
            (
                Command::AddLast,
                host,
                "<host mac='52:54:00:00:00:09' ip='10.0.9.5'/>",
            ),
            (
                Command::AddLast,
                host,
                "<range start='10.0.0.7' end='10.0.0.8'/>",
            ),
            (
                Command::AddLast,
                host,
                "<host mac='52:54:00:00:00:09' ip='fd00::1'/>",
            ),
            (Command::Delete, host, "<host mac='52:54:00:00:00:09'/>"),
            (Command::Modify, Section::DnsHost, "<host ip='10.0.0.9'/>"),
            (Command::AddLast, Section::DnsTxt, "<txt name='a'"),
        ] {
            assert!(after(command, section, xml).is_err(), "{command:?} {xml}");
        }
    }
}
