//! What a machine is doing, and what it may be asked: two axes, one table.
//!
//! ```text
//! run state:   Incoming ---activate---> Running <---pause/resume---> Paused{user, io-error, job, crashed, post-copy}
//!                 |                        |                            |
//!                 +------------------------+----------------------------+---> Stopped{reason}
//! machine job: at most one of save | snapshot | dump | migrate-out | migrate-in
//! ```
//!
//! A machine runs only while the set of pause reasons is empty; each reason is put in and taken out
//! by its owner alone, so an operator's `resume` never undoes what a job needs. [`decide`] is total:
//! every request in every state with every job has an answer, and a refusal says what would be
//! accepted. This module must never know threads, sockets or time.

use crate::end::EndReason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Why the vCPUs are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseReason {
    /// An operator suspended it.
    User,
    /// A disk could not be read or written; resume tries again.
    IoError,
    /// A job needs the machine to stand still.
    Job,
    /// The guest crashed and `on_crash` says preserve.
    Crashed,
    /// Post-copy migration lost the other host.
    PostCopy,
}

impl PauseReason {
    /// The word that `vm domstate --reason` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::IoError => "I/O error",
            Self::Job => "saving",
            Self::Crashed => "panicked",
            Self::PostCopy => "post-copy failed",
        }
    }
}

/// The run state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RunState {
    /// Waiting for its state to come in; images inactive, vCPUs never ran.
    Incoming,
    /// vCPUs run.
    Running,
    /// vCPUs are held; never with an empty set.
    Paused {
        /// Everybody who holds them.
        reasons: BTreeSet<PauseReason>,
    },
    /// Over; the process is about to leave.
    Stopped {
        /// Why.
        reason: EndReason,
    },
}

impl RunState {
    /// The state after `reason` holds the vCPUs too.
    pub fn hold(&self, reason: PauseReason) -> Self {
        match self {
            Self::Running => Self::Paused {
                reasons: BTreeSet::from([reason]),
            },
            Self::Paused { reasons } => {
                let mut reasons = reasons.clone();
                reasons.insert(reason);
                Self::Paused { reasons }
            }
            Self::Incoming | Self::Stopped { .. } => self.clone(),
        }
    }

    /// The state after `reason` lets go.
    pub fn release(&self, reason: PauseReason) -> Self {
        match self {
            Self::Paused { reasons } => {
                let mut reasons = reasons.clone();
                reasons.remove(&reason);
                if reasons.is_empty() {
                    Self::Running
                } else {
                    Self::Paused { reasons }
                }
            }
            Self::Incoming | Self::Running | Self::Stopped { .. } => self.clone(),
        }
    }

    /// Whether vCPUs may run.
    pub fn runs(&self) -> bool {
        matches!(self, Self::Running)
    }

    /// One word, as `vm list` prints it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Incoming => "paused",
            Self::Running => "running",
            Self::Paused { reasons } if reasons.contains(&PauseReason::Crashed) => "crashed",
            Self::Paused { .. } => "paused",
            Self::Stopped { .. } => "shut off",
        }
    }
}

/// A job that owns the whole machine while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// State to a file, then the end of the process.
    Save,
    /// A snapshot.
    Snapshot,
    /// A core dump.
    Dump,
    /// Out to another host.
    MigrateOut,
    /// In from another host.
    MigrateIn,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Save,
        Self::Snapshot,
        Self::Dump,
        Self::MigrateOut,
        Self::MigrateIn,
    ];

    /// What it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Snapshot => "snapshot",
            Self::Dump => "dump",
            Self::MigrateOut => "outgoing migration",
            Self::MigrateIn => "incoming migration",
        }
    }
}

/// What comes after a core dump.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum AfterDump {
    /// The machine goes on as it was.
    #[default]
    Resume,
    /// It ends, as crashed.
    Crash,
    /// It is reset.
    Reset,
}

