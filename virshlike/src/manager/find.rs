//! Names, ids and UUIDs to domains; listings.

use super::{Manager, State};
use crate::error::{Error, Kind, Result};
use crate::runtime::guest::{ANSWER, Guest};
use crate::runtime::rundir::{self, Liveness};
use crate::store::{Scope, name};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// A domain that was found: defined, running, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Whether a definition stands behind it.
    pub persistent: bool,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The id of a running domain.
    pub id: Option<u32>,
    /// Its name.
    pub name: String,
    /// Its UUID, when it is known without reading the definition.
    pub uuid: Option<Uuid>,
    /// What it is doing.
    pub state: State,
    /// Whether a definition stands behind it.
    pub persistent: bool,
}

impl Manager {
    /// The domain that a person means: an id, a UUID or a name.
    ///
    /// # Errors
    /// `failed to get domain`, with the nearest name.
    pub fn find(&self, word: &str) -> Result<Domain> {
        if let Some(definition) = self.store.read(word)? {
            return Ok(Domain {
                name: definition.name,
                uuid: definition.uuid,
                persistent: true,
            });
        }
        let id: Option<u32> = word.parse().ok();
        let uuid = Uuid::parse_str(word).ok();
        for guest in self.guests()? {
            let record = &guest.record;
            if Some(record.id) == id || Some(record.uuid) == uuid || record.name == word {
                return Ok(Domain {
                    name: record.name.clone(),
                    uuid: record.uuid,
                    persistent: !record.transient,
                });
            }
        }
        if let Some(uuid) = uuid
            && let Some(name) = self.store.name_of(uuid)?
        {
            return Ok(Domain {
                name,
                uuid,
                persistent: true,
            });
        }
        Err(self.unknown(word))
    }

    fn unknown(&self, word: &str) -> Error {
        let shown: String = word.chars().take(80).flat_map(char::escape_debug).collect();
        let error = Error::new(Kind::NotFound, format!("failed to get domain '{shown}'"));
        let names = self.store.names().unwrap_or_default();
        match name::nearest(word, names.iter().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None if names.is_empty() => error.hint("no domain is defined here: vm define FILE"),
            None => error.hint("'vm list --all' shows the domains there are"),
        }
    }

    /// Every living guest, in the order of their ids.
    ///
    /// # Errors
    /// A runtime directory that cannot be read.
    pub fn guests(&self) -> Result<Vec<Guest>> {
        let mut guests = Vec::new();
        for dir in rundir::runs(&self.store.layout().run)? {
            if let Liveness::Alive(record) = dir.liveness()? {
                guests.push(Guest::new(*record, dir));
            }
        }
        guests.sort_by_key(|guest| guest.record.id);
        Ok(guests)
    }

    /// The living guest of a domain, if it runs.
    ///
    /// # Errors
    /// A runtime directory that cannot be read.
    pub fn guest(&self, domain: &Domain) -> Result<Option<Guest>> {
        let dir = self.run_dir(domain.uuid);
        Ok(match dir.liveness()? {
            Liveness::Alive(record) => Some(Guest::new(*record, dir)),
            _ => None,
        })
    }

    /// The living guest of a domain, or virsh's refusal.
    ///
    /// # Errors
    /// It is not running.
    pub fn running(&self, domain: &Domain) -> Result<Guest> {
        self.guest(domain)?
            .ok_or_else(|| Error::invalid_operation("domain is not running"))
    }

    /// Whether this is a user's own store while the system's has running guests, told from the
    /// names of its runtime directories, which everybody may read.
    pub fn system_has_guests(&self) -> bool {
        let layout = self.store.layout();
        if layout.scope == Scope::System || self.connection.root.is_some() {
            return false;
        }
        let entries = std::fs::read_dir("/run/vm").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str().map(str::to_string))
            .any(|name| Uuid::parse_str(&name).is_ok())
    }

    /// All domains: running ones by id first, then the others by name.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn list(&self) -> Result<Vec<Summary>> {
        let mut defined: BTreeMap<String, ()> = self
            .store
            .names()?
            .into_iter()
            .map(|name| (name, ()))
            .collect();
        let mut list = Vec::new();
        for guest in self.guests()? {
            let persistent = defined.remove(&guest.record.name).is_some();
            let Some(state) = live_state(&guest) else {
                // It ended while it was asked: it belongs to the others.
                if persistent {
                    defined.insert(guest.record.name, ());
                }
                continue;
            };
            list.push(Summary {
                id: Some(guest.record.id),
                name: guest.record.name,
                uuid: Some(guest.record.uuid),
                state,
                persistent,
            });
        }
        list.extend(defined.into_keys().map(|name| Summary {
            id: None,
            name,
            uuid: None,
            state: State::ShutOff,
            persistent: true,
        }));
        Ok(list)
    }
}

/// How long a listing waits for one guest that does not answer.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

/// What a living guest says, `NoAnswer` when it says nothing, `None` when it has just ended.
fn live_state(guest: &Guest) -> Option<State> {
    match guest.status(LIST_PATIENCE.min(ANSWER)) {
        Ok(status) => Some(State::of_run(&status.run)),
        Err(_) if !guest.dir().lock_is_held().unwrap_or(false) => None,
        Err(_) => Some(State::NoAnswer),
    }
}
