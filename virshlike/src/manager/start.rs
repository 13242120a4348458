//! From a definition to a running guest.
//!
//! 1. lock the domain; read its definition, complete it, write it back if that added anything;
//! 2. refuse everything that can be refused: files, formats, locks, memory, KVM ([`machine`]);
//! 3. prepare the runtime directory: run lock, sockets, pty, logs, frozen spec, live XML, record;
//! 4. launch the process and let go of everything that it now holds;
//! 5. wait for its hello and for its guest to run; or say what its last words were.
//!
//! Up to step 3 nothing has changed; after a failure in 3 to 5 no process and no lock is left.

use super::definition::{self, Checked};
use super::streams::{self, create_log, log};
use super::{Domain, Manager, display, machine, numa, pins, tuning, user_network};
use crate::error::{Error, Kind, Result};
use crate::model;
use crate::runtime::driver::{Launch, Launched};
use crate::runtime::guest::{ANSWER, Guest};
use crate::runtime::record::{ProcessMark, RECORD_VERSION, RunRecord};
use crate::runtime::rundir::{CONTROL, RunDir};
use crate::store::{Lock, atomic, journal};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm_api::control::client::ClientError;
use vmm_api::control::{Reply, Request};
use vmm_api::end::EndReason;
use vmm_api::state::RunState;

/// How long a process may take from its start to its hello.
const HELLO: Duration = Duration::from_secs(30);
/// How long a process may take to be gone after its last word.
const GONE: Duration = Duration::from_secs(2);
/// Bytes of one file of the process's own log.
const VMM_LOG: u64 = 1 << 20;
/// The run lock gets at least this number: descriptors close in order, so the lock is given up
/// after the images.
const LOCK_NUMBER: i32 = 512;

/// A guest that was started.
#[derive(Debug)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// What works and may surprise.
    pub warnings: Vec<String>,
}

/// How a domain is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct StartOptions {
    /// Its vCPUs are held until a resume.
    pub paused: bool,
    /// Disks and network cards of other kinds are virtio ones this time; the definition on disk
    /// stays as it is.
    pub map_to_virtio: bool,
}

impl Manager {
    /// Starts a defined domain.
    ///
    /// # Errors
    /// It runs already; its definition or what it needs is wrong; its process failed.
    pub fn start(&self, domain: &Domain, options: StartOptions) -> Result<Started> {
        self.driver.ready()?;
        self.sweep();
        let lock = self.store.lock_domain(domain.uuid, &domain.name)?;
        if self.guest(domain)?.is_some() {
            return Err(Error::new(Kind::State, "Domain is already active"));
        }
        let stored = self.stored(domain)?;
        let mut checked = self.checked(&stored)?;
        if checked.model.uuid.is_none() {
            definition::set_uuid(&mut checked, stored.uuid)?;
        }
        model::complete(&mut checked.document, &mut checked.model)
            .map_err(|found| definition::mistakes(&found))?;
        if checked.document.as_str() != stored.text {
            let writer = self.store.writer()?;
            self.write_back(&writer, &stored.name, &stored.text, &checked)?;
        }
        let mapped = if options.map_to_virtio {
            definition::map_to_virtio(&mut checked)?
        } else {
            Vec::new()
        };
        let mut started = self.run(&checked, domain.uuid, options.paused, false, &lock)?;
        started.warnings.extend(mapped);
        self.note(domain.uuid, "start", &domain.name, "");
        Ok(started)
    }

