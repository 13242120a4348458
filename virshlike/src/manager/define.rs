//! define, undefine, rename, autostart: changes of the store.
//!
//! Order of locks: the domain's, then the store's. What decides is read again under them.

use super::definition::{self, Checked};
use super::{Domain, Manager};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::rundir::Liveness;
use crate::store::{Survey, Writer, name};
use crate::xml::{Diagnostic, Diagnostics};
use uuid::Uuid;

/// What came of a define.
#[derive(Debug)]
pub struct Defined {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// What was accepted without effect.
    pub warnings: Diagnostics,
    /// Whether the file changed; `false` when it already said exactly this.
    pub changed: bool,
}

impl Manager {
    /// Defines a domain, new or over its old definition. `file` is what messages call the text.
    ///
    /// A definition without a UUID that has the name of a defined domain is taken for that domain.
    ///
    /// # Errors
    /// Mistakes in the text; a name or UUID that another domain has; a store that cannot be
    /// written. The old definition then stands.
    pub fn define(&self, text: &str, file: &str) -> Result<Defined> {
        self.define_over(text, file, None)
    }

    /// Defines, where `before` is given only over just that text.
    fn define_over(&self, text: &str, file: &str, before: Option<&str>) -> Result<Defined> {
        let mut checked = definition::check(text, file)?;
        name::check(&checked.model.name)?;
        self.sweep();
        let uuid = self.settle_uuid(&mut checked)?;
        model::complete(&mut checked.document, &mut checked.model)
            .map_err(|found| definition::mistakes(&found))?;
        let name = checked.model.name.clone();
        let _domain = self.store.lock_domain(uuid, &name)?;
        let writer = self.store.writer()?;
        let survey = writer.survey()?;
        self.refuse_conflict(&name, uuid, &survey)?;
        warn_of_others(&mut checked, &survey);
        let text = checked.document.text();
        let old = self.store.read(&name)?.map(|old| old.text);
        if before.is_some() && before != old.as_deref() {
            return Err(Error::new(
                Kind::Busy,
                format!("the definition of '{name}' was changed by another command meanwhile"),
            )
            .hint("look at it and edit again"));
        }
        let changed = old.is_none_or(|old| old != text);
        if changed {
            writer.put(&name, &text)?;
            self.adopt_transient(uuid)?;
            drop(writer);
            self.note(uuid, "define", &name, "");
        }
        Ok(Defined {
            name,
            uuid,
            warnings: checked.warnings,
            changed,
        })
    }

    /// Checks a definition as `define` does, and changes nothing.
    ///
    /// # Errors
    /// As [`Manager::define`].
    pub fn validate(&self, text: &str, file: &str) -> Result<Defined> {
        let mut checked = definition::check(text, file)?;
        name::check(&checked.model.name)?;
        let uuid = self.settle_uuid(&mut checked)?;
        model::complete(&mut checked.document, &mut checked.model)
            .map_err(|found| definition::mistakes(&found))?;
        let survey = self.store.survey()?;
        self.refuse_conflict(&checked.model.name, uuid, &survey)?;
        warn_of_others(&mut checked, &survey);
        Ok(Defined {
            name: checked.model.name,
            uuid,
            warnings: checked.warnings,
            changed: false,
        })
    }

    /// The UUID of a definition: its own, that of the domain with its name, or a new one.
    pub(super) fn settle_uuid(&self, checked: &mut Checked) -> Result<Uuid> {
        if let Some(uuid) = checked.model.uuid {
            return Ok(uuid);
        }
        let known = self.store.read(&checked.model.name)?.map(|old| old.uuid);
        let uuid = known.unwrap_or_else(Uuid::new_v4);
        definition::set_uuid(checked, uuid)?;
        Ok(uuid)
    }

