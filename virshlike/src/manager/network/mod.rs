//! Virtual networks: what the `net-` verbs mean.
//!
//! - [`define`](self): definitions in their own store beside that of domains, edited as those are;
//! - [`run`](self): started, destroyed, repaired, and what guests are plugged into;
//! - [`update`]: single entries of a definition and of a started network;
//! - [`leases`]: which guest has which address.
//!
//! A started network has a record ([`crate::runtime::network`]). A record whose start or end was
//! interrupted counts as none, and the next command that changes something clears it away.

mod define;
pub mod leases;
mod run;
mod section;
pub mod update;

pub use run::{Plug, Raised};

use super::Manager;
use super::definition::mistakes;
use crate::error::{Error, Kind, Result};
use crate::model::{self, Network};
use crate::runtime::network::record::{self, NetworkDir, NetworkRecord, Phase};
use crate::runtime::network::{Fault, Plan, Seen};
use crate::store::{Store, name};
use crate::xml::{Diagnostics, Document};
use std::path::Path;
use uuid::Uuid;

/// What a fresh host is told when the network that everybody names is not there.
const DEFAULT: &str = "default";
/// Where the package puts its definition.
const DEFAULT_XML: &str = "/usr/share/vm/networks/default.xml";

/// The networks of a manager's store.
pub struct Networks<'a> {
    manager: &'a Manager,
    store: Store,
}

/// A network that was found: defined, active, or both.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether a definition stands behind it.
    pub persistent: bool,
    /// What is written down of it while it is active.
    pub record: Option<NetworkRecord>,
}

/// The facts of one network.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether it was started.
    pub active: bool,
    /// Whether a definition stands behind it.
    pub persistent: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Its bridge, where it has one.
    pub bridge: Option<String>,
    /// What of a started one is not as it should be.
    pub faults: Vec<Fault>,
}

/// A definition that passed every check.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) document: Document,
    pub(super) model: Network,
    pub(super) warnings: Diagnostics,
}

/// Parses and checks a network definition. `file` is what messages call it.
fn check(text: &str, file: &str) -> Result<Checked> {
    let document = Document::parse(text, file).map_err(|found| mistakes(&found))?;
    let (model, warnings) = Network::parse(&document).map_err(|found| mistakes(&found))?;
    Ok(Checked {
        document,
        model,
        warnings,
    })
}

impl Manager {
    /// The networks.
    pub fn networks(&self) -> Networks<'_> {
        Networks {
            manager: self,
            store: self.store.networks(),
        }
    }
}

