//! net-start, net-create, net-destroy, repairs, and what guests are plugged into.

use super::{Checked, Found, Networks, check};
use crate::error::{Error, Kind, Result};
use crate::manager::definition::mistakes;
use crate::model::{self, InterfaceSource, Network};
use crate::runtime::network::link::Links;
use crate::runtime::network::record::{self, NETWORK_RECORD_VERSION, NetworkRecord, Phase};
use crate::runtime::network::{self as host, Fault, firewall};
use crate::runtime::record::Port;
use crate::store::{Lock, fault};
use std::collections::BTreeMap;
use std::net::IpAddr;
use uuid::Uuid;

/// A network that was started.
#[derive(Debug)]
pub struct Raised {
    /// Its name.
    pub name: String,
    /// What works and may surprise.
    pub warnings: Vec<String>,
    /// Whether it was active and something of it was put back.
    pub repaired: bool,
}

/// What a card of a guest is plugged into.
#[derive(Debug, Clone)]
pub struct Plug {
    /// What is written down of it.
    pub port: Port,
    /// The network's MTU.
    pub mtu: Option<u16>,
}

impl Networks<'_> {
    pub(super) fn lock(&self, uuid: Uuid, name: &str) -> Result<Lock> {
        self.store.lock(uuid, &format!("network '{name}'"))
    }

    /// Clears away what interrupted starts and ends left. What cannot be cleared stays for the next.
    pub(crate) fn sweep(&self) {
        for (dir, record) in record::all(self.run()) {
            if record.phase == Phase::Active {
                continue;
            }
            let Some(_network) = self.store.try_lock_domain(record.uuid, &record.name) else {
                continue;
            };
            // Another command may have been faster.
            if dir.record().is_some_and(|now| now.phase != Phase::Active)
                && let Err(error) = self.take_down(&record)
            {
                tracing::warn!("network '{}' is left half: {error}", record.name);
            }
        }
    }

    /// Starts a defined network, or puts back what is missing of an active one.
    ///
    /// # Errors
    /// It is active and whole; its definition cannot be honoured; something it needs is missing or
    /// taken. Nothing of it is then left.
    pub fn start(&self, found: &Found) -> Result<Raised> {
        self.sweep();
        let _network = self.lock(found.uuid, &found.name)?;
        if let Some(record) = self.active(found.uuid) {
            let found = Found {
                record: Some(record.clone()),
                ..found.clone()
            };
            let faults = self.faults(&found)?;
            if faults.is_empty() {
                return Err(Error::invalid_operation("network is already active"));
            }
            return self.repair(&found, &record, &faults);
        }
        let (text, mut checked) = self.stored(found)?;
        checked.model.uuid = checked.model.uuid.or(Some(found.uuid));
        self.complete(&mut checked)?;
        if checked.document.as_str() != text {
            self.store
                .writer()?
                .put(&found.name, checked.document.as_str())?;
        }
        let raised = self.raise(&checked, found.uuid, false)?;
        self.manager.note(found.uuid, "net-start", &found.name, "");
        Ok(raised)
    }

    /// Starts a network that has no definition on disk.
    ///
    /// # Errors
    /// As [`Networks::start`], and a name, UUID or bridge that is taken.
    pub fn create(&self, text: &str, file: &str) -> Result<Raised> {
        self.sweep();
        let mut checked = check(text, file)?;
        let uuid = self.complete(&mut checked)?;
        let name = checked.model.name.clone();
        let _network = self.lock(uuid, &name)?;
        self.refuse_conflict(&checked.model, uuid)?;
        if self.active(uuid).is_some() {
            let why = format!("network '{name}' is already active");
            return Err(Error::invalid_operation(&why));
        }
        let transient = self.store.read(&name)?.is_none();
        let raised = self.raise(&checked, uuid, transient)?;
        self.manager.note(uuid, "net-create", &name, "");
        Ok(raised)
    }

    fn raise(&self, checked: &Checked, uuid: Uuid, transient: bool) -> Result<Raised> {
        let network = &checked.model;
        refuse_kept(network)?;
        let bridge = network.bridge.name.clone().unwrap_or_default();
        let makes = network.forward.mode.makes_bridge();
        let mut record = NetworkRecord {
            version: NETWORK_RECORD_VERSION,
            name: network.name.clone(),
            uuid,
            phase: Phase::Starting,
            transient,
            rules: firewall::script(network, &bridge).is_some(),
            mac: network.mac.filter(|_| makes),
            bridge,
        };
        let dir = self.dir(uuid);
        let plan = self.plan(network, &record);
        plan.check_tools()?;
        refuse_taken(network, &record.bridge)?;
        dir.write(&record)?;
        fault::point("net-start.recorded");
        let made = dir
            .write_live(checked.document.as_str())
            .and_then(|()| plan.raise(&[Fault::Bridge, Fault::Rules, Fault::Server]));
        let mut warnings = match made {
            Ok(warnings) => warnings,
            Err(error) => return Err(self.undo(&record, error)),
        };
        record.phase = Phase::Active;
        if let Err(error) = dir.write(&record) {
            return Err(self.undo(&record, error));
        }
        warnings.extend(self.plug_again(&record));
        Ok(Raised {
            name: record.name,
            warnings,
            repaired: false,
        })
    }

    /// Undoes a started network, or what there is of one.
    fn take_down(&self, record: &NetworkRecord) -> Result<()> {
        let leases = self.store.layout().leases(record.uuid);
        host::take_down(record, &self.dir(record.uuid), &leases)
    }

    /// Takes down what a failed start has made, and says so where that fails too.
    fn undo(&self, record: &NetworkRecord, error: Error) -> Error {
        match self.take_down(record) {
            Ok(()) => error,
            Err(left) => error.cause(format!("and what was made is left: {left}")),
        }
    }

    fn repair(&self, found: &Found, record: &NetworkRecord, faults: &[Fault]) -> Result<Raised> {
        let checked = self.current(found)?;
        let plan = self.plan(&checked.model, record);
        plan.check_tools()?;
        let mut missing = faults.to_vec();
        if missing.contains(&Fault::Bridge) {
            refuse_taken(&checked.model, &record.bridge)?;
            // It listens on the bridge that was there.
            missing.push(Fault::Server);
        }
        let mut warnings: Vec<String> = faults
            .iter()
            .map(|fault| {
                format!(
                    "network '{}': {}; it was put back",
                    found.name,
                    fault.as_str()
                )
            })
            .collect();
        warnings.extend(plan.raise(&missing)?);
        if missing.contains(&Fault::Bridge) {
            warnings.extend(self.plug_again(record));
        }
        let why: Vec<&str> = faults.iter().map(|fault| fault.as_str()).collect();
        self.manager
            .note(found.uuid, "net-start", &found.name, &why.join(", "));
        Ok(Raised {
            name: found.name.clone(),
            warnings,
            repaired: true,
        })
    }

    /// Guests that were plugged in before are plugged in again; says which could not be.
    fn plug_again(&self, record: &NetworkRecord) -> Vec<String> {
        let mut failed = Vec::new();
        for (guest, tap) in self.ports(record.uuid).unwrap_or_default() {
            let joined = Links::open().and_then(|links| links.join(&tap, &record.bridge));
            if let Err(error) = joined {
                failed.push(format!("domain '{guest}' is not plugged in: {error}"));
            }
        }
        failed
    }

    /// Ends an active network. The names of the guests that were plugged in come back.
    ///
    /// # Errors
    /// It is not active, or a part of it cannot be removed; the next command goes on with it.
    pub fn destroy(&self, found: &Found) -> Result<Vec<String>> {
        self.sweep();
        let _network = self.lock(found.uuid, &found.name)?;
        let Some(record) = self.active(found.uuid) else {
            return Err(Error::invalid_operation(&format!(
                "network '{}' is not active",
                found.name
            )));
        };
        let mut guests: Vec<String> = self
            .ports(found.uuid)?
            .into_iter()
            .map(|(g, _)| g)
            .collect();
        guests.dedup();
        let dir = self.dir(found.uuid);
        let record = NetworkRecord {
            phase: Phase::Stopping,
            ..record
        };
        dir.write(&record)?;
        fault::point("net-destroy.recorded");
        self.take_down(&record)?;
        self.manager
            .note(found.uuid, "net-destroy", &found.name, "");
        Ok(guests)
    }

    /// Starts every network that starts with the host and is not active. `told` hears of each.
    ///
    /// # Errors
    /// A store that cannot be read, or what `told` says.
    pub fn autostart_all(
        &self,
        mut told: impl FnMut(&str, Result<Raised>) -> Result<()>,
    ) -> Result<()> {
        for facts in self.list()? {
            let down = !facts.active || !facts.faults.is_empty();
            if facts.autostart && down {
                let found = self.find(&facts.name)?;
                told(&facts.name, self.start(&found))?;
            }
        }
        Ok(())
    }

    /// What the cards of a domain are plugged into, by their alias, and what may surprise. An active
    /// network with a part missing is repaired.
    ///
    /// # Errors
    /// A network that is not there or not active.
    pub(crate) fn plugs(
        &self,
        domain: &model::Domain,
    ) -> Result<(BTreeMap<String, Plug>, Vec<String>)> {
        let mut plugs = BTreeMap::new();
        let mut warnings = Vec::new();
        for card in &domain.interfaces {
            let InterfaceSource::Network(name) = &card.source else {
                continue;
            };
            let found = self.find(name).map_err(missing)?;
            let Some(record) = &found.record else {
                let why = format!("network '{}' is not active", found.name);
                return Err(Error::invalid_operation(&why)
                    .hint(format!("vm net-start {}", found.name))
                    .hint(format!(
                        "with the host from now on: vm net-autostart {}",
                        found.name
                    )));
            };
            if !self.faults(&found)?.is_empty() {
                match self.start(&found) {
                    Ok(raised) => warnings.extend(raised.warnings),
                    // Another command repaired it.
                    Err(error) if error.kind == Kind::State => {}
                    Err(error) => {
                        return Err(error.context(format!("cannot repair network '{name}'")));
                    }
                }
            }
            let checked = self.current(&found)?;
            let port = Port {
                network: found.uuid,
                name: found.name.clone(),
                bridge: record.bridge.clone(),
                id: Uuid::new_v4(),
            };
            let mtu = checked.model.mtu;
            plugs.insert(card.alias.clone(), Plug { port, mtu });
        }
        Ok((plugs, warnings))
    }
}

