//! The driver: hears notes, lets the decider decide, and sees to it that it happens.
//!
//! It runs on the process's main thread and never waits for anything but its inbox, SIGTERM and a
//! deadline. Steps that take time run on a thread of their own, one at a time, and leave a note when
//! they are done. Replies always come.

use super::Machine;
use super::decider::{Ask, Decider, Effect, End, Step};
use super::inbox::{Inbox, Note};
use super::screen;
use crate::control::{Outbox, Ticket};
use crate::sandbox::{self, Termination};
use crate::{dump, snapshot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmm_api::control::{ControlError, ErrorKind, Event, Reply, Request, Status};
use vmm_api::end::EndReason;
use vmm_api::spec::IoLimits;
use vmm_api::spec::{DeviceKind, DeviceSpec, MIN_MEMORY};
use vmm_api::state::Adjustment;

/// After this long a machine runs, and what its start took is no longer needed.
const STARTED: Duration = Duration::from_secs(1);
/// Stack of the thread that a step runs on.
const STACK: usize = 512 << 10;

/// The driver of one machine.
pub struct Driver {
    machine: Arc<Machine>,
    decider: Decider<Ticket>,
    inbox: Inbox,
    outbox: Outbox,
    started: Instant,
    deadline: Option<Instant>,
    /// When the start is let go of; `None` afterwards.
    settles: Option<Instant>,
    abort: Arc<AtomicBool>,
    /// Files for cores that are left, in the order of the spec.
    cores: VecDeque<File>,
}

impl Driver {
    /// Drives `machine`, which runs, or stands still if `paused`. `cores` are the files that its spec
    /// names for the cores of a guest that crashed.
    pub fn new(
        machine: Arc<Machine>,
        inbox: Inbox,
        outbox: Outbox,
        paused: bool,
        cores: Vec<File>,
    ) -> Self {
        let spec = machine.spec();
        let names = spec.host.cores.iter().map(|file| file.name.clone());
        let decider = Decider::new(spec.end_actions, paused).with_cores(names);
        let started = Instant::now();
        Self {
            machine,
            decider,
            inbox,
            outbox,
            started,
            deadline: None,
            settles: Some(started + STARTED),
            abort: Arc::default(),
            cores: cores.into(),
        }
    }

    /// Drives until the machine has ended. It is not dropped: see [`Machine::leave`].
    pub fn drive(self, termination: &Termination) -> End {
        let mut driver = ManuallyDrop::new(self);
        let end = driver.until_end(termination);
        driver.machine.leave();
        end
    }

    fn until_end(&mut self, termination: &Termination) -> End {
        loop {
            self.wait(termination);
            if let Some(detail) = sandbox::lost_memory() {
                return self.memory_lost(detail);
            }
            if termination.came()
                && let Some(end) = self.ask(Ask::Terminate)
            {
                return end;
            }
            if self.settles.is_some_and(|at| Instant::now() >= at) {
                self.settles = None;
                sandbox::let_go_of_program();
            }
            if self.deadline.is_some_and(|at| Instant::now() >= at) {
                self.deadline = None;
                if let Some(end) = self.ask(Ask::Deadline) {
                    return end;
                }
            }
            while let Some(note) = self.inbox.take() {
                if let Some(end) = self.hear(note) {
                    return end;
                }
            }
        }
    }

    /// A thread met a page of RAM with nothing behind it and can never go on: nobody can be waited
    /// for, and nothing can be flushed.
    fn memory_lost(&self, detail: String) -> End {
        tracing::error!(%detail, "the guest is stopped");
        let reason = EndReason::Failed;
        self.outbox.tell(Event::Stopped {
            reason,
            detail: detail.clone(),
        });
        End {
            reason,
            detail,
            code: None,
        }
    }

    fn wait(&self, termination: &Termination) {
        let next = [self.deadline, self.settles].into_iter().flatten().min();
        let timeout = next.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        let mut fds = [
            PollFd::new(self.inbox.bell(), PollFlags::IN),
            PollFd::new(termination, PollFlags::IN),
        ];
        // A failed poll only means looking at once.
        let _ready = poll(&mut fds, timeout.as_ref());
        self.inbox.bell().hush();
    }

    fn hear(&mut self, note: Note) -> Option<End> {
        match note {
            Note::Guest(note) => self.ask(Ask::Guest(note)),
            Note::Event(event) => {
                self.outbox.tell(event);
                None
            }
            Note::Client(request, ticket) => self.client(request, ticket),
            Note::Finished(result) => {
                if let Err(error) = &result {
                    tracing::warn!(%error, "a step failed");
                }
                let effects = self.decider.finished(result);
                self.carry_out(effects)
            }
        }
    }

    fn client(&mut self, request: Request, mut ticket: Ticket) -> Option<End> {
        match (request.kind(), request) {
            (Some(kind), _) => self.ask(Ask::Client(kind, ticket)),
            (None, Request::Query) => {
                ticket.answer(Ok(Reply::Status(Box::new(self.status()))));
                None
            }
            (None, Request::Screenshot) => {
                screen::take_picture(self.machine.display(), ticket);
                None
            }
            (None, Request::SendKeys { codes, hold_ms }) => {
                screen::press(self.machine.display(), ticket, codes, hold_ms);
                None
            }
            (None, Request::LimitDisk { device, limits }) => {
                ticket.answer(self.limit(&device, &limits));
                None
            }
            (None, Request::ConnectCard { device }) => {
                let socket = ticket.take_fds().pop();
                ticket.answer(self.connect_card(&device, socket));
                None
            }
            (None, Request::Stats { device }) => {
                ticket.answer(self.stats(device.as_deref()));
                None
            }
            (None, _) => {
                let message = "this build does not know the request";
                ticket.answer(Err(ControlError::new(ErrorKind::Unsupported, message)));
                None
            }
        }
    }

    fn ask(&mut self, ask: Ask<Ticket>) -> Option<End> {
        let effects = self.decider.ask(ask);
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect<Ticket>>) -> Option<End> {
        let mut exit = None;
        for effect in effects {
            match effect {
                Effect::Start(step) => self.start(step),
                Effect::Answer(ticket, result) => ticket.answer(result.map(|()| Reply::Done)),
                Effect::Adjust(setting, ticket) => ticket.answer(self.adjust(setting)),
                Effect::PressPower => self.machine.press_power_button(),
                Effect::StartDeadline => {
                    let seconds = self.machine.spec().host.powerdown_seconds;
                    self.deadline = Some(Instant::now() + Duration::from_secs(seconds.into()));
                }
                Effect::AbortJob => self.abort.store(true, Ordering::Relaxed),
                Effect::Tell(event) => {
                    tracing::info!(?event, "machine");
                    self.outbox.tell(event);
                }
                Effect::Exit(end) => exit = Some(end),
            }
        }
        exit
    }

    fn start(&mut self, step: Step) {
        self.abort = Arc::default();
        let machine = Arc::clone(&self.machine);
        let done = Done(Some(self.inbox.clone()));
        let perform: Box<dyn FnOnce() -> Result<(), String> + Send> = match step {
            Step::Pause => Box::new(move || machine.pause()),
            Step::Resume | Step::RunOn => Box::new(move || machine.resume()),
            Step::Reset => Box::new(move || machine.reset()),
            Step::End(_) => Box::new(move || machine.end()),
            Step::Core => {
                let file = self.cores.pop_front();
                let abort = Arc::clone(&self.abort);
                Box::new(move || {
                    let file = file.ok_or("there is no file for it")?;
                    dump::dump_or_nothing(&machine, &file, &abort).map_err(|e| e.to_string())
                })
            }
            Step::Save | Step::Dump(_) => {
                let fd = self
                    .decider
                    .owner()
                    .and_then(|ticket| ticket.take_fds().pop());
                let abort = Arc::clone(&self.abort);
                let write = match step {
                    Step::Save => snapshot::save,
                    _ => dump::dump,
                };
                Box::new(move || {
                    let fd = fd.ok_or("the request came without a file descriptor")?;
                    write(&machine, &File::from(fd), &abort).map_err(|e| e.to_string())
                })
            }
        };
        let spawned = std::thread::Builder::new()
            .name("step".into())
            .stack_size(STACK)
            .spawn(move || done.tell(perform()));
        if let Err(error) = spawned {
            // `done` was dropped with the closure, which left the note already.
            tracing::error!(%error, "no thread for a step");
        }
    }

    fn status(&self) -> Status {
        let spec = self.machine.spec();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(cpu.tv_nsec).unwrap_or_default();
        Status {
            name: spec.name.clone(),
            uuid: spec.uuid,
            pid: std::process::id(),
            run: self.decider.run_state().clone(),
            job: self.decider.job(),
            uptime: self.started.elapsed().as_secs(),
            cpu_time: seconds * 1_000_000_000 + nanoseconds,
            memory: spec.memory.size,
            memory_left: self.memory_left(),
            vcpus: spec.cpus.count,
            devices: spec
                .devices
                .iter()
                .map(|device| device.id.clone())
                .collect(),
            failed_disks: self.decider.failed_disks(),
        }
    }

    /// What the guest has for itself, where a balloon may hold a part back.
    fn memory_left(&self) -> Option<u64> {
        let spec = self.machine.spec();
        let balloon = |device: &DeviceSpec| matches!(device.kind, DeviceKind::VirtioBalloon(_));
        spec.devices.iter().any(balloon).then(|| {
            let held = self
                .machine
                .devices()
                .iter()
                .map(|device| device.held_back());
            spec.memory.size.saturating_sub(held.sum())
        })
    }

    fn adjust(&self, setting: Adjustment) -> Result<Reply, ControlError> {
        let size = self.machine.spec().memory.size;
        if let Adjustment::Memory { bytes } = setting
            && (!(MIN_MEMORY..=size).contains(&bytes) || !bytes.is_multiple_of(4096))
        {
            let message =
                format!("{bytes} bytes of memory; a multiple of 4096 from {MIN_MEMORY} to {size}");
            return Err(ControlError::new(ErrorKind::Invalid, message));
        }
        tracing::info!(?setting, "a setting changes");
        let mut devices = self.machine.devices().iter();
        if devices.any(|device| device.adjust(setting)) {
            return Ok(Reply::Done);
        }
        let message = "the machine has no memory balloon";
        Err(ControlError::new(ErrorKind::Unsupported, message))
    }

    fn connect_card(&self, wanted: &str, socket: Option<OwnedFd>) -> Result<Reply, ControlError> {
        let invalid = |message: String| Err(ControlError::new(ErrorKind::Invalid, message));
        let Some(socket) = socket else {
            return invalid("the request came without a file descriptor".into());
        };
        let mut devices = self.machine.devices().iter();
        let Some(device) = devices.find(|device| device.id() == wanted) else {
            return invalid(format!("no device is called '{wanted}'"));
        };
        match device.connect(socket) {
            Ok(()) => {
                tracing::info!(card = wanted, "the card has another peer");
                Ok(Reply::Done)
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                invalid(format!("'{wanted}' is no network card on a stream socket"))
            }
            Err(error) => invalid(format!("the socket carries no frames: {error}")),
        }
    }

    fn limit(&self, wanted: &str, limits: &IoLimits) -> Result<Reply, ControlError> {
        let invalid = |message| Err(ControlError::new(ErrorKind::Invalid, message));
        if let Err(message) = limits.check() {
            return invalid(message);
        }
        let mut devices = self.machine.devices().iter();
        if devices.any(|device| device.id() == wanted && device.limit(limits)) {
            tracing::info!(disk = wanted, ?limits, "limits change");
            return Ok(Reply::Done);
        }
        invalid(format!("no disk is called '{wanted}'"))
    }

    fn stats(&self, wanted: Option<&str>) -> Result<Reply, ControlError> {
        let mut devices = serde_json::Map::new();
        for device in self.machine.devices() {
            if wanted.is_none_or(|wanted| wanted == device.id()) {
                devices.insert(device.id().into(), device.stats());
            }
        }
        match wanted {
            Some(wanted) if devices.is_empty() => {
                let message = format!("no device is called '{wanted}'");
                Err(ControlError::new(ErrorKind::Invalid, message))
            }
            _ => Ok(Reply::Stats { devices }),
        }
    }
}

/// Leaves the note that a step has ended, also when the step panics.
struct Done(Option<Inbox>);

impl Done {
    fn tell(mut self, result: Result<(), String>) {
        if let Some(inbox) = self.0.take() {
            inbox.leave(Note::Finished(result));
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(inbox) = self.0.take() {
            inbox.leave(Note::Finished(Err("it ended without a result".into())));
        }
    }
}
