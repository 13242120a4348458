//! Changing the store, under its lock. The steps of each verb, in order, with the instant at which
//! the verb becomes true marked `COMMIT`.

use super::atomic::{self, Staged};
use super::{Intent, Lock, Store, Survey, fault, lock, name};
use crate::error::{Error, Kind, Result};
use std::cell::Cell;
use std::fs;
use std::io;
use uuid::Uuid;

/// The right to write: the store's lock.
#[derive(Debug)]
pub struct Writer<'a> {
    store: &'a Store,
    /// Whether leftovers of interrupted writers have been looked for.
    swept: Cell<bool>,
    _lock: Lock,
}

impl Drop for Writer<'_> {
    /// With the lock still held.
    fn drop(&mut self) {
        if !self.swept.get() {
            atomic::sweep(&self.store.layout().domains);
        }
        self.store.refresh_index();
    }
}

impl<'a> Writer<'a> {
    pub(super) fn take(store: &'a Store) -> Result<Self> {
        let layout = store.layout();
        let path = layout.locks().join("store");
        let lock = Lock::take(&path, "the store", lock::PATIENCE)?;
        let writer = Self {
            store,
            swept: Cell::new(false),
            _lock: lock,
        };
        writer.recover()?;
        Ok(writer)
    }

    /// Finishes or forgets the change that an interrupted writer left half done. Its temporary files
    /// are in nobody's way, and go with the first look at the directory, or at the end.
    fn recover(&self) -> Result<()> {
        let layout = self.store.layout();
        if !layout.domains.exists() {
            return Ok(());
        }
        if let Some(intent) = self.store.intent() {
            if self.store.hidden_by_intent()?.is_some() {
                self.finish_rename(&intent)?;
            } else {
                atomic::remove(&self.store.intent_path())?;
            }
        }
        if let Ok(links) = fs::read_dir(layout.autostart()) {
            for link in links.flatten().filter(|link| !link.path().exists()) {
                // A link to nothing starts nothing; that it cannot be removed is no reason to stop.
                let _ = fs::remove_file(link.path());
            }
        }
        Ok(())
    }

    /// As [`Store::survey`], removing what interrupted writers left on the way: every temporary file
    /// that is there now is a leftover, since this is the one who writes.
    ///
    /// # Errors
    /// As [`Store::survey`].
    pub fn survey(&self) -> Result<Survey> {
        let survey = self.store.survey()?;
        for leftover in &survey.leftovers {
            // One that cannot be removed does no harm.
            let _ = fs::remove_file(self.store.layout().domains.join(leftover));
        }
        self.swept.set(true);
        Ok(survey)
    }

    /// Writes a definition, new or over the old one.
    ///
    /// # Errors
    /// A bad name, or what the file system says; the old definition then stands.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        self.stage(name, text)?.commit()
    }

    /// Prepares a definition: what can fail has been done, and the old one stands until it is committed.
    /// This writer has to live that long, or the next one sweeps it away.
    ///
    /// # Errors
    /// A name that cannot be a file's; what the file system says.
    pub fn stage(&self, name: &str, text: &str) -> Result<Staged> {
        name::check(name)?;
        let layout = self.store.layout();
        atomic::create_dir(&layout.domains, 0o700)?;
        // COMMIT: the rename of the commit.
        atomic::stage(&layout.definition(name), text.as_bytes())
    }

    /// Removes a definition and its autostart link.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self, name: &str) -> Result<()> {
        let layout = self.store.layout();
        // COMMIT
        atomic::remove(&layout.definition(name))?;
        fault::point("undefine.definition-gone");
        atomic::remove(&layout.autostart().join(format!("{name}.xml")))?;
        fault::point("undefine.autostart-gone");
        atomic::sync_dir(&layout.domains)?;
        fault::point("undefine.remains-gone");
        Ok(())
    }

    /// Renames a domain; `text` is its definition under the new name.
    ///
    /// # Errors
    /// A bad or taken name, or what the file system says; the old name then stands.
    pub fn rename(&self, old: &str, new: &str, uuid: Uuid, text: &str) -> Result<()> {
        name::check(new)?;
        if self.store.layout().definition(new).exists() {
            return Err(Error::new(
                Kind::Exists,
                format!("operation failed: domain with name '{new}' already exists"),
            ));
        }
        let intent = Intent {
            old: old.to_string(),
            new: new.to_string(),
            uuid,
        };
        let words = serde_json::to_vec(&intent).unwrap_or_default();
        atomic::write(&self.store.intent_path(), &words)?;
        fault::point("rename.intent-written");
        // COMMIT: the rename inside; from here on readers see the new name only.
        if let Err(error) = self.put(new, text) {
            atomic::remove(&self.store.intent_path())?;
            return Err(error);
        }
        fault::point("rename.new-written");
        self.finish_rename(&intent)
    }

    fn finish_rename(&self, intent: &Intent) -> Result<()> {
        let layout = self.store.layout();
        let old_link = layout.autostart().join(format!("{}.xml", intent.old));
        if old_link.symlink_metadata().is_ok() {
            self.link(&intent.new)?;
            atomic::remove(&old_link)?;
        }
        atomic::remove(&layout.definition(&intent.old))?;
        fault::point("rename.old-gone");
        // Logs follow the name when they can; logs of an earlier domain of that name stay its own.
        if !layout.logs(&intent.new).exists() {
            let _ = fs::rename(layout.logs(&intent.old), layout.logs(&intent.new));
        }
        fault::point("rename.moved");
        atomic::sync_dir(&layout.domains)?;
        atomic::remove(&self.store.intent_path())?;
        fault::point("rename.intent-gone");
        Ok(())
    }

    /// Marks a domain as started with the host, or not.
    ///
    /// # Errors
    /// What the file system says.
    pub fn set_autostart(&self, name: &str, on: bool) -> Result<()> {
        let layout = self.store.layout();
        if on {
            self.link(name)?;
        } else {
            atomic::remove(&layout.autostart().join(format!("{name}.xml")))?;
        }
        if layout.autostart().exists() {
            atomic::sync_dir(&layout.autostart())?;
        }
        Ok(())
    }

    fn link(&self, name: &str) -> Result<()> {
        let layout = self.store.layout();
        atomic::create_dir(&layout.autostart(), 0o700)?;
        let link = layout.autostart().join(format!("{name}.xml"));
        match std::os::unix::fs::symlink(format!("../{name}.xml"), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("create the link", &link, &error))
            }
            _ => Ok(()),
        }
    }
}
