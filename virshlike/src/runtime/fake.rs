//! A guest without KVM: it answers the control protocol by the same state table as the real one,
//! holds the run lock, writes an end record, and echoes what is typed on its console. With it the
//! whole manager is tested on hosts without KVM, in threads ([`FakeDriver`]) or as a process of
//! its own (the `fake-vmm` example).
//!
//! Words on its kernel command line make it misbehave: `fake.fail` ends it at once with a reason,
//! `fake.vanish` without one, `fake.deaf` leaves the control socket unanswered, `fake.stubborn`
//! ignores the power button, `fake.mute` has an agent that says nothing, `fake.crash` crashes when it is resumed, `fake.off` powers
//! off at once, `fake.silent` tells of no event, `fake.refuse` refuses to be changed. It must never be
//! reachable from a release of the product.

mod agent;

use super::driver::{Launch, Launched, VmDriver};
use crate::error::Result;
use crate::spawn;
use crate::store::journal::seconds_now;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_api::console::{Attach, Attached, Role, to_line};
use vmm_api::control::{
    Call, ControlError, ErrorKind, Event, Hello, Message, Reply, Request, Status, frame,
};
use vmm_api::cpu::{self, HostCpu, Model, Set};
use vmm_api::end::{EndReason, EndRecord};
use vmm_api::spec::{BalloonSpec, DeviceKind, Fd, MachineSpec};
use vmm_api::speed::KernelSpeed;
use vmm_api::state::{Adjustment, Decision, PauseReason, RunState, decide};

/// What the fake guest writes on its console when it starts.
pub const GREETING: &str = "fake guest\r\n";

/// How often threads look whether it is over.
const TICK: Duration = Duration::from_millis(5);

/// The ends of descriptors that the fake uses.
struct Ends {
    control: UnixListener,
    console: Option<UnixListener>,
    agent: Option<UnixListener>,
    end: File,
    /// Where the core goes when it crashes.
    core: Option<File>,
}

struct Machine {
    spec: MachineSpec,
    run: Mutex<RunState>,
    over: AtomicBool,
    listeners: Mutex<Vec<UnixStream>>,
    /// What the balloon has left to the guest, which does at once as it is told.
    memory_left: AtomicU64,
    started: Instant,
}

/// Runs the machine of a spec whose descriptors this process was started with.
///
/// # Errors
/// A descriptor that is not there.
pub fn serve_process(spec: MachineSpec) -> io::Result<EndReason> {
    let find = |fd: Option<Fd>| {
        let fd = fd.ok_or_else(|| io::Error::other("the spec lacks a descriptor"))?;
        spawn::inherited(fd.0)
    };
    let ends = Ends {
        control: find(spec.host.control)?.into(),
        console: console_of(&spec)
            .map(|fd| find(Some(fd)))
            .transpose()?
            .map(Into::into),
        agent: agent::channel_of(&spec)
            .map(|fd| find(Some(fd)))
            .transpose()?
            .map(Into::into),
        end: find(spec.host.end_reason)?.into(),
        core: core_of(&spec)
            .map(|fd| find(Some(fd)))
            .transpose()?
            .map(Into::into),
    };
    serve(spec, ends)
}

fn console_of(spec: &MachineSpec) -> Option<Fd> {
    spec.devices.iter().find_map(|device| match &device.kind {
        DeviceKind::Serial(serial) => serial.console,
        _ => None,
    })
}

fn core_of(spec: &MachineSpec) -> Option<Fd> {
    spec.host.cores.first().map(|core| core.fd)
}

fn balloon(spec: &MachineSpec) -> Option<&BalloonSpec> {
    spec.devices.iter().find_map(|device| match &device.kind {
        DeviceKind::VirtioBalloon(balloon) => Some(balloon),
        _ => None,
    })
}

