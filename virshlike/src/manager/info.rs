//! State and facts of one domain.

use super::definition::mistakes;
use super::{Domain, Manager};
use crate::error::Result;
use crate::model;
use crate::runtime::Guest;
use crate::runtime::guest::ANSWER;
use crate::runtime::rundir::Liveness;
use serde::Serialize;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm_api::state::{PauseReason, RunState};

/// What a domain is doing, in virsh's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are held.
    Paused,
    /// Its guest crashed and was kept for a look.
    Crashed,
    /// It has no process, or a finished one.
    ShutOff,
    /// Its process lives and does not answer.
    NoAnswer,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::Paused,
        Self::Crashed,
        Self::ShutOff,
        Self::NoAnswer,
    ];

    /// The state that a process reports.
    pub fn of_run(run: &RunState) -> Self {
        match run {
            RunState::Running => Self::Running,
            RunState::Paused { reasons } if reasons.contains(&PauseReason::Crashed) => {
                Self::Crashed
            }
            RunState::Incoming | RunState::Paused { .. } => Self::Paused,
            RunState::Stopped { .. } => Self::ShutOff,
        }
    }

    /// virsh's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Crashed => "crashed",
            Self::ShutOff => "shut off",
            Self::NoAnswer => "no state",
        }
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// State and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// The state.
    pub state: State,
    /// virsh's word for why.
    pub reason: String,
    /// More, such as the last words of a process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Condition {
    fn new(state: State, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: reason.into(),
            detail: String::new(),
        }
    }
}

/// What `vm dominfo` tells.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// The id of a running domain.
    pub id: Option<u32>,
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: Uuid,
    /// State.
    pub state: State,
    /// vCPUs.
    pub vcpus: u32,
    /// CPU time used, in nanoseconds; only of a running domain.
    pub cpu_time_ns: Option<u64>,
    /// Most memory, in KiB.
    pub max_memory_kib: u64,
    /// Memory in use, in KiB.
    pub used_memory_kib: u64,
    /// Whether a definition stands behind it.
    pub persistent: bool,
    /// Whether it is started with the host.
    pub autostart: bool,
    /// Whether its state was saved for the next start.
    pub managed_save: bool,
}