    /// Starts a domain that has no definition on disk.
    ///
    /// # Errors
    /// As [`Manager::start`], and a name or UUID that is taken.
    pub fn create(&self, text: &str, file: &str, paused: bool) -> Result<Started> {
        self.driver.ready()?;
        self.sweep();
        let mut checked = definition::check(text, file)?;
        crate::store::name::check(&checked.model.name)?;
        let uuid = self.settle_uuid(&mut checked)?;
        model::complete(&mut checked.document, &mut checked.model)
            .map_err(|found| definition::mistakes(&found))?;
        let name = checked.model.name.clone();
        let lock = self.store.lock_domain(uuid, &name)?;
        self.refuse_conflict(&name, uuid, &self.store.survey()?)?;
        if matches!(
            self.run_dir(uuid).liveness()?,
            crate::runtime::Liveness::Alive(_)
        ) {
            return Err(Error::invalid_operation(&format!(
                "domain '{name}' is already active"
            )));
        }
        let persistent = self.store.read(&name)?.is_some();
        let started = self.run(&checked, uuid, paused, !persistent, &lock)?;
        self.note(uuid, "create", &name, "");
        Ok(started)
    }

    fn run(
        &self,
        checked: &Checked,
        uuid: Uuid,
        paused: bool,
        transient: bool,
        _lock: &Lock,
    ) -> Result<Started> {
        refuse_kept(&checked.model)?;
        let file = checked.document.file_name();
        let (plugs, repaired) = self.networks().plugs(&checked.model)?;
        let means = machine::Means {
            kvm: &self.kvm,
            bios: self.bios.as_deref(),
            driver: self.driver.as_ref(),
            plugs: &plugs,
        };
        let mut built = machine::build(&checked.model, uuid, file, &means)
            .map_err(|error| self.name_user(error, &checked.model))?;
        built.warnings.extend(repaired);
        let dir = self.run_dir(uuid);
        dir.tidy()?;
        let Some(lock) = dir.take_lock()? else {
            return Err(Error::new(Kind::State, "Domain is already active"));
        };
        let mut record = RunRecord {
            version: RECORD_VERSION,
            id: 0,
            name: checked.model.name.clone(),
            uuid,
            started: journal::seconds_now(),
            transient,
            pty: None,
            ttys: BTreeMap::new(),
            consoles: BTreeMap::new(),
            sockets: BTreeMap::new(),
            taps: std::mem::take(&mut built.taps),
            helpers: built.helpers.iter().map(|h| h.name.clone()).collect(),
            ports: plugs
                .into_iter()
                .map(|(alias, plug)| (alias, plug.port))
                .collect(),
            cpu: built.cpu.take(),
            cores: Vec::new(),
            vnc: None,
            process: None,
        };
        // Threads are pinned before the first instruction.
        let held = !paused && checked.model.cputune.has_pins();
        built.spec.host.start_paused = paused || held;
        let prepared = self
            .prepare(&dir, &mut built, &mut record, lock, checked)
            .and_then(|launch| {
                user_network::start(std::mem::take(&mut built.helpers), &record)?;
                Ok(launch)
            });
        let launch = match prepared {
            Ok(launch) => launch,
            Err(error) => {
                dir.abandon(&record);
                return Err(error);
            }
        };
        let logs = self.store.layout().logs(&record.name);
        let mut process = match self.driver.launch(launch) {
            Ok(process) => process,
            Err(error) => {
                dir.abandon(&record);
                return Err(error);
            }
        };
        built.warnings.extend_from_slice(process.unlimited());
        record.process = process.pid().and_then(ProcessMark::of);
        let up = dir.write_record(&record).and_then(|()| {
            let guest = Guest::new(record.clone(), dir.clone());
            wait_until_up(&guest)?;
            settle_pins(&guest, &checked.model, held)
        });
        if let Err(error) = up {
            // A guest may be through before it was asked: that is a start and an end, no failure.
            if error.kind == Kind::Guest && ended_soon(process.as_mut()) && ended_in_peace(&dir) {
                return Ok(started(record, built.warnings));
            }
            let error = last_words(error, process.as_mut(), &dir, &logs);
            process.kill();
            // What its end record says is kept for domstate; that failing changes nothing.
            let _ = dir.tidy();
            return Err(error);
        }
        Ok(started(record, built.warnings))
    }

