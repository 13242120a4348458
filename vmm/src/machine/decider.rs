//! The one that decides what the machine does: a pure state machine over requests, guest notes and
//! finished steps. [`vmm_api::state::decide`] is its table.
//!
//! ```text
//!             ask()                     Effect::Start(step)
//!  client, guest, ----> idle? decide -----------------------> the driver runs it on a thread
//!  signal, deadline     busy? wait or refuse                        |
//!                         ^                                         |
//!                         +------- finished(), then those who wait -+
//! ```
//!
//! At most one step runs at a time. Whoever asks is answered exactly once: at once, when the step is
//! done, or with a refusal that says what would be accepted. Notes of the guest are served before
//! waiting clients, because what the guest did came first. No threads, sockets or time in here.

mod core;
mod note;

pub use note::GuestNote;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use vmm_api::control::{ControlError, ErrorKind, Event};
use vmm_api::end::EndReason;
use vmm_api::spec::{EndAction, EndActions};
use vmm_api::state::{
    Adjustment, AfterDump, Decision, Job, PauseReason, RequestKind, RunState, decide,
};

/// Somebody wants something. `T` is who, to be answered.
#[derive(Debug)]
pub enum Ask<T> {
    /// A request of the state table, `Query` excepted, which needs no decision.
    Client(RequestKind, T),
    /// The guest did something.
    Guest(GuestNote),
    /// SIGTERM.
    Terminate,
    /// The guest did not power down in time.
    Deadline,
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The record's reason.
    pub reason: EndReason,
    /// The record's detail.
    pub detail: String,
    /// What the test device said.
    pub code: Option<u8>,
}

/// Work that takes time; done by the driver on another thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hold the vCPUs, then drain the devices.
    Pause,
    /// Let devices and vCPUs go on.
    Resume,
    /// Power-on state, standing still.
    Reset,
    /// Let a machine go on that was reset.
    RunOn,
    /// Write the paused machine into the file of the request that owns the step.
    Save,
    /// Write its RAM and registers as a core into that file.
    Dump(AfterDump),
    /// Write the core of a guest that crashed into the next file for one.
    Core,
    /// Stand still, flush, and leave the process.
    End(End),
}

/// What the driver is to do.
#[derive(Debug, PartialEq)]
pub enum Effect<T> {
    /// Run this step and call [`Decider::finished`].
    Start(Step),
    /// Answer this request.
    Answer(T, Result<(), ControlError>),
    /// Change this setting and answer this request.
    Adjust(Adjustment, T),
    /// Press the ACPI power button.
    PressPower,
    /// Ask [`Ask::Deadline`] after the spec's time, if the machine is still there.
    StartDeadline,
    /// Tell the running job to stop.
    AbortJob,
    /// Tell everybody.
    Tell(Event),
    /// Leave the process.
    Exit(End),
}

/// Decides for one machine.
#[derive(Debug)]
pub struct Decider<T> {
    run: RunState,
    job: Option<Job>,
    /// What the job does once the machine stands still.
    job_step: Step,
    actions: EndActions,
    busy: Option<Busy<T>>,
    guest: VecDeque<GuestNote>,
    /// The disks whose error was told since the machine stands still for one, and that error.
    failed_disks: BTreeMap<String, String>,
    clients: VecDeque<(RequestKind, T)>,
    /// The last save succeeded and nothing ran since.
    saved: bool,
    terminating: bool,
    /// The guest was asked to power off so that it can start again.
    rebooting: bool,
    /// Names of the files for cores that are left.
    cores: VecDeque<String>,
    /// What a guest that is held for its core died of.
    crash: Option<String>,
}

#[derive(Debug)]
struct Busy<T> {
    step: Step,
    /// Why a pause is made.
    hold: PauseReason,
    detail: String,
    owner: Option<T>,
}

type Effects<T> = Vec<Effect<T>>;