    /// Refuses a name or UUID that belongs to another domain. The caller has the store's lock when
    /// it is going to write.
    pub(super) fn refuse_conflict(&self, name: &str, uuid: Uuid, survey: &Survey) -> Result<()> {
        if let Some(other) = self.store.read(name)?
            && other.uuid != uuid
        {
            return Err(Error::new(
                Kind::Exists,
                format!(
                    "operation failed: domain '{name}' already exists with uuid {}",
                    other.uuid
                ),
            )
            .hint("remove <uuid> to change that domain, or choose another name"));
        }
        if let Some(other) = survey.name_of(uuid)
            && other != name
        {
            return Err(Error::new(
                Kind::Exists,
                format!("operation failed: domain '{other}' is already defined with uuid {uuid}"),
            )
            .hint(format!(
                "remove <uuid> to make a new domain, or rename that one: vm domrename {other} {name}"
            )));
        }
        for guest in self.guests()? {
            let record = &guest.record;
            if (record.name == name) != (record.uuid == uuid) {
                return Err(Error::new(
                    Kind::Exists,
                    format!(
                        "operation failed: domain '{}' is running with uuid {}",
                        record.name, record.uuid
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A running transient domain that gets a definition becomes persistent.
    fn adopt_transient(&self, uuid: Uuid) -> Result<()> {
        self.set_transient(uuid, false)
    }

    fn set_transient(&self, uuid: Uuid, transient: bool) -> Result<()> {
        let dir = self.run_dir(uuid);
        if let Liveness::Alive(mut record) = dir.liveness()?
            && record.transient != transient
        {
            record.transient = transient;
            dir.write_record(&record)?;
        }
        Ok(())
    }

    /// Removes a domain's definition. A running one goes on and is gone when it ends.
    ///
    /// # Errors
    /// A transient domain, or a store that cannot be written.
    pub fn undefine(&self, domain: &Domain) -> Result<()> {
        self.sweep();
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        let writer = self.store.writer()?;
        self.still_defined(domain)?;
        self.remove_definition(domain, writer, "")
    }

    /// The last step of every undefine, with the domain's lock held.
    pub(super) fn remove_definition(
        &self,
        domain: &Domain,
        writer: Writer<'_>,
        detail: &str,
    ) -> Result<()> {
        writer.remove(&domain.name)?;
        drop(writer);
        let dir = self.run_dir(domain.uuid);
        if matches!(dir.liveness()?, Liveness::Alive(_)) {
            self.set_transient(domain.uuid, true)?;
        } else {
            dir.remove()?;
        }
        self.note(domain.uuid, "undefine", &domain.name, detail);
        Ok(())
    }

    pub(super) fn still_defined(&self, domain: &Domain) -> Result<()> {
        match self.store.read(&domain.name)? {
            Some(found) if found.uuid == domain.uuid => Ok(()),
            _ if self.guest(domain)?.is_some() => {
                Err(Error::invalid_operation("cannot undefine transient domain"))
            }
            _ => Err(Error::new(
                Kind::NotFound,
                format!("failed to get domain '{}'", domain.name),
            )
            .cause("another command removed or renamed it meanwhile")),
        }
    }

    /// Renames a domain that is not running.
    ///
    /// # Errors
    /// It runs; the new name is bad or taken; its definition is wrong.
    pub fn rename(&self, domain: &Domain, new: &str) -> Result<()> {
        name::check(new)?;
        let _domain = self.store.lock_domain(domain.uuid, &domain.name)?;
        let writer = self.store.writer()?;
        if self.guest(domain)?.is_some() {
            return Err(Error::invalid_operation("cannot rename active domain"));
        }
        self.still_defined(domain)?;
        let stored = self.stored(domain)?;
        if domain.name == new {
            return Err(Error::new(
                Kind::Exists,
                format!("operation failed: the domain is called '{new}' already"),
            ));
        }
        if self.guests()?.iter().any(|guest| guest.record.name == new) {
            return Err(Error::new(
                Kind::Exists,
                format!("operation failed: domain with name '{new}' is running"),
            ));
        }
        let checked = self.checked(&stored)?;
        let text = definition::renamed(&checked.document, new)?;
        self.run_dir(domain.uuid).tidy()?;
        writer.rename(&domain.name, new, domain.uuid, &text)?;
        drop(writer);
        self.note(domain.uuid, "domrename", &domain.name, &format!("to {new}"));
        Ok(())
    }

    /// Starts a domain with the host from now on, or no longer.
    ///
    /// # Errors
    /// A transient domain, or a store that cannot be written.
    pub fn set_autostart(&self, domain: &Domain, on: bool) -> Result<()> {
        let writer = self.store.writer()?;
        if self.store.read(&domain.name)?.is_none() {
            return Err(Error::invalid_operation(
                "cannot set autostart for transient domain",
            ));
        }
        if self.store.is_autostarted(&domain.name) != on {
            writer.set_autostart(&domain.name, on)?;
            drop(writer);
            let verb = if on {
                "autostart"
            } else {
                "autostart --disable"
            };
            self.note(domain.uuid, verb, &domain.name, "");
        }
        Ok(())
    }

    /// Replaces the definition that an editor was given by what came out of it, unless somebody
    /// else changed it meanwhile.
    ///
    /// # Errors
    /// As [`Manager::define`]; another name or UUID than before; a change behind the editor's back.
    pub fn replace(&self, domain: &Domain, old: &str, new: &str, file: &str) -> Result<Defined> {
        let checked = definition::check(new, file)?;
        if checked.model.name != domain.name {
            return Err(Error::new(
                Kind::Definition,
                "the name of a domain is not changed by editing",
            )
            .hint(format!(
                "vm domrename {} {}",
                domain.name, checked.model.name
            )));
        }
        if checked.model.uuid.is_some_and(|uuid| uuid != domain.uuid) {
            return Err(
                Error::new(Kind::Definition, "the UUID of a domain cannot be changed")
                    .hint("define a new domain instead"),
            );
        }
        self.define_over(new, file, Some(old))
    }

    /// Writes back what completion added to a definition that somebody edited by hand.
    pub(super) fn write_back(
        &self,
        writer: &Writer<'_>,
        name: &str,
        before: &str,
        checked: &Checked,
    ) -> Result<()> {
        if checked.document.as_str() != before {
            writer.put(name, checked.document.as_str())?;
        }
        Ok(())
    }
}

/// What another definition takes for itself as well: it may be meant, as long as only one of the two
/// runs, so it is a warning here. A start refuses an image that a running domain writes.
fn warn_of_others(checked: &mut Checked, survey: &Survey) {
    let model = &checked.model;
    let file = checked.document.file_name();
    let mut found = Vec::new();
    for card in &model.interfaces {
        let Some(mac) = card.mac.map(|mac| mac.to_string()) else {
            continue;
        };
        if let Some(other) = survey.claimant(&mac, &model.name) {
            let what = format!(
                "the MAC address {mac} is that of a card of domain '{other}' as well; they cannot \
                 both work on one network"
            );
            found.push(
                Diagnostic::warning(file, card.at, what)
                    .with_hint("remove <mac> to get one that nobody has"),
            );
        }
    }
    for disk in &model.disks {
        let written = disk.device == model::DiskDevice::Disk && !disk.readonly && !disk.shareable;
        let (true, Some(model::DiskSource::File(path) | model::DiskSource::Block(path))) =
            (written, &disk.source)
        else {
            continue;
        };
        if let Some(other) = survey.claimant(path, &model.name) {
            let what = format!(
                "{path} is a disk of domain '{other}' as well; while one of the two runs, a start \
                 of the other is refused"
            );
            found.push(Diagnostic::warning(file, disk.at, what).with_hint(
                "a disk that guests share on purpose needs <shareable/> in all of them",
            ));
        }
    }
    found
        .into_iter()
        .for_each(|warning| checked.warnings.push(warning));
}