fn serve(spec: MachineSpec, mut ends: Ends) -> io::Result<EndReason> {
    let cmdline = spec.boot.cmdline();
    let asked = |word: &str| cmdline.split_whitespace().any(|part| part == word);
    let (fail, vanish, deaf) = (asked("fake.fail"), asked("fake.vanish"), asked("fake.deaf"));
    let (mute, off) = (asked("fake.mute"), asked("fake.off"));
    let words = cmdline.split_whitespace();
    let mut real = words.filter_map(|word| word.strip_prefix("fake.agent="));
    let real = real.next().map(str::to_string);
    let run = if spec.host.start_paused {
        RunState::Running.hold(PauseReason::User)
    } else {
        RunState::Running
    };
    let left = balloon(&spec).and_then(|balloon| balloon.target);
    let left = left.unwrap_or(spec.memory.size);
    let machine = Arc::new(Machine {
        spec,
        run: Mutex::new(run),
        over: AtomicBool::new(false),
        listeners: Mutex::new(Vec::new()),
        memory_left: AtomicU64::new(left),
        started: Instant::now(),
    });
    if fail {
        let record = EndRecord::new(EndReason::Failed, "asked to fail", seconds_now());
        ends.end.write_all(record.to_line().as_bytes())?;
        return Ok(EndReason::Failed);
    }
    if vanish {
        return Ok(EndReason::Crashed);
    }
    if off {
        machine.stop(EndReason::Shutdown);
    }
    let mut threads = vcpu_threads(&machine)?;
    if let Some(agent) = ends.agent.take() {
        let machine = Arc::clone(&machine);
        threads.push(std::thread::spawn(move || {
            machine.agent(&agent, mute, real.as_deref())
        }));
    }
    ends.control.set_nonblocking(true)?;
    if let Some(console) = &ends.console {
        console.set_nonblocking(true)?;
    }
    while !machine.over.load(Ordering::SeqCst) {
        if !deaf && let Ok((socket, _)) = ends.control.accept() {
            let machine = Arc::clone(&machine);
            threads.push(std::thread::spawn(move || machine.talk(&socket)));
        }
        if let Some(console) = &ends.console
            && let Ok((socket, _)) = console.accept()
        {
            let machine = Arc::clone(&machine);
            threads.push(std::thread::spawn(move || machine.console(&socket)));
        }
        std::thread::sleep(TICK);
    }
    let RunState::Stopped { reason } = machine.state() else {
        return Err(io::Error::other("over without a reason"));
    };
    if let Some(mut core) = ends.core.filter(|_| reason == EndReason::Crashed) {
        core.write_all(b"\x7fELF")?;
    }
    let record = EndRecord::new(reason, "", seconds_now());
    ends.end.write_all(record.to_line().as_bytes())?;
    for thread in threads {
        // A talk that panicked has nothing more to say.
        let _ = thread.join();
    }
    Ok(reason)
}

/// Threads that are called as a real guest's vCPUs and do nothing.
fn vcpu_threads(machine: &Arc<Machine>) -> io::Result<Vec<JoinHandle<()>>> {
    let one = |index: u32| {
        let machine = Arc::clone(machine);
        std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                while !machine.over.load(Ordering::SeqCst) {
                    std::thread::sleep(TICK);
                }
            })
    };
    (0..machine.spec.cpus.count).map(one).collect()
}