impl<T> Decider<T> {
    /// A machine that is already running, or paused by the operator from the start.
    pub fn new(actions: EndActions, paused: bool) -> Self {
        let run = if paused {
            RunState::Running.hold(PauseReason::User)
        } else {
            RunState::Running
        };
        Self {
            run,
            job: None,
            job_step: Step::Save,
            actions,
            busy: None,
            guest: VecDeque::new(),
            failed_disks: BTreeMap::new(),
            clients: VecDeque::new(),
            saved: false,
            terminating: false,
            rebooting: false,
            cores: VecDeque::new(),
            crash: None,
        }
    }

    /// The run state.
    pub fn run_state(&self) -> &RunState {
        &self.run
    }

    /// The disks that hold the machine, by device id, each with its first error.
    pub fn failed_disks(&self) -> BTreeMap<String, String> {
        match self.held_by_disk() {
            true => self.failed_disks.clone(),
            false => BTreeMap::new(),
        }
    }

    fn held_by_disk(&self) -> bool {
        matches!(&self.run, RunState::Paused { reasons } if reasons.contains(&PauseReason::IoError))
    }

    /// The job that runs.
    pub fn job(&self) -> Option<Job> {
        self.job
    }

    /// Who asked for the step that runs.
    pub fn owner(&mut self) -> Option<&mut T> {
        self.busy.as_mut()?.owner.as_mut()
    }

    /// Takes something in.
    pub fn ask(&mut self, ask: Ask<T>) -> Effects<T> {
        match ask {
            Ask::Client(kind, who) => self.client(kind, who),
            Ask::Guest(note) => {
                if !self.guest.iter().any(|earlier| note.repeats(earlier)) {
                    self.guest.push_back(note);
                }
                self.next()
            }
            Ask::Terminate => self.terminate(),
            Ask::Deadline => {
                let detail = "the guest did not power down in time";
                self.end_soon(EndReason::Destroyed, detail)
            }
        }
    }

    /// The step that ran has ended.
    pub fn finished(&mut self, result: Result<(), String>) -> Effects<T> {
        let Some(busy) = self.busy.take() else {
            return Vec::new();
        };
        let mut effects = match busy.step.clone() {
            Step::Pause => self.paused(busy, result),
            Step::Resume => self.resumed(busy, result),
            Step::Reset => self.was_reset(busy, result),
            Step::RunOn => self.ran_on(busy, result),
            Step::Save => self.was_saved(busy, result),
            Step::Dump(then) => self.was_dumped(busy, then, result),
            Step::Core => self.left_core(&busy.detail, result),
            Step::End(end) => self.ended(busy, end, result),
        };
        effects.extend(self.next());
        effects
    }

    fn client(&mut self, kind: RequestKind, who: T) -> Effects<T> {
        let steps = self.busy.is_some() && self.job.is_none();
        if steps && kind != RequestKind::AbortJob {
            self.clients.push_back((kind, who));
            return Vec::new();
        }
        match decide(&self.run, self.job, kind) {
            Decision::Refuse(refusal) => vec![Effect::Answer(who, Err(refusal.into()))],
            Decision::Queue => {
                self.clients.push_back((kind, who));
                Vec::new()
            }
            Decision::Accept if self.busy.is_some() => match kind {
                RequestKind::AbortJob => vec![Effect::AbortJob, Effect::Answer(who, Ok(()))],
                _ => {
                    // Destroy: the job is told to stop, and its end is what we wait for.
                    self.clients.push_front((kind, who));
                    vec![Effect::AbortJob]
                }
            },
            Decision::Accept => self.accept(kind, who),
        }
    }

