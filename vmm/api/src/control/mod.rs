//! The control protocol between a `vmm` and whoever manages it.
//!
//! A Unix stream socket carries frames ([`frame`]): a length, JSON, and descriptors beside it. The
//! first frame in both directions is [`Hello`]; the highest version that both name is spoken.
//!
//! ```text
//! client                         vmm
//!   | ---- hello{min,max} ------> |
//!   | <--- hello{min,max} ------- |
//!   | ---- call{id, request} ---> |   any number in flight; answered by id
//!   | <--- answer{id, result} --- |
//!   | <--- event ---------------- |   only after an Events call
//! ```
//!
//! **Frozen core** (never changes in any version, since guests run for years under newer managers):
//! hello, query, events, pause, resume, powerdown, destroy, quit, migrate-out. Unknown fields are
//! ignored and unknown requests answered with [`ErrorKind::Unsupported`], so the rest may grow.

pub mod client;
pub mod frame;

use crate::end::EndReason;
use crate::spec::IoLimits;
use crate::state::{Adjustment, AfterDump, Job, PauseReason, Refusal, RequestKind, RunState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The oldest version that this build speaks.
pub const VERSION_MIN: u32 = 1;
/// The newest version that this build speaks.
pub const VERSION_MAX: u32 = 1;

/// The first frame in each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version spoken.
    pub min: u32,
    /// Newest version spoken.
    pub max: u32,
    /// Which build speaks, for messages only.
    pub build: String,
    /// Names of optional abilities, such as `save`.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl Hello {
    /// This build's hello.
    pub fn ours(capabilities: &[&str]) -> Self {
        Self {
            min: VERSION_MIN,
            max: VERSION_MAX,
            build: env!("CARGO_PKG_VERSION").into(),
            capabilities: capabilities.iter().map(|name| (*name).into()).collect(),
        }
    }

    /// The version to speak with `other`, or `None` when there is none in common.
    pub fn common(&self, other: &Self) -> Option<u32> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

/// What a client asks. Descriptors of a request travel beside its frame, in the order named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Answered by [`Reply::Status`].
    Query,
    /// From now on this connection gets [`Event`]s.
    Events,
    /// Hold the vCPUs; answered when they stand still and no request is in flight.
    Pause,
    /// Let them run; parked disk requests are tried again.
    Resume,
    /// Press the ACPI power button; answered at once, the guest decides.
    Powerdown,
    /// Press the ACPI power button, and when the guest has powered off, reset the machine instead of
    /// ending it; answered at once, the guest decides. A later `Powerdown` takes it back.
    Reboot,
    /// Reset the machine.
    Reset,
    /// End the guest now. Answered before the process goes.
    Destroy,
    /// End the process of a paused, stopped or finished machine.
    Quit,
    /// Save the machine into the file that comes as descriptor 0; answered when the job has ended
    /// and the file is synced. The machine is then paused with reason `job` until `Quit`, or
    /// until `Resume` goes on as if nothing had been saved.
    Save,
    /// Write RAM and registers as an ELF core into the file that comes as descriptor 0; the machine stands
    /// still meanwhile. Answered when the file is synced.
    Dump {
        /// What comes after it.
        #[serde(default)]
        then: AfterDump,
    },
    /// Migrate to the peer at the other end of descriptor 0.
    MigrateOut,
    /// Stop the running job.
    AbortJob,
    /// Write the picture that the guest shows, as a binary PPM, into the file that comes as
    /// descriptor 0; answered when it is written.
    Screenshot,
    /// Press keys of the guest's keyboard together, hold them and let them go; answered when they
    /// are up again.
    SendKeys {
        /// Codes of Linux's input layer, 1 to 255, at most 16.
        codes: Vec<u16>,
        /// How long they are held, in milliseconds, a minute at most.
        hold_ms: u32,
    },
    /// Change a setting; answered when the device that it is for has taken it.
    Adjust {
        /// Which, and to what.
        setting: Adjustment,
    },
    /// Other limits for a disk, in every state. They are no part of saved state: whoever starts the
    /// machine again says them in its spec.
    LimitDisk {
        /// The disk's alias.
        device: String,
        /// All of its limits.
        limits: IoLimits,
    },
    /// The card goes on with the peer at the other end of descriptor 0, in every state; one that it still
    /// has is left.
    ConnectCard {
        /// The card's alias; it is one on a stream socket.
        device: String,
    },
    /// Counters of one device, or of all.
    Stats {
        /// The device's alias.
        #[serde(default)]
        device: Option<String>,
    },
}

