//! The life of the process: from the spec's descriptor to the end record.
//!
//! ```text
//! spec -> descriptors adopted -> log -> machine built -> vCPUs run -> control socket served
//!      -> driver drives -> images given up -> end record -> last answers -> exit
//! ```
//!
//! The run lock is held by being open, nothing more. The end record is written once, after the images
//! are flushed and given up: its presence is what allows a restart.

use crate::control::{Outbox, Server};
use crate::display::vnc;
use crate::kvm::System;
use crate::logging;
use crate::machine::build::Restored;
use crate::machine::decider::End;
use crate::machine::driver::Driver;
use crate::machine::inbox::Inbox;
use crate::machine::{self, Machine};
use crate::sandbox;
use crate::snapshot;
use devices::backend::char::{LogFiles, RotatingLog};
use devices::files::Files;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::Level;
use vmm_api::end::{EndReason, EndRecord};
use vmm_api::spec::{HostSpec, MachineSpec, Origin};

/// Largest machine spec, in bytes.
const MAX_SPEC: u64 = 16 << 20;

/// Exit codes of the process. The test device's code passes through as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The guest ended, or was ended.
    Ended = 0,
    /// The machine could not be started or could not go on.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// The guest crashed.
    Crashed = 3,
    /// The program has a bug, and has met it. Rust's own number for it.
    Panicked = 101,
}

impl Code {
    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Crashed => 3,
            Self::Panicked => 101,
        }
    }

    fn of(end: &End) -> u8 {
        match (end.reason, end.code) {
            (EndReason::DebugExit, Some(code)) => code,
            (EndReason::Failed, _) => Self::Failed.number(),
            (EndReason::Crashed, _) => Self::Crashed.number(),
            _ => Self::Ended.number(),
        }
    }
}

/// Runs the machine whose spec is behind `spec_fd`; returns the exit code. With `after`, a pipe, not
/// before its other end is closed.
pub fn run(spec_fd: RawFd, after: Option<RawFd>) -> u8 {
    if let Some(Err(message)) = after.map(wait_for) {
        eprintln!("vmm: {message}");
        return Code::Failed.number();
    }
    let spec = match read_spec(spec_fd) {
        Ok(spec) => spec,
        Err(message) => {
            eprintln!("vmm: {message}");
            return Code::Failed.number();
        }
    };
    let files = match sandbox::adopt(&spec.fds().iter().map(|fd| fd.0).collect()) {
        Ok(files) => Arc::new(files),
        Err(error) => {
            eprintln!("vmm: {error}");
            return Code::Failed.number();
        }
    };
    let mut host = match Host::take(&spec.host, &files) {
        Ok(host) => host,
        Err(message) => {
            eprintln!("vmm: {message}");
            return Code::Failed.number();
        }
    };
    host.prepare_last_words();
    let end = match live(spec, &files, &mut host) {
        Ok(end) => end,
        Err(message) => {
            eprintln!("vmm: {message}");
            tracing::error!(%message, "the machine did not start");
            End {
                reason: EndReason::Failed,
                detail: message,
                code: None,
            }
        }
    };
    host.record(&end);
    if let Some(server) = host.server.take() {
        server.finish();
    }
    Code::of(&end)
}

/// Waits for the end of a pipe. KVM starts threads of the kernel for a machine, and they stay in the
/// control group that this process has at that moment: the manager moves it first.
fn wait_for(fd: RawFd) -> Result<(), String> {
    let mut pipe = File::from(sandbox::take_one(fd).map_err(|error| error.to_string())?);
    io::copy(&mut pipe, &mut io::sink())
        .map(drop)
        .map_err(|error| format!("descriptor {fd} cannot be waited for: {error}"))
}

fn read_spec(fd: RawFd) -> Result<MachineSpec, String> {
    let file = File::from(sandbox::take_one(fd).map_err(|error| error.to_string())?);
    // Most specs are read at once.
    let mut text = Vec::with_capacity(8 << 10);
    file.take(MAX_SPEC)
        .read_to_end(&mut text)
        .map_err(|error| format!("the machine spec cannot be read: {error}"))?;
    let spec = MachineSpec::from_json(&text).map_err(|error| error.to_string())?;
    let problems: Vec<String> = spec.check().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(spec)
    } else {
        Err(format!(
            "the machine spec cannot be built:\n  {}",
            problems.join("\n  ")
        ))
    }
}