    /// Starts what an idle machine may do.
    fn accept(&mut self, kind: RequestKind, who: T) -> Effects<T> {
        use RequestKind as R;
        match kind {
            R::Pause => self.hold(PauseReason::User, String::new(), Some(who)),
            R::Resume => self.release(who),
            R::Powerdown | R::Reboot => {
                self.rebooting = kind == R::Reboot;
                vec![
                    Effect::PressPower,
                    Effect::Tell(Event::Powerdown),
                    Effect::Answer(who, Ok(())),
                ]
            }
            R::Reset => self.reset(Some(who)),
            R::Destroy => self.end(EndReason::Destroyed, "", None, Some(who)),
            R::Quit if self.saved => self.end(EndReason::Saved, "", None, Some(who)),
            R::Quit => self.end(EndReason::Destroyed, "", None, Some(who)),
            R::Save => {
                (self.job, self.job_step) = (Some(Job::Save), Step::Save);
                self.hold(PauseReason::Job, String::new(), Some(who))
            }
            R::Dump(then) => {
                (self.job, self.job_step) = (Some(Job::Dump), Step::Dump(then));
                self.hold(PauseReason::Job, String::new(), Some(who))
            }
            R::MigrateOut => {
                let error = ControlError::new(
                    ErrorKind::Unsupported,
                    "this build cannot migrate: save the domain, move it, and restore it",
                );
                vec![Effect::Answer(who, Err(error))]
            }
            R::Adjust(setting) => vec![Effect::Adjust(setting, who)],
            R::AbortJob | R::Query => vec![Effect::Answer(who, Ok(()))],
        }
    }

    /// Serves what waits, as far as an idle machine can.
    fn next(&mut self) -> Effects<T> {
        let mut effects = Vec::new();
        while self.busy.is_none() {
            if matches!(self.run, RunState::Stopped { .. }) {
                self.guest.clear();
            }
            if let Some(note) = self.guest.pop_front() {
                effects.extend(self.guest_note(note));
            } else if let Some((kind, who)) = self.clients.pop_front() {
                effects.extend(self.client(kind, who));
            } else {
                break;
            }
        }
        effects
    }

    fn guest_note(&mut self, note: GuestNote) -> Effects<T> {
        let (action, reason, hold, detail) = match note {
            GuestNote::PowerOff => (
                self.actions.on_poweroff,
                EndReason::Shutdown,
                PauseReason::User,
                String::new(),
            ),
            GuestNote::Reset => (
                self.actions.on_reboot,
                EndReason::Rebooted,
                PauseReason::User,
                String::new(),
            ),
            GuestNote::Crashed(detail) if self.wants_core() => return self.hold_for_core(detail),
            GuestNote::Crashed(detail) => (
                self.actions.on_crash,
                EndReason::Crashed,
                PauseReason::Crashed,
                detail,
            ),
            GuestNote::DebugExit(code) => {
                return self.end(EndReason::DebugExit, "", Some(code), None);
            }
            GuestNote::IoError { device, detail } => return self.io_error(device, &detail),
        };
        match action {
            _ if reason == EndReason::Shutdown && self.rebooting && !self.terminating => {
                self.reset(None)
            }
            EndAction::Restart if !self.terminating => self.reset(None),
            EndAction::Preserve => self.hold(hold, detail, None),
            EndAction::Destroy | EndAction::Restart => self.end(reason, &detail, None, None),
        }
    }

    /// Pauses for the error of a disk. Managers hear once of each disk until the machine goes on.
    fn io_error(&mut self, device: String, detail: &str) -> Effects<T> {
        if !self.held_by_disk() {
            self.failed_disks.clear();
        }
        let told = format!("{device}: {detail}");
        let Entry::Vacant(first) = self.failed_disks.entry(device) else {
            return Vec::new();
        };
        first.insert(detail.into());
        self.hold(PauseReason::IoError, told, None)
    }

    fn terminate(&mut self) -> Effects<T> {
        if self.terminating {
            return Vec::new();
        }
        self.terminating = true;
        if self.run.runs() {
            return vec![
                Effect::PressPower,
                Effect::Tell(Event::Powerdown),
                Effect::StartDeadline,
            ];
        }
        self.end_soon(
            EndReason::Destroyed,
            "the process was told to end while the guest was paused",
        )
    }

