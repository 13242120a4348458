//! The end record: the last words of a `vmm` process.
//!
//! The manager opens a file, passes its descriptor, and keeps the run lock's other end. A free run
//! lock with an end record says why the guest is gone; a free run lock without one means that the
//! process crashed. The record is written once, in one write, and must never be written before the
//! images are flushed and inactive, because its presence is what allows a restart.

use serde::{Deserialize, Serialize};

/// Why a guest's process ended, in virsh's words where virsh has them (`domstate --reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The guest powered itself off.
    Shutdown,
    /// An operator destroyed it.
    Destroyed,
    /// The guest crashed (panic notification or triple fault) and `on_crash` says destroy.
    Crashed,
    /// The guest rebooted and `on_reboot` says destroy.
    Rebooted,
    /// Its state was saved to a file.
    Saved,
    /// It runs on another host now.
    Migrated,
    /// The process could not start or go on; the detail says why.
    Failed,
    /// The test device asked for an exit code.
    DebugExit,
}

impl EndReason {
    /// The word that `vm domstate --reason` prints, as virsh spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Destroyed => "destroyed",
            Self::Crashed => "crashed",
            Self::Rebooted => "shutdown",
            Self::Saved => "saved",
            Self::Migrated => "migrated",
            Self::Failed => "failed",
            Self::DebugExit => "shutdown",
        }
    }
}

/// One JSON line in the end-reason file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Format version of this record; 1 today.
    pub version: u32,
    /// Why the process ended.
    pub reason: EndReason,
    /// What an operator should read, or empty.
    #[serde(default)]
    pub detail: String,
    /// Seconds since the Unix epoch.
    pub time: u64,
}

impl EndRecord {
    /// A version 1 record.
    pub fn new(reason: EndReason, detail: impl Into<String>, time: u64) -> Self {
        Self {
            version: 1,
            reason,
            detail: detail.into(),
            time,
        }
    }

    /// The record as the one line that goes into the file.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads a record back. An empty or unreadable text is `None`: the process crashed.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text.lines().next()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_file() {
        let record = EndRecord::new(EndReason::Failed, "no memory\nat all", 1_700_000_000);
        let line = record.to_line();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(EndRecord::parse(&line), Some(record));
    }

    #[test]
    fn an_empty_or_torn_file_is_a_crash() {
        assert_eq!(EndRecord::parse(""), None);
        assert_eq!(EndRecord::parse("{\"version\":1,\"rea"), None);
    }
}
