//! What is written down of a started network: `run/networks/UUID/`.
//!
//! ```text
//! state.json     this record; there before anything is made, gone after everything is
//! network.xml    the definition that it was started with
//! dnsmasq.*      the server's settings, process id and last words
//! ```

use crate::error::{Error, Result};
use crate::model::MacAddress;
use crate::store::atomic;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The version of the records that this build writes.
pub const NETWORK_RECORD_VERSION: u32 = 1;

const STATE: &str = "state.json";
const LIVE: &str = "network.xml";

/// How far a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being started; found without a living starter, it is undone.
    Starting,
    /// It was started.
    Active,
    /// It is being destroyed; found without a living destroyer, that is finished.
    Stopping,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`NETWORK_RECORD_VERSION`] of the writer.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// How far it is.
    pub phase: Phase,
    /// No definition stands behind it.
    pub transient: bool,
    /// The bridge.
    pub bridge: String,
    /// The address of a bridge that was made; absent for one that the host has.
    #[serde(default, with = "mac_text")]
    pub mac: Option<MacAddress>,
    /// Whether it has a table in the firewall.
    pub rules: bool,
}

mod mac_text {
    use crate::model::MacAddress;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(mac: &Option<MacAddress>, to: S) -> Result<S::Ok, S::Error> {
        mac.map(|mac| mac.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MacAddress>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.and_then(|text| text.parse().ok()))
    }
}

/// The folder of a started network.
#[derive(Debug, Clone)]
pub struct NetworkDir {
    path: PathBuf,
}

impl NetworkDir {
    /// That of a UUID below the networks' runtime directory.
    pub fn new(run: &Path, uuid: Uuid) -> Self {
        Self {
            path: run.join(uuid.to_string()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is written down; nothing for a network that is not started.
    pub fn record(&self) -> Option<NetworkRecord> {
        let text = fs::read(self.path.join(STATE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it down.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, record: &NetworkRecord) -> Result<()> {
        atomic::create_dir(&self.path, 0o700)?;
        let text = serde_json::to_vec_pretty(record).unwrap_or_default();
        atomic::write_volatile(&self.path.join(STATE), &text)
    }

    /// The definition that it was started with.
    pub fn live(&self) -> Option<String> {
        fs::read_to_string(self.path.join(LIVE)).ok()
    }

    /// Keeps the definition that it is started with.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_live(&self, text: &str) -> Result<()> {
        atomic::create_dir(&self.path, 0o700)?;
        atomic::write_volatile(&self.path.join(LIVE), text.as_bytes())
    }

    /// Removes it with everything in it, the record last.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if entry.file_name() != STATE {
                atomic::remove(&entry.path())?;
            }
        }
        atomic::remove(&self.path.join(STATE))?;
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Every network that has something on the host, by its folder.
pub fn all(run: &Path) -> Vec<(NetworkDir, NetworkRecord)> {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let uuid = Uuid::parse_str(entry.file_name().to_str()?).ok()?;
            let dir = NetworkDir::new(run, uuid);
            let record = dir.record()?;
            Some((dir, record))
        })
        .collect();
    found.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    found
}