impl Machine {
    fn state(&self) -> RunState {
        self.run
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, state: RunState, event: &Event) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = state;
        let listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for socket in listeners.iter() {
            let message = Message::Event {
                event: event.clone(),
            };
            // A listener that is gone misses nothing.
            let _ = frame::send_json(socket, &message, &[]);
        }
    }

    fn stop(&self, reason: EndReason) {
        let event = Event::Stopped {
            reason,
            detail: String::new(),
        };
        self.set(RunState::Stopped { reason }, &event);
        self.over.store(true, Ordering::SeqCst);
    }

    fn talk(&self, socket: &UnixStream) {
        let hello = frame::send_json(socket, &Hello::ours(&[]), &[]);
        if hello.is_err() || !matches!(frame::receive(socket), Ok(Some(_))) {
            return;
        }
        // So that the thread sees the end of the machine.
        if socket.set_read_timeout(Some(TICK)).is_err() {
            return;
        }
        loop {
            match frame::receive(socket) {
                Ok(Some(frame)) => {
                    let Ok(call) = serde_json::from_slice::<Call>(&frame.body) else {
                        return;
                    };
                    let last = self.answer(socket, call);
                    if last {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.over.load(Ordering::SeqCst) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Answers one call; `true` when the machine ends with it.
    fn answer(&self, socket: &UnixStream, call: Call) -> bool {
        let (result, end) = self.perform(socket, call.request);
        let message = Message::Answer {
            id: call.id,
            outcome: result.into(),
        };
        let _ = frame::send_json(socket, &message, &[]);
        if let Some(reason) = end {
            self.stop(reason);
        }
        end.is_some()
    }

    fn perform(
        &self,
        socket: &UnixStream,
        request: Request,
    ) -> (Result<Reply, ControlError>, Option<EndReason>) {
        let state = self.state();
        if let Some(kind) = request.kind()
            && let Decision::Refuse(refusal) = decide(&state, None, kind)
        {
            return (Err(refusal.into()), None);
        }
        let cmdline = self.spec.boot.cmdline();
        let mut end = None;
        match request {
            Request::Query => return (Ok(self.status(state)), None),
            Request::Events if cmdline.contains("fake.silent") => {}
            Request::Events => {
                if let Ok(copy) = socket.try_clone() {
                    self.listeners
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(copy);
                }
            }
            Request::Pause => self.set(
                state.hold(PauseReason::User),
                &Event::Paused {
                    reason: PauseReason::User,
                    detail: String::new(),
                },
            ),
            Request::Resume if cmdline.contains("fake.crash") => end = Some(EndReason::Crashed),
            Request::Resume => self.set(state.release(PauseReason::User), &Event::Running),
            Request::Powerdown if !cmdline.contains("fake.stubborn") => {
                end = Some(EndReason::Shutdown);
            }
            Request::Reboot if !cmdline.contains("fake.stubborn") => {
                self.set(state.clone(), &Event::Powerdown);
                self.set(state, &Event::Reset);
            }
            Request::Powerdown | Request::Reboot => self.set(state, &Event::Powerdown),
            Request::Reset => self.set(state, &Event::Reset),
            Request::Destroy | Request::Quit => end = Some(EndReason::Destroyed),
            Request::Adjust { .. } | Request::LimitDisk { .. }
                if cmdline.contains("fake.refuse") =>
            {
                let why = ControlError::new(ErrorKind::Invalid, "asked to refuse");
                return (Err(why), None);
            }
            Request::Adjust { setting } if balloon(&self.spec).is_some() => {
                if let Adjustment::Memory { bytes } = setting {
                    self.memory_left.store(bytes, Ordering::SeqCst);
                }
            }
            Request::LimitDisk { .. } | Request::ConnectCard { .. } => {}
            Request::Stats { .. } => {
                let devices = serde_json::Map::new();
                return (Ok(Reply::Stats { devices }), None);
            }
            _ => {
                let why =
                    ControlError::new(ErrorKind::Unsupported, "the fake guest cannot do this");
                return (Err(why), None);
            }
        }
        (Ok(Reply::Done), end)
    }

    fn status(&self, run: RunState) -> Reply {
        Reply::Status(Box::new(Status {
            name: self.spec.name.clone(),
            uuid: self.spec.uuid,
            pid: std::process::id(),
            run,
            job: None,
            uptime: self.started.elapsed().as_secs(),
            cpu_time: 1_500_000_000,
            memory: self.spec.memory.size,
            memory_left: balloon(&self.spec).map(|_| self.memory_left.load(Ordering::SeqCst)),
            vcpus: self.spec.cpus.count,
            devices: self
                .spec
                .devices
                .iter()
                .map(|device| device.id.clone())
                .collect(),
            failed_disks: Default::default(),
        }))
    }

    /// The agent's clients, one after another.
    fn agent(&self, listener: &UnixListener, mute: bool, real: Option<&str>) {
        let mut agent = agent::Agent::default();
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let over = || self.over.load(Ordering::SeqCst);
        while !over() {
            if !mute && let Ok((socket, _)) = listener.accept() {
                match real {
                    Some(path) => agent::relay(&socket, path, over),
                    None => agent.talk(&socket, over),
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// One viewer: greeted, then echoed.
    fn console(&self, socket: &UnixStream) {
        // The echo below times out to look for the end; what a viewer misses meanwhile is nothing.
        let echo = || -> io::Result<()> {
            let mut reader = BufReader::new(socket);
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let attach: Attach = serde_json::from_str(&line)?;
            let role = if attach.write {
                Role::Writer
            } else {
                Role::Viewer
            };
            let replay = GREETING.len() as u64;
            let mut writer = socket;
            writer.write_all(&to_line(&Attached { role, replay }))?;
            writer.write_all(GREETING.as_bytes())?;
            socket.set_read_timeout(Some(TICK))?;
            let mut typed = [0; 256];
            while !self.over.load(Ordering::SeqCst) {
                match reader.read(&mut typed) {
                    Ok(0) => break,
                    Ok(count) if role == Role::Writer => {
                        writer.write_all(typed.get(..count).unwrap_or_default())?;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        // A viewer that left is none of the machine's business.
        let _ = echo();
    }
}

/// A driver whose guests are threads of this process.
#[derive(Debug, Default)]
pub struct FakeDriver;

struct FakeThread {
    thread: Option<JoinHandle<io::Result<EndReason>>>,
}

impl VmDriver for FakeDriver {
    fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn program(&self) -> &Path {
        Path::new("/usr/libexec/vm/vmm")
    }

    fn launch(&self, launch: Launch) -> Result<Box<dyn Launched>> {
        let mut descriptors = launch.descriptors;
        let spec = launch.spec;
        let thread = std::thread::spawn(move || {
            let ends = Ends {
                control: take(&mut descriptors, spec.host.control)?.into(),
                console: console_of(&spec)
                    .map(|fd| take(&mut descriptors, Some(fd)))
                    .transpose()?
                    .map(Into::into),
                agent: agent::channel_of(&spec)
                    .map(|fd| take(&mut descriptors, Some(fd)))
                    .transpose()?
                    .map(Into::into),
                end: take(&mut descriptors, spec.host.end_reason)?.into(),
                core: core_of(&spec)
                    .map(|fd| take(&mut descriptors, Some(fd)))
                    .transpose()?
                    .map(Into::into),
            };
            let end = serve(spec, ends);
            // Everything else, the run lock among it, is held until here.
            drop(descriptors);
            end
        });
        Ok(Box::new(FakeThread {
            thread: Some(thread),
        }))
    }

    fn measure(&self, _kvm: File) -> Result<KernelSpeed> {
        Ok(KernelSpeed {
            iterations: 1000,
            nanoseconds: 1000,
        })
    }

    fn host_cpu(&self, _kvm: File) -> Result<HostCpu> {
        Ok(host_cpu())
    }
}

/// The CPU of a made-up host: an Intel one of 2013, with a little more than its model says.
pub fn host_cpu() -> HostCpu {
    let more = ["x2apic", "kvmclock", "invtsc", "tsc_adjust", "umip", "ss"];
    let more = Set::of(more).unwrap_or_default();
    let model = cpu::find_model("Haswell-noTSX-IBRS");
    let set = model.map_or_else(Set::default, Model::set).union(&more);
    let signature = model.map_or(0, Model::signature);
    HostCpu::made_of(&set, *b"GenuineIntel", signature)
}

fn take(descriptors: &mut Vec<OwnedFd>, fd: Option<Fd>) -> io::Result<OwnedFd> {
    let wanted = fd.map(|fd| fd.0);
    let place = descriptors
        .iter()
        .position(|descriptor| Some(descriptor.as_raw_fd()) == wanted)
        .ok_or_else(|| io::Error::other("the spec names a descriptor that was not passed"))?;
    Ok(descriptors.swap_remove(place))
}

impl Launched for FakeThread {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn unlimited(&self) -> &[String] {
        &[]
    }

    fn ended(&mut self) -> Option<String> {
        self.thread
            .as_ref()
            .is_some_and(JoinHandle::is_finished)
            .then(|| "the end of its thread".to_string())
    }

    fn kill(&mut self) {
        if self.ended().is_some()
            && let Some(thread) = self.thread.take()
        {
            // How it ended is in its end record.
            let _ = thread.join();
        }
    }
}