    /// Says which of our own running domains uses a disk, where one does.
    fn name_user(&self, mut error: Error, model: &model::Domain) -> Error {
        if error.kind != Kind::Busy {
            return error;
        }
        let wanted: Vec<(u64, u64)> = files_of(model).collect();
        for guest in self.guests().unwrap_or_default() {
            let live = guest.dir().live().unwrap_or_default();
            let Ok(other) = definition::check(&live, "") else {
                continue;
            };
            if files_of(&other.model).any(|file| wanted.contains(&file)) {
                let name = &guest.record.name;
                error
                    .causes
                    .push(format!("the running domain '{name}' has that disk"));
            }
        }
        error
    }

    fn prepare(
        &self,
        dir: &RunDir,
        built: &mut machine::Built,
        record: &mut RunRecord,
        lock: File,
        checked: &Checked,
    ) -> Result<Launch> {
        let logs = self.store.layout().logs(&record.name);
        atomic::create_dir(&logs, 0o700)?;
        let spec = &mut built.spec;
        let descriptors = &mut built.descriptors;
        streams::open(spec, descriptors, &checked.model, dir, &logs, record)?;
        display::open(spec, descriptors, &checked.model, dir, record)?;
        built.warnings.extend(display::exposed(&checked.model));
        spec.host.control = Some(descriptors.keep(dir.listen(CONTROL)?));
        spec.host.end_reason = Some(descriptors.keep(dir.create_end()?));
        for (file, path) in self.core_files(&checked.model)? {
            record.cores.push(path.display().to_string());
            spec.host.cores.push(descriptors.keep_named(file, &path));
        }
        spec.host.log = Some(log(descriptors, &logs, "vmm.log", VMM_LOG)?);
        let high = rustix::io::fcntl_dupfd_cloexec(&lock, LOCK_NUMBER)
            .map_err(|error| Error::io("hold the lock in", dir.path(), &error.into()))?;
        drop(lock);
        spec.host.run_lock = Some(descriptors.keep(high));
        let json = spec
            .to_json()
            .map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        let spec_file = dir.freeze_spec(&json)?;
        dir.write_live(checked.document.as_str())?;
        self.register(dir, record)?;
        Ok(Launch {
            spec: spec.clone(),
            spec_file,
            descriptors: std::mem::take(descriptors).into_inner(),
            output: create_log(&logs.join("stderr.log"), true)?,
            limits: tuning::at_start(&checked.model),
            memory: checked.model.numatune.as_ref().map(numa::policy),
        })
    }

    /// Gives the run its id, never given twice while the host is up, and writes its record. Under
    /// the store's lock, so that no two runs, and no run and another's definition, get one name.
    fn register(&self, dir: &RunDir, record: &mut RunRecord) -> Result<()> {
        let writer = self.store.writer()?;
        // A name that was free when this start began may have been defined or given since.
        self.refuse_conflict(&record.name, record.uuid, &writer.survey()?)?;
        let guests = self.guests()?;
        if guests.iter().any(|guest| guest.record.name == record.name) {
            return Err(Error::new(
                Kind::Exists,
                format!("another domain runs under the name '{}'", record.name),
            )
            .hint("end or rename one of the two"));
        }
        let path = self.store.layout().run.join("last-id");
        let last: u32 = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0);
        let running = guests.iter().map(|guest| guest.record.id).max();
        record.id = last.max(running.unwrap_or(0)).saturating_add(1);
        atomic::write_volatile(&path, record.id.to_string().as_bytes())?;
        dir.write_record(record)
    }
}

/// Pins the threads of a guest that stands still, and lets it go on where it only stood for that.
fn settle_pins(guest: &Guest, model: &model::Domain, held: bool) -> Result<()> {
    if model.cputune.has_pins() {
        pins::apply(guest, &model.cputune, model.vcpus.current)?;
    }
    if held {
        guest.call(Request::Resume, ANSWER)?;
    }
    Ok(())
}

fn started(record: RunRecord, warnings: Vec<String>) -> Started {
    Started {
        name: record.name,
        id: record.id,
        warnings,
    }
}

