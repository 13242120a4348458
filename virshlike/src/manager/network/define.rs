//! net-define, net-undefine, net-edit, net-autostart: changes of the networks' store.
//!
//! Order of locks: the network's, then the store's. What decides is read again under them.

use super::{Checked, Found, Networks, check};
use crate::error::{Error, Kind, Result};
use crate::manager::definition::mistakes;
use crate::model::{Network, complete_network};
use crate::runtime::network::link::Links;
use crate::store::atomic;
use crate::xml::Diagnostics;
use uuid::Uuid;

/// What came of a define.
#[derive(Debug)]
pub struct Defined {
    /// The network's name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What was accepted without effect.
    pub warnings: Diagnostics,
}

impl Networks<'_> {
    /// Defines a network, new or over its old definition; an active one takes it up when it is
    /// started the next time.
    ///
    /// # Errors
    /// Mistakes in the text; a name, UUID or bridge that another network has; a store that cannot be
    /// written. The old definition then stands.
    pub fn define(&self, text: &str, file: &str) -> Result<Defined> {
        self.sweep();
        let mut checked = check(text, file)?;
        let uuid = self.complete(&mut checked)?;
        let name = checked.model.name.clone();
        let _network = self.lock(uuid, &name)?;
        let writer = self.store.writer()?;
        self.refuse_conflict(&checked.model, uuid)?;
        let text = checked.document.text();
        let changed = self.store.read(&name)?.is_none_or(|old| old.text != text);
        if changed {
            writer.put(&name, &text)?;
            drop(writer);
            self.set_transient(uuid, false)?;
            self.manager.note(uuid, "net-define", &name, "");
        }
        Ok(Defined {
            name,
            uuid,
            warnings: checked.warnings,
        })
    }

    /// Checks a definition as `define` does, and changes nothing.
    ///
    /// # Errors
    /// As [`Networks::define`].
    pub fn validate(&self, text: &str, file: &str) -> Result<Defined> {
        let mut checked = check(text, file)?;
        let uuid = self.complete(&mut checked)?;
        self.refuse_conflict(&checked.model, uuid)?;
        Ok(Defined {
            name: checked.model.name,
            uuid,
            warnings: checked.warnings,
        })
    }

    /// Fills in what is missing; the UUID is that of the network of this name, or a new one.
    pub(super) fn complete(&self, checked: &mut Checked) -> Result<Uuid> {
        crate::store::name::check(&checked.model.name)
            .map_err(|error| error.context("this network cannot be called so"))?;
        let name = checked.model.name.clone();
        let old = self.find(&name).ok();
        if checked.model.uuid.is_none() {
            checked.model.uuid = old.as_ref().map(|old| old.uuid);
        }
        let own = old
            .and_then(|old| self.current(&old).ok())
            .and_then(|old| old.model.bridge.name);
        let others = self.bridges_of_others(checked.model.uuid)?;
        let on_host = |bridge: &str| {
            let found = Links::open().and_then(|links| links.find(bridge));
            found.is_ok_and(|link| link.is_some())
        };
        let taken = |bridge: &str| {
            let other = others.iter().any(|(_, known)| known == bridge);
            other || (own.as_deref() != Some(bridge) && on_host(bridge))
        };
        complete_network(&mut checked.document, &mut checked.model, taken)
            .map_err(|found| mistakes(&found))?;
        // A complete definition has one.
        Ok(checked.model.uuid.unwrap_or_default())
    }

    /// The bridges that other networks make: the network's name and the bridge's.
    fn bridges_of_others(&self, own: Option<Uuid>) -> Result<Vec<(String, String)>> {
        let mut bridges = Vec::new();
        for facts in self.list()? {
            if Some(facts.uuid) == own {
                continue;
            }
            let found = self.find(&facts.name)?;
            let Ok(checked) = self.current(&found) else {
                continue;
            };
            if checked.model.forward.mode.makes_bridge() {
                bridges.extend(checked.model.bridge.name.map(|bridge| (facts.name, bridge)));
            }
        }
        Ok(bridges)
    }

    /// Refuses what belongs to another network.
    pub(super) fn refuse_conflict(&self, model: &Network, uuid: Uuid) -> Result<()> {
        let taken = |why: String| Error::new(Kind::Exists, format!("operation failed: {why}"));
        for facts in self.list()? {
            if (facts.name == model.name) != (facts.uuid == uuid) {
                let why = format!(
                    "network '{}' already exists with uuid {}",
                    facts.name, facts.uuid
                );
                return Err(taken(why).hint("remove <uuid>, or choose another name"));
            }
        }
        if !model.forward.mode.makes_bridge() {
            return Ok(());
        }
        let others = self.bridges_of_others(Some(uuid))?;
        let clash = others
            .iter()
            .find(|(_, bridge)| Some(bridge) == model.bridge.name.as_ref());
        match clash {
            Some((other, bridge)) => Err(taken(format!(
                "bridge name '{bridge}' already in use by network '{other}'"
            ))
            .hint("remove the name= of <bridge> to get a free one")),
            None => Ok(()),
        }
    }

    /// An active network that gets or loses its definition.
    fn set_transient(&self, uuid: Uuid, transient: bool) -> Result<()> {
        match self.active(uuid) {
            Some(record) if record.transient != transient => {
                let dir = self.dir(uuid);
                dir.write(&crate::runtime::network::NetworkRecord {
                    transient,
                    ..record
                })
            }
            _ => Ok(()),
        }
    }

    /// Removes a network's definition. An active one goes on and is gone when it is destroyed.
    ///
    /// # Errors
    /// A transient network, or a store that cannot be written.
    pub fn undefine(&self, found: &Found) -> Result<()> {
        self.sweep();
        let _network = self.lock(found.uuid, &found.name)?;
        let writer = self.store.writer()?;
        match self.store.read(&found.name)? {
            Some(stored) if stored.uuid == found.uuid => {}
            _ => {
                return Err(Error::invalid_operation(
                    "cannot undefine transient network",
                ));
            }
        }
        writer.remove(&found.name)?;
        drop(writer);
        if self.active(found.uuid).is_some() {
            self.set_transient(found.uuid, true)?;
        } else {
            atomic::remove(&self.store.layout().leases(found.uuid))?;
        }
        self.manager
            .note(found.uuid, "net-undefine", &found.name, "");
        Ok(())
    }

    /// Starts a network with the host from now on, or no longer.
    ///
    /// # Errors
    /// A transient network, or a store that cannot be written.
    pub fn set_autostart(&self, found: &Found, on: bool) -> Result<()> {
        let writer = self.store.writer()?;
        if self.store.read(&found.name)?.is_none() {
            return Err(Error::invalid_operation(
                "cannot set autostart for transient network",
            ));
        }
        if self.store.is_autostarted(&found.name) != on {
            writer.set_autostart(&found.name, on)?;
            drop(writer);
            let verb = match on {
                true => "net-autostart",
                false => "net-autostart --disable",
            };
            self.manager.note(found.uuid, verb, &found.name, "");
        }
        Ok(())
    }

    /// Replaces the definition that an editor was given by what came out of it, unless somebody
    /// else changed it meanwhile.
    ///
    /// # Errors
    /// As [`Networks::define`]; another name or UUID than before; a change behind the editor's back.
    pub fn replace(&self, found: &Found, old: &str, new: &str, file: &str) -> Result<Defined> {
        let checked = check(new, file)?;
        let same = checked.model.uuid.is_none_or(|uuid| uuid == found.uuid);
        if checked.model.name != found.name || !same {
            return Err(Error::new(
                Kind::Definition,
                "name and UUID of a network cannot be changed",
            )
            .hint("define a new network instead"));
        }
        let stored = self.store.read(&found.name)?;
        if stored.is_none_or(|stored| stored.text != old) {
            let what = format!(
                "the definition of '{}' was changed by another command meanwhile",
                found.name
            );
            return Err(Error::new(Kind::Busy, what).hint("look at it and edit again"));
        }
        self.define(new, file)
    }
}