/// A setting of a machine that can change while it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjustment {
    /// What the balloon is to leave to the guest.
    Memory {
        /// Bytes, a multiple of 4096, at most all of the RAM.
        bytes: u64,
    },
    /// How often the guest is asked for its statistics.
    StatsPeriod {
        /// Seconds; 0: only when somebody asks.
        seconds: u32,
    },
}

/// What kind of thing is asked, without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestKind {
    /// Tell me what you are doing.
    Query,
    /// Hold the vCPUs.
    Pause,
    /// Let them go.
    Resume,
    /// Press the power button.
    Powerdown,
    /// Press the power button, and reset when the guest has powered off.
    Reboot,
    /// Reset the machine at once.
    Reset,
    /// End now; images are flushed, the guest is not asked.
    Destroy,
    /// End an idle or finished process.
    Quit,
    /// Start the save job.
    Save,
    /// Start the dump job.
    Dump(AfterDump),
    /// Start the migrate-out job.
    MigrateOut,
    /// Stop the job that runs.
    AbortJob,
    /// Change a setting.
    Adjust(Adjustment),
}

impl RequestKind {
    /// All of them; a dump stands for every kind of dump, and a setting for every setting.
    pub const ALL: [Self; 13] = [
        Self::Query,
        Self::Pause,
        Self::Resume,
        Self::Powerdown,
        Self::Reboot,
        Self::Reset,
        Self::Destroy,
        Self::Quit,
        Self::Save,
        Self::Dump(AfterDump::Resume),
        Self::MigrateOut,
        Self::AbortJob,
        Self::Adjust(Adjustment::StatsPeriod { seconds: 0 }),
    ];

    /// The verb that messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Pause => "suspend",
            Self::Resume => "resume",
            Self::Powerdown => "shutdown",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Destroy => "destroy",
            Self::Quit => "quit",
            Self::Save => "save",
            Self::Dump(_) => "dump",
            Self::MigrateOut => "migrate",
            Self::AbortJob => "domjobabort",
            Self::Adjust(_) => "setmem",
        }
    }
}

/// The answer of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Do it now.
    Accept,
    /// Do it when the job that runs has ended.
    Queue,
    /// Don't, and say so.
    Refuse(Refusal),
}

/// Why not, and what instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// A sentence for the operator.
    pub reason: String,
    /// Requests that would be accepted now.
    pub accepted: Vec<RequestKind>,
}

/// The table: what to do with `request` in `state` while `job` runs.
pub fn decide(state: &RunState, job: Option<Job>, request: RequestKind) -> Decision {
    match verdict(state, job, request) {
        Verdict::Accept => Decision::Accept,
        Verdict::Queue => Decision::Queue,
        Verdict::Refuse(reason) => {
            let accepted = RequestKind::ALL
                .into_iter()
                .filter(|kind| matches!(verdict(state, job, *kind), Verdict::Accept))
                .collect();
            Decision::Refuse(Refusal { reason, accepted })
        }
    }
}

enum Verdict {
    Accept,
    Queue,
    Refuse(String),
}

fn verdict(state: &RunState, job: Option<Job>, request: RequestKind) -> Verdict {
    use RequestKind as R;
    if matches!(request, R::Query) {
        return Verdict::Accept;
    }
    if let RunState::Stopped { reason } = state {
        return match request {
            R::Quit | R::Destroy => Verdict::Accept,
            _ => Verdict::Refuse(format!("the domain has ended ({})", reason.as_str())),
        };
    }
    if let Some(job) = job {
        return during_job(job, request);
    }
    match (request, state) {
        (R::Destroy | R::Quit, _) => Verdict::Accept,
        (R::AbortJob, _) => Verdict::Refuse("no job is running".into()),
        (_, RunState::Incoming) => {
            Verdict::Refuse("the domain waits for its incoming state".into())
        }
        (R::Resume, RunState::Running) => Verdict::Refuse("domain is already running".into()),
        (R::Resume, RunState::Paused { reasons }) if reasons.contains(&PauseReason::Crashed) => {
            Verdict::Refuse("the guest has crashed: reset or destroy it".into())
        }
        (R::Pause, RunState::Paused { reasons }) if reasons.contains(&PauseReason::User) => {
            Verdict::Refuse("domain is already paused".into())
        }
        (R::Powerdown | R::Reboot, RunState::Paused { .. }) => Verdict::Refuse(
            "the domain is paused and cannot answer its power button: resume it first".into(),
        ),
        _ => Verdict::Accept,
    }
}

