//! What the verbs mean. Each is one function here: it resolves the domain, takes the lock it
//! needs, reads the definition, acts on store and process, and writes the journal.
//!
//! - [`find`](self): names, ids and UUIDs to domains; listings.
//! - [`definition`]: text to a checked model, and back into words for an operator.
//! - [`define`]: define, undefine, rename, autostart, description.
//! - [`start`]: from a definition to a running guest; [`machine`] builds its spec.
//! - [`boot`](self): the kernel, or the firmware and the order of its disks.
//! - [`cpu`]: what the guest is shown of the host's processor.
//! - [`control`]: suspend, resume, shutdown, reboot, reset, destroy; [`dump`](self): a core of its memory.
//! - [`display`]: the VNC server's place, pictures and keys.
//! - [`agent`]: asks inside the guest; [`addresses`](self): the addresses of its cards.
//! - [`fleet`]: what starts with the host, and what must end with it.
//! - [`info`]: state and facts of one domain; [`stats`]: its figures; [`usage`]: all domains'.
//! - [`network`]: virtual networks, which have verbs of their own.
//! - [`watch`]: what happens to domains.
//! - [`tuning`]: the limits of its group; [`pins`]: where its threads run.
//! - [`memory`]: what a guest has of its memory, and says of it.
//! - [`amend`](self): one change in a running guest and in its definition; [`output`]: files that verbs write.
//! - [`retouch`](self): title, description and metadata; [`metadata`]: other programs' elements.
//!
//! Nothing here prints. A verb that only reads takes no lock and writes nothing.

mod addresses;
pub mod agent;
mod amend;
mod boot;
pub mod capabilities;
pub mod checks;
pub mod control;
mod cpu;
pub mod define;
pub mod definition;
pub mod described;
pub mod display;
mod dump;
mod find;
pub mod fleet;
pub mod host;
pub mod info;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod metadata;
pub mod network;
pub mod node;
mod numa;
pub mod output;
pub mod picture;
pub mod pins;
mod ports;
mod retouch;
pub mod start;
pub mod stats;
pub mod storage;
mod streams;
pub mod tuning;
pub mod usage;
mod user_network;
pub mod watch;

pub use addresses::Source;
pub use find::{Domain, Summary};
pub use info::State;

use crate::error::Result;
use crate::runtime::VmDriver;
use crate::runtime::process::ProcessDriver;
use crate::runtime::rundir::RunDir;
use crate::store::journal::{self, Entry};
use crate::store::{Connection, Environment, Store};
use crate::system::Journald;
use crate::system::journald::{Change, Priority};
use std::path::PathBuf;
use uuid::Uuid;

/// The manager of one store.
pub struct Manager {
    store: Store,
    connection: Connection,
    driver: Box<dyn VmDriver>,
    kvm: PathBuf,
    bios: Option<PathBuf>,
    journald: Option<Journald>,
}

impl Manager {
    /// The manager of a connection, with real processes.
    ///
    /// # Errors
    /// A store whose place cannot be told.
    pub fn open(connection: Connection, environment: &Environment) -> Result<Self> {
        Self::with_driver(connection, environment, Box::new(ProcessDriver::new()))
    }

    /// The manager of a connection with another driver.
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub fn with_driver(
        connection: Connection,
        environment: &Environment,
        driver: Box<dyn VmDriver>,
    ) -> Result<Self> {
        let kvm = std::env::var_os("VM_KVM_DEVICE");
        Ok(Self {
            store: Store::open(&connection, environment)?,
            journald: Journald::of_host(connection.root.is_some() || environment.root.is_some()),
            connection,
            driver,
            kvm: kvm.map_or_else(|| PathBuf::from("/dev/kvm"), PathBuf::from),
            bios: std::env::var_os("VM_BIOS").map(PathBuf::from),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The KVM device that guests get.
    pub fn kvm(&self) -> &std::path::Path {
        &self.kvm
    }

    /// A domain's runtime directory.
    pub fn run_dir(&self, uuid: Uuid) -> RunDir {
        RunDir::new(self.store.layout().runtime(uuid))
    }

    /// Notes a change in the domain's journal and in the host's. A journal that cannot be written
    /// does not undo what was done: it is a warning.
    pub(crate) fn note(&self, uuid: Uuid, verb: &str, name: &str, detail: &str) {
        let path = self.store.layout().journal(uuid);
        let entry = Entry::now(verb, name, detail);
        if let Err(error) = journal::append(&path, &entry) {
            tracing::warn!("{error}");
        }
        self.tell_host(&Change {
            name,
            uuid,
            action: verb,
            uid: entry.login_uid.unwrap_or(entry.uid),
            detail,
            priority: Priority::Info,
        });
    }

    /// Notes a change in the host's journal, where it has one.
    pub(crate) fn tell_host(&self, change: &Change<'_>) {
        if let Some(journald) = &self.journald {
            journald.note(change);
        }
    }
}