/// What belongs to the process rather than to the machine.
struct Host {
    kvm: Option<OwnedFd>,
    control: Option<OwnedFd>,
    /// Held, never touched.
    _run_lock: Option<OwnedFd>,
    end_reason: Option<OwnedFd>,
    /// Where cores of the guest go, should it crash.
    cores: Vec<File>,
    server: Option<Server>,
}

impl Host {
    fn take(spec: &HostSpec, files: &Files) -> Result<Self, String> {
        let take = |fd| files.take(fd).map_err(|error| error.to_string());
        let host = Self {
            kvm: spec.kvm.map(take).transpose()?,
            control: spec.control.map(take).transpose()?,
            _run_lock: spec.run_lock.map(take).transpose()?,
            end_reason: spec.end_reason.map(take).transpose()?,
            cores: spec
                .cores
                .iter()
                .map(|file| take(file.fd).map(File::from))
                .collect::<Result<_, _>>()?,
            server: None,
        };
        let sink: logging::Sink = match &spec.log {
            None => Box::new(std::io::stderr()),
            Some(log) => {
                let log = LogFiles::take(log, files).map_err(|error| error.to_string())?;
                Box::new(RotatingLog::new(log).map_err(|error| format!("the log: {error}"))?)
            }
        };
        logging::start(sink, Level::INFO);
        Ok(host)
    }

    /// What is said when a page of guest RAM is missing and nobody else can say so.
    fn prepare_last_words(&self) {
        if let Some(fd) = &self.end_reason {
            let detail = "guest memory has nothing behind it any more";
            let record = EndRecord::new(EndReason::Failed, detail, 0);
            sandbox::set_last_words(Some((fd.as_fd(), record.to_line())));
        }
    }

    /// The last words, in one write.
    fn record(&mut self, end: &End) {
        sandbox::set_last_words(None);
        let Some(fd) = self.end_reason.take() else {
            return;
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let record = EndRecord::new(end.reason, end.detail.clone(), now.as_secs());
        if let Err(error) = File::from(fd).write_all(record.to_line().as_bytes()) {
            tracing::error!(%error, "the end record cannot be written");
        }
    }
}

fn live(spec: MachineSpec, files: &Arc<Files>, host: &mut Host) -> Result<End, String> {
    let termination = sandbox::prepare_signals().map_err(|error| format!("signals: {error}"))?;
    let kvm = host
        .kvm
        .take()
        .ok_or("the spec names no descriptor of /dev/kvm")?;
    let system = System::new(kvm).map_err(|error| error.to_string())?;
    let inbox = Inbox::new().map_err(|error| format!("the inbox: {error}"))?;
    let outbox = Outbox::new().map_err(|error| format!("the outbox: {error}"))?;
    let paused = spec.host.start_paused;
    let restored = restored(&spec, files)?;
    let machine =
        machine::build(spec, files, system, restored, &inbox).map_err(|error| error.to_string())?;
    let _vnc = serve_vnc(&machine, files)?;
    machine.activate()?;
    start(&machine, paused)?;
    if let Some(listener) = host.control.take() {
        let server = Server::start(listener, inbox.clone(), outbox.clone());
        host.server = Some(server.map_err(|error| format!("the control socket: {error}"))?);
    }
    let cores = std::mem::take(&mut host.cores);
    let driver = Driver::new(Arc::new(machine), inbox, outbox, paused, cores);
    Ok(driver.drive(&termination))
}

/// The VNC server, where the spec has one. It is left to the kernel at the end, as the machine is.
fn serve_vnc(
    machine: &Machine,
    files: &Files,
) -> Result<Option<ManuallyDrop<vnc::Server>>, String> {
    let spec = machine.spec();
    let start = |vnc| vnc::Server::start(vnc, &spec.name, files, machine.display());
    let server = spec.host.vnc.as_ref().map(start).transpose();
    let server = server.map_err(|error| error.to_string())?;
    Ok(server.map(ManuallyDrop::new))
}

/// What the machine is built from, when it does not start fresh.
fn restored(spec: &MachineSpec, files: &Files) -> Result<Option<Restored>, String> {
    let Origin::Restore { state } = &spec.origin else {
        return Ok(None);
    };
    let fd = files.take(state.fd).map_err(|error| error.to_string())?;
    let restored = snapshot::open(File::from(fd)).and_then(|container| container.restore(spec));
    let restored = restored.map_err(|error| format!("{}: {error}", state.name))?;
    Ok(Some(restored))
}

fn start(machine: &Machine, paused: bool) -> Result<(), String> {
    if paused {
        machine.pause()
    } else if machine.stands_still() {
        machine.resume()
    } else {
        machine.start();
        Ok(())
    }
}
