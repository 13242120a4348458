//! What is written down about a guest's process, for the commands that come after the one that
//! started it. Versioned: a guest runs for years under newer managers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;
use vmm_api::end::EndReason;

/// The version of the records that this build writes.
pub const RECORD_VERSION: u32 = 1;

/// `run.json`: a process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The number that `vm list` shows; never used twice while the host is up.
    pub id: u32,
    /// The domain's name when it was started or renamed.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Seconds since the Unix epoch.
    pub started: u64,
    /// No definition stands behind it: it is gone when it ends.
    #[serde(default)]
    pub transient: bool,
    /// The slave side of its console's pty.
    #[serde(default)]
    pub pty: Option<String>,
    /// The slave sides of all serial ports' ptys, by alias.
    #[serde(default)]
    pub ttys: BTreeMap<String, String>,
    /// The names of network cards' taps, by alias.
    #[serde(default)]
    pub taps: BTreeMap<String, String>,
    /// What the processes that serve its cards are called.
    #[serde(default)]
    pub helpers: Vec<String>,
    /// The networks that its cards are plugged into, by alias.
    #[serde(default)]
    pub ports: BTreeMap<String, Port>,
    /// Its CPU, where the definition alone does not tell.
    #[serde(default)]
    pub cpu: Option<LiveCpu>,
    /// File names of the console sockets in the runtime directory, by alias.
    #[serde(default)]
    pub consoles: BTreeMap<String, String>,
    /// Paths of the channels' sockets, by alias.
    #[serde(default)]
    pub sockets: BTreeMap<String, String>,
    /// Paths of the files for cores of its guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<String>,
    /// Where its VNC server listens.
    #[serde(default)]
    pub vnc: Option<VncPlace>,
    /// The process and its start time, to end one that no longer answers. Never used to find out
    /// whether it lives.
    #[serde(default)]
    pub process: Option<ProcessMark>,
}

/// Where a VNC server listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VncPlace {
    /// The address, as the definition has it.
    #[serde(default)]
    pub address: Option<String>,
    /// The TCP port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The TCP port for WebSockets.
    #[serde(default)]
    pub websocket: Option<u16>,
    /// The path of a Unix socket.
    #[serde(default)]
    pub socket: Option<String>,
}

/// A card's place in a virtual network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The network.
    pub network: Uuid,
    /// Its name at that time.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// `portid=`, which libvirt gives each.
    pub id: Uuid,
}

/// What a guest is shown of its CPU: a named model, and how it differs from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCpu {
    /// The model.
    pub model: String,
    /// The host's maker, in libvirt's words.
    #[serde(default)]
    pub vendor: Option<String>,
    /// Features beside the model's.
    #[serde(default)]
    pub require: Vec<String>,
    /// Features that the model has and the guest has not.
    #[serde(default)]
    pub disable: Vec<String>,
}

/// Milliseconds of a clock tick of /proc, 100 of which are a second on every architecture that KVM has.
const TICK_MS: u64 = 10;

/// A process id that cannot be mistaken for a later process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl ProcessMark {
    /// The mark of a living process.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command in parentheses may contain anything, so fields are counted after it.
        let (_, fields) = stat.rsplit_once(')')?;
        let start = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// How long ago it was started, whatever became of the host's clock meanwhile.
    pub fn age(self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::try_from(now).unwrap_or_default();
        now.saturating_sub(Duration::from_millis(self.start.saturating_mul(TICK_MS)))
    }

    /// Whether that very process still exists.
    pub fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// The process said why.
    Said(EndReason),
    /// It was gone without a word.
    Vanished,
}

impl RunEnd {
    /// The word that `vm domstate --reason` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Said(reason) => reason.as_str(),
            Self::Vanished => "crashed",
        }
    }
}

/// `last.json`: what is kept of the last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// [`RECORD_VERSION`] of the writer.
    pub version: u32,
    /// The domain's name then.
    pub name: String,
    /// Its id then.
    pub id: u32,
    /// Why it ended.
    pub end: RunEnd,
    /// More for the operator.
    #[serde(default)]
    pub detail: String,
    /// Seconds since the Unix epoch when it ended; 0 when nobody saw it end.
    #[serde(default)]
    pub ended: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_and_another_is_not() {
        let own = ProcessMark::of(std::process::id()).unwrap();
        assert!(own.exists());
        let other = ProcessMark {
            start: own.start + 1,
            ..own
        };
        assert!(!other.exists());
        assert_eq!(ProcessMark::of(u32::MAX), None);
        let first = ProcessMark::of(1).unwrap();
        assert!(first.age() >= own.age());
        let to_come = ProcessMark {
            start: u64::MAX,
            ..own
        };
        assert_eq!(to_come.age(), Duration::ZERO);
    }

    #[test]
    fn records_of_version_1_stay_readable() {
        let text = r#"{"version":1,"id":3,"name":"a","uuid":"00000000-0000-0000-0000-000000000001","started":5}"#;
        let record: RunRecord = serde_json::from_str(text).unwrap();
        assert_eq!((record.id, record.transient, record.pty), (3, false, None));
        let text = r#"{"version":1,"name":"a","id":3,"end":{"said":"destroyed"}}"#;
        let last: LastRun = serde_json::from_str(text).unwrap();
        assert_eq!(last.end.as_str(), "destroyed");
    }
}