    /// Ends an idle machine now, and a busy one when its step is done.
    fn end_soon(&mut self, reason: EndReason, detail: &str) -> Effects<T> {
        if self.busy.is_none() {
            return self.end(reason, detail, None, None);
        }
        // A power-off by the guest is what this amounts to, whatever its action says.
        self.actions.on_poweroff = EndAction::Destroy;
        self.guest.push_front(GuestNote::PowerOff);
        vec![Effect::AbortJob]
    }

    fn start(&mut self, step: Step, hold: PauseReason, owner: Option<T>) -> Effects<T> {
        self.busy = Some(Busy {
            step: step.clone(),
            hold,
            detail: String::new(),
            owner,
        });
        vec![Effect::Start(step)]
    }

    fn hold(&mut self, reason: PauseReason, detail: String, owner: Option<T>) -> Effects<T> {
        let effects = self.start(Step::Pause, reason, owner);
        if let Some(busy) = &mut self.busy {
            busy.detail = detail;
        }
        if self.run.runs() {
            return effects;
        }
        // The vCPUs stand still already: only the set of reasons grows.
        self.finished(Ok(()))
    }

    fn paused(&mut self, busy: Busy<T>, result: Result<(), String>) -> Effects<T> {
        if let Err(message) = result {
            self.job = None;
            return self.not_held(busy, message);
        }
        let was_running = self.run.runs();
        self.run = self.run.hold(busy.hold);
        let mut effects = Vec::new();
        if was_running || busy.hold != PauseReason::Job {
            effects.push(Effect::Tell(Event::Paused {
                reason: busy.hold,
                detail: busy.detail,
            }));
        }
        if busy.hold == PauseReason::Job {
            effects.extend(self.job_paused(busy.owner));
        } else {
            effects.extend(busy.owner.map(|who| Effect::Answer(who, Ok(()))));
            effects.extend(self.held_for_core());
        }
        effects
    }

    /// The machine stands still for a job. What the guest did on its last steps comes first: a
    /// state saved now would have forgotten it.
    fn job_paused(&mut self, owner: Option<T>) -> Effects<T> {
        if self.guest.is_empty() {
            return self.start(self.job_step.clone(), PauseReason::Job, owner);
        }
        self.job = None;
        self.run = self.run.release(PauseReason::Job);
        let message = "the guest shut down, reset or crashed at the same moment";
        let mut effects: Effects<T> = answer_failed(owner, message.into()).into_iter().collect();
        if self.run.runs() {
            // Held in fact while the table says running: let it go before the note is served.
            effects.extend(self.start(Step::Resume, PauseReason::Job, None));
        }
        effects
    }

    fn release(&mut self, who: T) -> Effects<T> {
        let after = [PauseReason::User, PauseReason::IoError, PauseReason::Job]
            .into_iter()
            .fold(self.run.clone(), |run, reason| run.release(reason));
        self.saved = false;
        if after.runs() {
            return self.start(Step::Resume, PauseReason::User, Some(who));
        }
        self.run = after;
        vec![Effect::Answer(who, Ok(()))]
    }

    fn resumed(&mut self, busy: Busy<T>, result: Result<(), String>) -> Effects<T> {
        match result {
            Ok(()) => {
                self.run = RunState::Running;
                let mut effects = vec![Effect::Tell(Event::Running)];
                effects.extend(busy.owner.map(|who| Effect::Answer(who, Ok(()))));
                effects
            }
            Err(message) => answer_failed(busy.owner, message).into_iter().collect(),
        }
    }

    fn reset(&mut self, owner: Option<T>) -> Effects<T> {
        (self.saved, self.rebooting) = (false, false);
        self.start(Step::Reset, PauseReason::User, owner)
    }