/// libvirt's words for a network that is not there.
fn missing(mut error: Error) -> Error {
    if error.kind == Kind::NotFound && !error.causes.is_empty() {
        error.message = error.causes.remove(0);
    }
    error
}

/// Parts that a definition may keep and that this build cannot do.
pub(super) fn refuse_kept(network: &Network) -> Result<()> {
    let kept = network.refusals_at_start();
    if kept.is_empty() {
        return Ok(());
    }
    let mut error = mistakes(&kept);
    error.kind = Kind::Unsupported;
    error.message = "the definition asks for what this build cannot do".into();
    Err(error.hint(format!("take it out for now: vm net-edit {}", network.name)))
}

/// Refuses a bridge that is there already, and addresses that the host reaches elsewhere; with a
/// bridge of the host's own, one that is not there.
fn refuse_taken(network: &Network, bridge: &str) -> Result<()> {
    let links = Links::open()?;
    let there = links.find(bridge)?;
    if !network.forward.mode.makes_bridge() {
        return match there {
            Some(link) if link.is_bridge => Ok(()),
            Some(_) => Err(Error::new(
                Kind::Host,
                format!("{bridge} is no Linux bridge"),
            )),
            None => Err(
                Error::new(Kind::NotFound, format!("there is no bridge '{bridge}'")).hint(format!(
                    "make it: ip link add {bridge} type bridge && ip link set {bridge} up"
                )),
            ),
        };
    }
    if there.is_some() {
        return Err(Error::new(
            Kind::Exists,
            format!("the interface {bridge} exists already"),
        )
        .cause("it was not made for this network, so it is left alone")
        .hint(format!("remove it: ip link delete {bridge}"))
        .hint(format!(
            "or let another name be found: vm net-edit {}, without name= of <bridge>",
            network.name
        )));
    }
    let reached = links.reached()?;
    for subnet in &network.subnets {
        let (net, bits) = (subnet.network(), subnet.prefix);
        let clash = reached
            .iter()
            .find(|other| overlap((net, bits), (other.network, other.prefix)));
        let Some(other) = clash else { continue };
        let names = links.names()?;
        let name = names.get(&other.index).cloned().unwrap_or_default();
        let mut error = Error::new(
            Kind::Exists,
            format!("Network is already in use by interface {name}"),
        )
        .cause(format!(
            "{net}/{bits} overlaps {}/{}",
            other.network, other.prefix
        ))
        .hint(format!(
            "give it other addresses: vm net-edit {}",
            network.name
        ));
        if let Some(free) = free_network(&reached) {
            error = error.hint(format!("free here: {free}/24"));
        }
        return Err(error);
    }
    Ok(())
}

