//! A guest that crashed leaves a core before its action is carried out, where a file was given for it.
//!
//! ```text
//! crashed --file left--> held (reason crashed) --> Step::Core --written or not--> the action
//!    +------none left-----------------------------------------------------------------^
//! ```
//!
//! What became of the core is told with the end. Must never keep the action from happening.

use super::{AfterDump, Decider, Effects, EndAction, EndReason, Job, PauseReason, Step};

impl<T> Decider<T> {
    /// With files for the cores of its guest, by name; one for each crash.
    pub fn with_cores(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.cores = names.into_iter().collect();
        self
    }

    /// Whether a crash is to leave a core: the guest is then held first.
    pub(super) fn wants_core(&self) -> bool {
        !self.cores.is_empty() && self.actions.on_crash != EndAction::Preserve
    }

    /// Holds a guest that crashed, for its core.
    pub(super) fn hold_for_core(&mut self, detail: String) -> Effects<T> {
        self.crash = Some(detail.clone());
        self.hold(PauseReason::Crashed, detail, None)
    }

    /// A guest that crashed could not be held: there is no core of what runs.
    pub(super) fn not_held_for_core(&mut self, detail: &str, message: &str) -> Effects<T> {
        self.crashed(&format!("{detail}; no core was written: {message}"))
    }

    /// The guest is held: what comes next of one that crashed.
    pub(super) fn held_for_core(&mut self) -> Effects<T> {
        let Some(detail) = self.crash.take() else {
            return Vec::new();
        };
        self.job = Some(Job::Dump);
        let effects = self.start(Step::Core, PauseReason::Crashed, None);
        if let Some(busy) = &mut self.busy {
            busy.detail = detail;
        }
        effects
    }

    /// The core of a guest that crashed with `detail` is written, or is not.
    pub(super) fn left_core(&mut self, detail: &str, result: Result<(), String>) -> Effects<T> {
        self.job = None;
        let name = self.cores.pop_front().unwrap_or_default();
        let detail = match result {
            Ok(()) => format!("{detail}; its core is {name}"),
            Err(message) => format!("{detail}; no core was written to {name}: {message}"),
        };
        self.crashed(&detail)
    }

    fn crashed(&mut self, detail: &str) -> Effects<T> {
        match self.actions.on_crash {
            EndAction::Restart if !self.terminating => self.reset(None),
            _ => self.end(EndReason::Crashed, detail, None, None),
        }
    }

    /// The job that a request asked to dump is done: what comes next.
    pub(super) fn after_dump(&mut self, then: AfterDump) -> Effects<T> {
        match then {
            AfterDump::Resume if self.run.runs() => {
                self.start(Step::Resume, PauseReason::Job, None)
            }
            AfterDump::Resume => Vec::new(),
            AfterDump::Crash => {
                let detail = "it was dumped and ended on request";
                self.end(EndReason::Crashed, detail, None, None)
            }
            AfterDump::Reset => self.reset(None),
        }
    }
}
