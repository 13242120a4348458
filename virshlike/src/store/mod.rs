//! The store: definitions as the files that people wrote, and what belongs to them.
//!
//! ```text
//! domains/NAME.xml            the definition, 0600; the file's name is the domain's name
//! domains/autostart/NAME.xml  a link to it
//! domains/.rename             the intent of a rename that is under way
//! networks/                   the same for networks: a store of its own beside that of domains
//! lib/journal/UUID.jsonl      who changed what
//! run/index                   which UUID stands in which definition; may be deleted
//! ```
//!
//! **Reading** takes no lock and writes nothing: every file is whole at every instant. **Writing**
//! needs a [`Writer`], which is the store's lock; taking it first finishes what an interrupted
//! writer left. Each verb has one instant at which it becomes true: define the rename of the file
//! over its name, undefine the removal of the definition, a rename the appearance of the new file
//! while the intent stands (readers then no longer see the old one).
//!
//! This module must never judge XML, and never know processes.

pub mod atomic;
pub mod fault;
mod folder;
pub mod index;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod name;
pub mod scan;
mod survey;
mod writer;

pub use layout::{Connection, Environment, Layout, Scope};
pub use lock::Lock;
pub use survey::Survey;
pub use writer::Writer;

use crate::error::{Error, Kind, Result};
use folder::{Folder, Listing};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use uuid::Uuid;

/// Largest definition that is read, in bytes.
pub const MAX_DEFINITION: u64 = 8 << 20;

/// A rename that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Intent {
    old: String,
    new: String,
    uuid: Uuid,
}

/// A definition as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The domain's name: the file's.
    pub name: String,
    /// Its UUID: the document's, or one made from the name when somebody removed it.
    pub uuid: Uuid,
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// A store.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    /// Definitions that the index should know and did not at the last look.
    missing: Arc<AtomicUsize>,
}

impl Store {
    /// The store of a connection. Nothing is created until something is written.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn open(connection: &Connection, environment: &Environment) -> Result<Self> {
        Ok(Self {
            layout: Layout::new(connection, environment)?,
            missing: Arc::default(),
        })
    }

    /// The store of networks beside it: `networks/NAME.xml`, `networks/autostart/`.
    pub fn networks(&self) -> Self {
        Self {
            layout: self.layout.of_networks(),
            missing: Arc::default(),
        }
    }

    /// Where things are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Names of all defined domains, sorted.
    ///
    /// # Errors
    /// A directory that cannot be read; one that is not there is empty.
    pub fn names(&self) -> Result<Vec<String>> {
        match self.folder()? {
            Some(folder) => Ok(self.names_in(&folder)?.names),
            None => Ok(Vec::new()),
        }
    }

    /// The directory of definitions, if there is one.
    fn folder(&self) -> Result<Option<Folder>> {
        match Folder::open(&self.layout.domains) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn names_in(&self, folder: &Folder) -> Result<Listing> {
        let mut listing = folder.list().map_err(|error| self.unreadable(&error))?;
        if let Some(hidden) = self.hidden_by_intent()? {
            listing.names.retain(|name| *name != hidden);
        }
        Ok(listing)
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        let mut result = Error::io("read", &self.layout.domains, error);
        if result.kind == Kind::Permission {
            result = result.hint("run it as root, or use your own store: -c qemu:///session");
        }
        result
    }

    /// The old name of a rename whose new file is there already.
    fn hidden_by_intent(&self) -> Result<Option<String>> {
        let Some(intent) = self.intent() else {
            return Ok(None);
        };
        let done = self
            .read_raw(&intent.new)?
            .is_some_and(|new| new.uuid == intent.uuid);
        Ok(done.then_some(intent.old))
    }

    fn intent_path(&self) -> PathBuf {
        self.layout.domains.join(".rename")
    }

    fn intent(&self) -> Option<Intent> {
        serde_json::from_slice(&fs::read(self.intent_path()).ok()?).ok()
    }

    /// A definition by name.
    ///
    /// # Errors
    /// A file that cannot be read or is over [`MAX_DEFINITION`]; absence is `None`.
    pub fn read(&self, name: &str) -> Result<Option<Definition>> {
        if name::check(name).is_err() || self.hidden_by_intent()?.as_deref() == Some(name) {
            return Ok(None);
        }
        self.read_raw(name)
    }

    fn read_raw(&self, name: &str) -> Result<Option<Definition>> {
        let path = self.layout.definition(name);
        let text =
            fs::File::open(&path).and_then(|file| folder::read_limited(file, MAX_DEFINITION));
        let text = match text {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, &error)),
        };
        let uuid = scan::identity(&text)
            .uuid
            .unwrap_or_else(|| scan::fallback_uuid(name));
        Ok(Some(Definition {
            name: name.to_string(),
            uuid,
            path,
            text,
        }))
    }

    /// Name and UUID of every definition that can be read.
    ///
    /// # Errors
    /// As [`Store::names`]; a single unreadable file is left out.
    pub fn identities(&self) -> Result<Vec<(String, Uuid)>> {
        Ok(self.survey()?.identities())
    }

    /// The name of the domain with this UUID.
    ///
    /// # Errors
    /// As [`Store::identities`].
    pub fn name_of(&self, uuid: Uuid) -> Result<Option<String>> {
        Ok(self.survey()?.name_of(uuid).map(str::to_string))
    }

    /// Whether a domain is started with the host.
    pub fn is_autostarted(&self, name: &str) -> bool {
        let link = |name: &str| {
            let path = self.layout.autostart().join(format!("{name}.xml"));
            path.symlink_metadata().is_ok()
        };
        let renamed_from = self
            .intent()
            .filter(|intent| intent.new == name)
            .map(|intent| intent.old);
        link(name) || renamed_from.is_some_and(|old| link(&old))
    }

    /// The lock of one domain's life cycle, waiting for whoever has it.
    ///
    /// # Errors
    /// [`Kind::Timeout`], or what the file system says.
    pub fn lock_domain(&self, uuid: Uuid, name: &str) -> Result<Lock> {
        self.lock(uuid, &format!("domain '{name}'"))
    }

    /// The lock of what has this UUID, waiting for whoever has it; `what` is what messages call it.
    ///
    /// # Errors
    /// [`Kind::Timeout`], or what the file system says.
    pub fn lock(&self, uuid: Uuid, what: &str) -> Result<Lock> {
        let path = self.layout.locks().join(uuid.to_string());
        Lock::take(&path, what, lock::PATIENCE).map_err(|error| self.explain(error))
    }

    /// The lock of one domain's life cycle, if nobody has it now.
    pub fn try_lock_domain(&self, uuid: Uuid, name: &str) -> Option<Lock> {
        let path = self.layout.locks().join(uuid.to_string());
        Lock::take(&path, &format!("domain '{name}'"), Duration::ZERO).ok()
    }

    /// The right to write, waiting for whoever has it.
    ///
    /// # Errors
    /// [`Kind::Timeout`], or what the file system says.
    pub fn writer(&self) -> Result<Writer<'_>> {
        Writer::take(self).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: Error) -> Error {
        if error.kind == Kind::Permission && self.layout.scope == Scope::System {
            return error.hint("run it as root, or use your own store: -c qemu:///session");
        }
        error
    }
}

#[cfg(test)]
mod tests;