/// Whether a process that no longer answers has ended: it closes its socket a little before.
fn ended_soon(process: &mut dyn Launched) -> bool {
    let until = Instant::now() + GONE;
    while process.ended().is_none() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn ended_in_peace(dir: &RunDir) -> bool {
    dir.end_record().is_some_and(|end| {
        matches!(
            end.reason,
            EndReason::Shutdown | EndReason::Rebooted | EndReason::DebugExit
        )
    })
}

/// Device and inode of each of a definition's disks, whatever path leads to them.
fn files_of(model: &model::Domain) -> impl Iterator<Item = (u64, u64)> {
    model.disks.iter().filter_map(|disk| match &disk.source {
        Some(model::DiskSource::File(path) | model::DiskSource::Block(path)) => {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        }
        _ => None,
    })
}

/// Parts that a definition may keep and that no machine of this build has.
fn refuse_kept(model: &model::Domain) -> Result<()> {
    let kept = model.refusals_at_start();
    if kept.is_empty() {
        return Ok(());
    }
    let mut error = definition::mistakes(&kept);
    error.kind = Kind::Unsupported;
    error.message = "the definition asks for what this build cannot do".into();
    Err(error.hint(format!("take it out for now: vm edit {}", model.name)))
}

/// Waits for the hello and for the guest to run. One that stands still already was to be started so, or
/// has run into the error of a disk; its state tells which.
fn wait_until_up(guest: &Guest) -> Result<()> {
    let what = format!("the process of domain '{}'", guest.record.name);
    let explain = |error: ClientError| crate::runtime::guest::explain(&error, &what);
    let mut client = guest.connect(HELLO).map_err(explain)?;
    let deadline = Instant::now() + HELLO;
    loop {
        let reply = client.call(Request::Query, &[], ANSWER).map_err(explain)?;
        let Reply::Status(status) = reply else {
            return Err(Error::new(
                Kind::Guest,
                format!("{what} answered beside the question"),
            ));
        };
        match status.run {
            RunState::Running | RunState::Paused { .. } => return Ok(()),
            RunState::Stopped {
                reason: EndReason::Failed,
            } => return Err(Error::new(Kind::Guest, format!("{what} has ended"))),
            // A guest may be through before it is asked.
            RunState::Stopped { .. } => return Ok(()),
            RunState::Incoming => {}
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                Kind::Timeout,
                format!("waited {} s for the guest to run", HELLO.as_secs()),
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Adds what a failed process said: its end record, or the end of its log.
fn last_words(error: Error, process: &mut dyn Launched, dir: &RunDir, logs: &Path) -> Error {
    let waited = Instant::now() + GONE;
    let mut status = process.ended();
    while status.is_none() && error.kind == Kind::Guest && Instant::now() < waited {
        std::thread::sleep(Duration::from_millis(5));
        status = process.ended();
    }
    if let Some(end) = dir.end_record() {
        let detail = if end.detail.is_empty() {
            "it gave no reason"
        } else {
            &end.detail
        };
        if matches!(end.reason, EndReason::Failed) {
            let name = logs.file_name().unwrap_or_default().to_string_lossy();
            return Error::new(Kind::Guest, detail).hint(format!(
                "correct the definition: vm edit {name}; its process says more: vm logs {name}"
            ));
        }
        return error.cause(format!("it ended with: {} ({detail})", end.reason.as_str()));
    }
    let mut error = match status {
        Some(status) => error.cause(format!("its process ended with {status}")),
        None => error,
    };
    for name in ["stderr.log", "vmm.log"] {
        error.causes.extend(tail(&logs.join(name)));
    }
    error.hint(format!("its log is {}", logs.join("vmm.log").display()))
}

/// The last few lines of a log.
fn tail(path: &Path) -> Vec<String> {
    const BYTES: u64 = 2000;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(4);
    lines
        .iter()
        .skip(from)
        .map(|line| (*line).to_string())
        .collect()
}