    fn was_reset(&mut self, busy: Busy<T>, result: Result<(), String>) -> Effects<T> {
        if let Err(message) = result {
            return self.half_reset(busy.owner, message);
        }
        // What the guest did before the reset is gone with it; nothing runs yet that could do more.
        self.guest.clear();
        self.run = self.run.release(PauseReason::Crashed);
        let mut effects = vec![Effect::Tell(Event::Reset)];
        if self.run.runs() {
            effects.extend(self.start(Step::RunOn, PauseReason::User, busy.owner));
        } else {
            effects.extend(busy.owner.map(|who| Effect::Answer(who, Ok(()))));
        }
        effects
    }

    fn ran_on(&mut self, busy: Busy<T>, result: Result<(), String>) -> Effects<T> {
        match result {
            Ok(()) => busy
                .owner
                .map(|who| Effect::Answer(who, Ok(())))
                .into_iter()
                .collect(),
            Err(message) => self.half_reset(busy.owner, message),
        }
    }

    /// Half reset is nothing that can run on.
    fn half_reset(&mut self, owner: Option<T>, message: String) -> Effects<T> {
        let detail = format!("the reset failed: {message}");
        let mut effects: Effects<T> = answer_failed(owner, message).into_iter().collect();
        effects.extend(self.end(EndReason::Failed, &detail, None, None));
        effects
    }

    fn was_saved(&mut self, busy: Busy<T>, result: Result<(), String>) -> Effects<T> {
        self.job = None;
        match result {
            Ok(()) => {
                self.saved = true;
                busy.owner
                    .map(|who| Effect::Answer(who, Ok(())))
                    .into_iter()
                    .collect()
            }
            Err(message) => {
                let mut effects: Effects<T> =
                    answer_failed(busy.owner, message).into_iter().collect();
                if self.run.release(PauseReason::Job).runs() {
                    effects.extend(self.start(Step::Resume, PauseReason::Job, None));
                } else {
                    self.run = self.run.release(PauseReason::Job);
                }
                effects
            }
        }
    }

    fn was_dumped(
        &mut self,
        busy: Busy<T>,
        then: AfterDump,
        result: Result<(), String>,
    ) -> Effects<T> {
        self.job = None;
        self.run = self.run.release(PauseReason::Job);
        let then = match &result {
            Ok(()) => then,
            Err(_) => AfterDump::Resume,
        };
        let mut effects: Effects<T> = match result {
            Ok(()) => busy.owner.map(|who| Effect::Answer(who, Ok(()))),
            Err(message) => answer_failed(busy.owner, message),
        }
        .into_iter()
        .collect();
        effects.extend(self.after_dump(then));
        effects
    }

    fn end(
        &mut self,
        reason: EndReason,
        detail: &str,
        code: Option<u8>,
        owner: Option<T>,
    ) -> Effects<T> {
        let end = End {
            reason,
            detail: detail.into(),
            code,
        };
        self.start(Step::End(end), PauseReason::User, owner)
    }

    fn ended(&mut self, busy: Busy<T>, mut end: End, result: Result<(), String>) -> Effects<T> {
        if let Err(message) = result {
            end.reason = EndReason::Failed;
            end.detail = message;
        }
        self.run = RunState::Stopped { reason: end.reason };
        let mut effects = vec![Effect::Tell(Event::Stopped {
            reason: end.reason,
            detail: end.detail.clone(),
        })];
        effects.extend(busy.owner.map(|who| Effect::Answer(who, Ok(()))));
        for (kind, who) in self.clients.drain(..) {
            let answer = match decide(&self.run, None, kind) {
                Decision::Refuse(refusal) => Err(refusal.into()),
                Decision::Accept | Decision::Queue => Ok(()),
            };
            effects.push(Effect::Answer(who, answer));
        }
        effects.push(Effect::Exit(end));
        effects
    }
}

fn answer_failed<T>(who: Option<T>, message: String) -> Option<Effect<T>> {
    who.map(|who| Effect::Answer(who, Err(ControlError::new(ErrorKind::Failed, message))))
}

#[cfg(test)]
mod tests;