impl Request {
    /// The row of the state table, or `None` for requests that no state refuses.
    pub fn kind(&self) -> Option<RequestKind> {
        match self {
            Self::Query
            | Self::Events
            | Self::Screenshot
            | Self::SendKeys { .. }
            | Self::LimitDisk { .. }
            | Self::ConnectCard { .. }
            | Self::Stats { .. } => None,
            Self::Pause => Some(RequestKind::Pause),
            Self::Resume => Some(RequestKind::Resume),
            Self::Powerdown => Some(RequestKind::Powerdown),
            Self::Reboot => Some(RequestKind::Reboot),
            Self::Reset => Some(RequestKind::Reset),
            Self::Destroy => Some(RequestKind::Destroy),
            Self::Quit => Some(RequestKind::Quit),
            Self::Save => Some(RequestKind::Save),
            Self::Dump { then } => Some(RequestKind::Dump(*then)),
            Self::MigrateOut => Some(RequestKind::MigrateOut),
            Self::AbortJob => Some(RequestKind::AbortJob),
            Self::Adjust { setting } => Some(RequestKind::Adjust(*setting)),
        }
    }
}

/// What a `vmm` answers when it did as asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// What the machine is doing.
    Status(Box<Status>),
    /// Counters by device alias; names and units are documented with each device.
    Stats {
        /// `{alias: {counter: value}}`.
        devices: serde_json::Map<String, serde_json::Value>,
    },
}

/// The answer to [`Request::Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: uuid::Uuid,
    /// Process id of the `vmm`.
    pub pid: u32,
    /// The run state.
    pub run: RunState,
    /// The job that runs.
    #[serde(default)]
    pub job: Option<Job>,
    /// Seconds since the process started.
    pub uptime: u64,
    /// Nanoseconds of CPU time that the process has used.
    pub cpu_time: u64,
    /// Bytes of guest RAM.
    pub memory: u64,
    /// Bytes of it that the guest has for itself; the rest is in its balloon. All when absent.
    #[serde(default)]
    pub memory_left: Option<u64>,
    /// vCPUs online.
    pub vcpus: u32,
    /// Which optional devices and what they were given, for `dumpxml` of a running domain.
    #[serde(default)]
    pub devices: Vec<String>,
    /// The disks that hold it for an I/O error, by device id, each with its file and first error.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed_disks: BTreeMap<String, String>,
}

/// What kind of refusal or failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The state table refused it.
    State,
    /// This build or machine cannot do it.
    Unsupported,
    /// The request itself is wrong.
    Invalid,
    /// It was tried and failed.
    Failed,
    /// A kind that a newer build knows.
    #[serde(other)]
    Unknown,
}

/// What a `vmm` answers when it did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// Kind.
    pub kind: ErrorKind,
    /// A sentence for the operator.
    pub message: String,
    /// What would be accepted instead, as far as this build has words for it.
    #[serde(default, deserialize_with = "known")]
    pub accepted: Vec<RequestKind>,
}

/// The kinds of request that this build knows; a newer one may name more.
fn known<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<RequestKind>, D::Error> {
    let all = Vec::<serde_json::Value>::deserialize(source)?;
    let known = all.into_iter();
    Ok(known
        .filter_map(|kind| serde_json::from_value(kind).ok())
        .collect())
}

impl ControlError {
    /// An error without alternatives.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            accepted: Vec::new(),
        }
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        Self {
            kind: ErrorKind::State,
            message: refusal.reason,
            accepted: refusal.accepted,
        }
    }
}

/// What happened, told to everybody who asked for events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// vCPUs run (again).
    Running,
    /// vCPUs are held.
    Paused {
        /// By whom.
        reason: PauseReason,
        /// More, such as the disk and its path.
        #[serde(default)]
        detail: String,
    },
    /// The guest was reset.
    Reset,
    /// The guest was asked to power down.
    Powerdown,
    /// The machine is over.
    Stopped {
        /// Why.
        reason: EndReason,
        /// More for the operator.
        #[serde(default)]
        detail: String,
    },
    /// The peer of a card on a stream socket has left: the guest sees its link down until
    /// [`Request::ConnectCard`] brings another one.
    CardLost {
        /// The card's alias.
        device: String,
    },
    /// A job moved on.
    Job {
        /// Which.
        job: Job,
        /// Bytes done.
        done: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
    /// An event of a newer build.
    #[serde(other)]
    Unknown,
}

/// Frames from a client after its hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// Frames from a `vmm` after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// The answer to the call with this id.
    Answer {
        /// The call's id.
        id: u64,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// Something happened.
    Event {
        /// What.
        #[serde(flatten)]
        event: Event,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As asked.
    Ok(Reply),
    /// Not as asked.
    Error(ControlError),
}

impl From<Result<Reply, ControlError>> for Outcome {
    fn from(result: Result<Reply, ControlError>) -> Self {
        match result {
            Ok(reply) => Self::Ok(reply),
            Err(error) => Self::Error(error),
        }
    }
}

#[cfg(test)]
mod tests;