impl Networks<'_> {
    /// The store of their definitions.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn run(&self) -> &Path {
        &self.store.layout().run
    }

    fn dir(&self, uuid: Uuid) -> NetworkDir {
        NetworkDir::new(self.run(), uuid)
    }

    /// What is made on the host for a network with this record.
    fn plan<'a>(&self, network: &'a Network, record: &'a NetworkRecord) -> Plan<'a> {
        Plan {
            network,
            record,
            dir: self.dir(record.uuid),
            leases: self.store.layout().leases(record.uuid),
        }
    }

    /// What is written down of an active network.
    fn active(&self, uuid: Uuid) -> Option<NetworkRecord> {
        let record = self.dir(uuid).record()?;
        (record.phase == Phase::Active).then_some(record)
    }

    /// The network that a person means: a name or a UUID.
    ///
    /// # Errors
    /// `failed to get network`, with the nearest name.
    pub fn find(&self, word: &str) -> Result<Found> {
        if let Some(definition) = self.store.read(word)? {
            return Ok(Found {
                record: self.active(definition.uuid),
                name: definition.name,
                uuid: definition.uuid,
                persistent: true,
            });
        }
        let uuid = Uuid::parse_str(word).ok();
        for (_, record) in record::all(self.run()) {
            let meant = record.name == word || Some(record.uuid) == uuid;
            if meant && record.phase == Phase::Active {
                return Ok(Found {
                    name: record.name.clone(),
                    uuid: record.uuid,
                    persistent: !record.transient,
                    record: Some(record),
                });
            }
        }
        if let Some(uuid) = uuid
            && let Some(name) = self.store.name_of(uuid)?
        {
            return Ok(Found {
                name,
                uuid,
                persistent: true,
                record: None,
            });
        }
        Err(self.unknown(word))
    }

    fn unknown(&self, word: &str) -> Error {
        let shown: String = word.chars().take(80).flat_map(char::escape_debug).collect();
        let error = Error::new(Kind::NotFound, format!("failed to get network '{shown}'")).cause(
            format!("Network not found: no network with matching name '{shown}'"),
        );
        let names = self.store.names().unwrap_or_default();
        if word == DEFAULT {
            return error.hint(default_hint());
        }
        match name::nearest(word, names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None if names.is_empty() => {
                error.hint("no network is defined here: vm net-define FILE")
            }
            None => error.hint("'vm net-list --all' shows the networks there are"),
        }
    }

    /// Every network, by name.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn list(&self) -> Result<Vec<Facts>> {
        let mut list = Vec::new();
        let mut known = Vec::new();
        let seen = Seen::default();
        for (name, uuid) in self.store.identities()? {
            known.push(uuid);
            let found = Found {
                name,
                uuid,
                persistent: true,
                record: self.active(uuid),
            };
            list.push(self.facts_by(&found, &seen));
        }
        for (_, record) in record::all(self.run()) {
            if record.phase == Phase::Active && !known.contains(&record.uuid) {
                let found = Found {
                    name: record.name.clone(),
                    uuid: record.uuid,
                    persistent: false,
                    record: Some(record),
                };
                list.push(self.facts_by(&found, &seen));
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// The facts of a network.
    pub fn facts(&self, found: &Found) -> Facts {
        self.facts_by(found, &Seen::default())
    }

    fn facts_by(&self, found: &Found, seen: &Seen) -> Facts {
        let checked = self.current(found).ok();
        let faults = |record: &NetworkRecord| {
            let plan = self.plan(&checked.as_ref()?.model, record);
            plan.faults(seen).ok()
        };
        let faults = found.record.as_ref().and_then(faults);
        let bridge = found.record.as_ref().map(|record| record.bridge.clone());
        let defined = || checked.as_ref().and_then(|c| c.model.bridge.name.clone());
        Facts {
            name: found.name.clone(),
            uuid: found.uuid,
            active: found.record.is_some(),
            persistent: found.persistent,
            autostart: found.persistent && self.store.is_autostarted(&found.name),
            bridge: bridge.or_else(defined),
            faults: faults.unwrap_or_default(),
        }
    }

    /// What of an active network is not as it should be.
    fn faults(&self, found: &Found) -> Result<Vec<Fault>> {
        let Some(record) = &found.record else {
            return Ok(Vec::new());
        };
        let checked = self.current(found)?;
        self.plan(&checked.model, record).faults(&Seen::default())
    }

    /// The definition on disk.
    fn stored(&self, found: &Found) -> Result<(String, Checked)> {
        let stored = self.store.read(&found.name)?.ok_or_else(|| {
            let message = format!("network '{}' has no persistent definition", found.name);
            Error::new(Kind::NotFound, message)
        })?;
        let file = stored.path.display().to_string();
        let checked = check(&stored.text, &file)
            .map_err(|error| error.hint(format!("correct it: vm net-edit {}", found.name)))?;
        if checked.model.name != stored.name {
            return Err(
                Error::new(Kind::Definition, "the definition has a mistake").cause(format!(
                    "{file}: it names the network '{}', but the file is called {}.xml",
                    checked.model.name, stored.name
                )),
            );
        }
        Ok((stored.text, checked))
    }

    /// The definition that describes a network now: what it was started with, else the one on disk.
    fn current(&self, found: &Found) -> Result<Checked> {
        let live = found
            .record
            .as_ref()
            .and_then(|_| self.dir(found.uuid).live());
        match live {
            Some(text) => check(&text, &format!("the active definition of '{}'", found.name)),
            None => Ok(self.stored(found)?.1),
        }
    }

    /// A network's definition as XML: the active one's, with the number of guests plugged in, or the
    /// one on disk.
    ///
    /// # Errors
    /// A definition that is wrong or not there.
    pub fn dump(&self, found: &Found, inactive: bool) -> Result<String> {
        let (checked, connections) = match inactive || found.record.is_none() {
            true => (self.stored(found)?.1, None),
            false => (self.current(found)?, Some(self.ports(found.uuid)?.len())),
        };
        model::network_xml(&checked.document, connections).map_err(|found| mistakes(&found))
    }

    /// The definition on disk as text, for an editor.
    ///
    /// # Errors
    /// A transient network.
    pub fn text(&self, found: &Found) -> Result<String> {
        match self.store.read(&found.name)? {
            Some(stored) => Ok(stored.text),
            None => Err(Error::invalid_operation(
                "a transient network has no definition on disk",
            )),
        }
    }

    /// The guests' cards that are plugged into a network: the guest's name and the tap's.
    fn ports(&self, uuid: Uuid) -> Result<Vec<(String, String)>> {
        let mut ports = Vec::new();
        for guest in self.manager.guests()? {
            for (alias, port) in &guest.record.ports {
                if port.network == uuid {
                    let tap = guest.record.taps.get(alias).cloned();
                    ports.push((guest.record.name.clone(), tap.unwrap_or_default()));
                }
            }
        }
        Ok(ports)
    }
}

/// How to get the network that libvirt comes with.
fn default_hint() -> String {
    format!("define libvirt's default network with: vm net-define {DEFAULT_XML}")
}