fn overlap(one: (IpAddr, u8), other: (IpAddr, u8)) -> bool {
    let bits = one.1.min(other.1);
    one.0.is_ipv4() == other.0.is_ipv4()
        && model::network_of(one.0, bits) == model::network_of(other.0, bits)
}

/// The first of libvirt's usual networks that the host does not reach elsewhere.
fn free_network(reached: &[crate::runtime::network::link::Reached]) -> Option<IpAddr> {
    (122..=254u8)
        .map(|third| IpAddr::from([192, 168, third, 0]))
        .find(|net| {
            !reached
                .iter()
                .any(|r| overlap((*net, 24), (r.network, r.prefix)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_when_one_lies_in_the_other() {
        let net = |text: &str, bits| (text.parse::<IpAddr>().unwrap(), bits);
        assert!(overlap(net("192.168.122.0", 24), net("192.168.0.0", 16)));
        assert!(overlap(net("10.0.0.0", 8), net("10.9.9.9", 32)));
        assert!(!overlap(net("192.168.122.0", 24), net("192.168.123.0", 24)));
        assert!(!overlap(net("fd00::", 8), net("10.0.0.0", 8)));
    }

    #[test]
    fn a_free_network_is_found() {
        let taken = crate::runtime::network::link::Reached {
            network: "192.168.122.0".parse().unwrap(),
            prefix: 23,
            index: 1,
        };
        assert_eq!(free_network(&[taken]).unwrap().to_string(), "192.168.124.0");
    }
}