fn during_job(job: Job, request: RequestKind) -> Verdict {
    use RequestKind as R;
    match request {
        R::Query | R::Destroy | R::AbortJob => Verdict::Accept,
        R::Powerdown | R::Reboot => Verdict::Queue,
        // An outgoing migration of a running guest lets the operator pause it; the other jobs
        // hold the machine themselves and hand it back as it was.
        R::Pause | R::Resume if job == Job::MigrateOut => Verdict::Accept,
        _ => Verdict::Refuse(format!(
            "a {} is running: wait for it or stop it with domjobabort",
            job.as_str()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reasons() -> impl Strategy<Value = PauseReason> {
        prop_oneof![
            Just(PauseReason::User),
            Just(PauseReason::IoError),
            Just(PauseReason::Job),
            Just(PauseReason::Crashed),
            Just(PauseReason::PostCopy),
        ]
    }

    fn states() -> impl Strategy<Value = RunState> {
        prop_oneof![
            Just(RunState::Incoming),
            Just(RunState::Running),
            prop::collection::btree_set(reasons(), 1..4)
                .prop_map(|reasons| RunState::Paused { reasons }),
            Just(RunState::Stopped {
                reason: EndReason::Shutdown
            }),
        ]
    }

    fn jobs() -> impl Strategy<Value = Option<Job>> {
        prop::option::of(prop::sample::select(Job::ALL.to_vec()))
    }

    proptest! {
        #[test]
        fn a_refusal_names_a_reason_and_a_way_out(state in states(), job in jobs(),
                request in prop::sample::select(RequestKind::ALL.to_vec())) {
            if let Decision::Refuse(refusal) = decide(&state, job, request) {
                prop_assert!(!refusal.reason.is_empty());
                prop_assert!(!refusal.accepted.contains(&request));
                prop_assert!(refusal.accepted.contains(&RequestKind::Query));
                prop_assert!(refusal.accepted.contains(&RequestKind::Destroy));
            }
        }

        #[test]
        fn holding_and_releasing_is_a_set(first in reasons(), second in reasons()) {
            let held = RunState::Running.hold(first).hold(second);
            prop_assert!(!held.runs());
            let one = held.release(first);
            prop_assert_eq!(one.runs(), first == second);
            prop_assert!(one.release(second).runs());
        }

        #[test]
        fn no_sequence_leaves_the_table(steps in prop::collection::vec(
                (prop::sample::select(RequestKind::ALL.to_vec()), jobs()), 1..40)) {
            let mut state = RunState::Running;
            for (request, job) in steps {
                if decide(&state, job, request) != Decision::Accept { continue; }
                state = match request {
                    RequestKind::Pause => state.hold(PauseReason::User),
                    RequestKind::Resume => state.release(PauseReason::User).release(PauseReason::IoError),
                    RequestKind::Destroy | RequestKind::Quit =>
                        RunState::Stopped { reason: EndReason::Destroyed },
                    _ => state,
                };
                if let RunState::Paused { reasons } = &state { prop_assert!(!reasons.is_empty()); }
            }
        }
    }

    #[test]
    fn virsh_sentences_are_kept() {
        let Decision::Refuse(refusal) = decide(&RunState::Running, None, RequestKind::Resume)
        else {
            panic!("resume of a running domain was accepted");
        };
        assert_eq!(refusal.reason, "domain is already running");
    }
}