impl Manager {
    /// As [`Manager::condition`], of a domain whose process may be about to end: one that does not
    /// answer is given `patience` to be gone.
    ///
    /// # Errors
    /// As [`Manager::condition`].
    pub fn settled_condition(&self, domain: &Domain, patience: Duration) -> Result<Condition> {
        let deadline = Instant::now() + patience;
        loop {
            let condition = self.condition(domain)?;
            if condition.state != State::NoAnswer || Instant::now() >= deadline {
                return Ok(condition);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a domain is doing, and why.
    ///
    /// # Errors
    /// A runtime directory that cannot be read.
    pub fn condition(&self, domain: &Domain) -> Result<Condition> {
        Ok(match self.run_dir(domain.uuid).liveness()? {
            Liveness::Never => Condition::new(State::ShutOff, "unknown"),
            Liveness::Ended(last) => Condition {
                detail: last.detail.clone(),
                ..Condition::new(State::ShutOff, last.end.as_str())
            },
            Liveness::Alive(record) => {
                let guest = crate::runtime::Guest::new(*record, self.run_dir(domain.uuid));
                match guest.status(ANSWER) {
                    Ok(status) => Condition::new(State::of_run(&status.run), reason(&status.run)),
                    Err(error) => Condition {
                        detail: error.to_string(),
                        ..Condition::new(State::NoAnswer, "unknown")
                    },
                }
            }
        })
    }

    /// The facts of a domain: the live ones while it runs, else the definition's.
    ///
    /// # Errors
    /// A definition that is wrong, or a store that cannot be read.
    pub fn info(&self, domain: &Domain) -> Result<Info> {
        let guest = self.guest(domain)?;
        let (_, model) = self.current_definition(domain, guest.as_ref())?;
        let status = match &guest {
            Some(guest) => Some(guest.status(ANSWER)?),
            None => None,
        };
        let model::Memory {
            size_kib,
            current_kib,
            ..
        } = model.memory;
        Ok(Info {
            id: guest.map(|guest| guest.record.id),
            name: domain.name.clone(),
            uuid: domain.uuid,
            state: status
                .as_ref()
                .map_or(State::ShutOff, |status| State::of_run(&status.run)),
            vcpus: status
                .as_ref()
                .map_or(model.vcpus.current, |status| status.vcpus),
            cpu_time_ns: status.as_ref().map(|status| status.cpu_time),
            max_memory_kib: size_kib,
            used_memory_kib: status.map_or(current_kib, |status| {
                status.memory_left.unwrap_or(status.memory) / 1024
            }),
            persistent: domain.persistent,
            autostart: self.store.is_autostarted(&domain.name),
            managed_save: false,
        })
    }
}

/// What the balloon of a guest leaves to it, in KiB, as far as that can be told.
fn memory_left(guest: &Guest, model: &model::Domain) -> Option<u64> {
    let balloon = model.memballoon.as_ref();
    balloon.filter(|balloon| balloon.present)?;
    let left = guest.status(ANSWER).ok()?.memory_left?;
    Some(left / 1024)
}

/// virsh's word for why a process is in its state.
fn reason(run: &RunState) -> String {
    match run {
        RunState::Running => "booted".into(),
        RunState::Incoming => "migrating".into(),
        RunState::Paused { reasons } => reasons
            .iter()
            .map(|reason| reason.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        RunState::Stopped { reason } => reason.as_str().into(),
    }
}

/// Which definition `vm dumpxml` shows, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct DumpOptions {
    /// The definition on disk, also of a running domain.
    pub inactive: bool,
    /// A CPU that follows the host as it would be on this one.
    pub update_cpu: bool,
    /// What is shown of it.
    pub shown: model::DumpOptions,
}

impl Manager {
    /// A domain's definition as XML; the running one's with its live facts.
    ///
    /// # Errors
    /// A definition that is wrong, or a store that cannot be read.
    pub fn dump(&self, domain: &Domain, options: DumpOptions) -> Result<String> {
        let guest = if options.inactive {
            None
        } else {
            self.guest(domain)?
        };
        let (document, model) = self.current_definition(domain, guest.as_ref())?;
        let text = match guest {
            Some(guest) => {
                let live = model::Live {
                    id: guest.record.id,
                    connected: self.open_ports(&guest),
                    current_kib: memory_left(&guest, &model),
                    ttys: guest.record.ttys,
                    taps: guest.record.taps,
                    ports: guest.record.ports,
                    cpu: guest.record.cpu,
                    sockets: guest.record.sockets,
                    vnc: guest.record.vnc,
                };
                model::live_xml(&document, &model, &live, options.shown)
            }
            None if options.update_cpu && model.cpu.mode == model::CpuMode::HostModel => {
                match self.cpu_here(&model)? {
                    Some(cpu) => model::updated_xml(&document, &cpu, options.shown),
                    None => model::inactive_xml(&document, options.shown),
                }
            }
            None => model::inactive_xml(&document, options.shown),
        };
        text.map_err(|found| mistakes(&found))
    }

    /// The definition that a running domain was started with, as [`Manager::dump`] shows the one on
    /// disk.
    ///
    /// # Errors
    /// It is not running.
    pub fn dump_running(&self, domain: &Domain) -> Result<String> {
        let guest = self.running(domain)?;
        let (document, _) = self.current_definition(domain, Some(&guest))?;
        model::inactive_xml(&document, model::DumpOptions::default())
            .map_err(|found| mistakes(&found))
    }

    /// A domain's title, if its definition can be read and has one.
    pub fn title(&self, domain: &Domain) -> Option<String> {
        let guest = self.guest(domain).ok()?;
        self.current_definition(domain, guest.as_ref())
            .ok()?
            .1
            .title
    }
}
