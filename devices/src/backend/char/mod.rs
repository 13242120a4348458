//! A console: one [`Hub`] between a serial front-end and everybody who listens or types.
//!
//! ```text
//!                        vCPU thread                       |  hub thread
//!  guest writes --> Hub::write --> History (last 128 KiB) -+--> log (rotating files)
//!                       |                                  +--> pty master   (dropped when full)
//!                       +--> plain output, at once         +--> viewers      (slow ones lose output)
//!                            (what does not fit at once: ---> the hub thread writes it)
//!
//!  guest reads  <-- Front::receive <-- queue, hub thread <----- the viewer that writes, the pty
//! ```
//!
//! The story, in files: [`history`] holds the last output with absolute positions, so that every
//! listener is only a position in it; [`output`] writes the plain output without waiting; [`log`]
//! rotates; [`viewer`] is one connection and its handshake; [`input`] holds what was typed until the
//! guest takes it, also after the viewer has left; [`worker`] is the one thread that polls all of
//! them. The thread is started with the hub when somebody can come in (console socket, pty),
//! otherwise by the first byte that needs it.
//!
//! A vCPU that writes takes one short lock and, at most every few milliseconds, rings an eventfd. It
//! never waits for a disk, a terminal or a viewer: whoever is too slow loses output, which is
//! counted. The exception is a plain output that is a regular file, which only a choking disk delays.

mod history;
mod input;
mod log;
mod output;
mod viewer;
mod worker;

pub use log::{LogFiles, RotatingLog};

use crate::files::{Files, MissingFd};
use history::History;
use output::Output;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use vmm_api::spec::{Fd, LogSpec, SerialSpec};

/// The hub's thread copies bytes and keeps its buffers small.
const STACK: usize = 128 << 10;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A console socket's first line of any bytes, for fuzz bodies.
pub(crate) fn greet(socket: OwnedFd) -> bool {
    let mut viewer = viewer::Viewer::new(0, socket);
    // Read until the line is whole, wrong or at its end; the other side has closed.
    while let Ok(wish) = viewer.greet() {
        if let Some(wish) = wish {
            let role = match wish.write {
                true => vmm_api::console::Role::Writer,
                false => vmm_api::console::Role::Viewer,
            };
            viewer.admit(role, &History::default());
            let mut buffer = [0; 16];
            while viewer
                .typed(&mut buffer)
                .is_ok_and(|bytes| !bytes.is_empty())
            {}
            return true;
        }
    }
    false
}

/// The device that input goes to.
pub trait Front: Send + Sync {
    /// How many bytes it takes now.
    fn room(&self) -> usize;
    /// Takes input, never more than [`Front::room`] said.
    fn receive(&self, bytes: &[u8]);
}

/// The descriptors of one console; all are optional.
#[derive(Debug, Default)]
pub struct HubFiles {
    /// Where everything written is kept.
    pub log: Option<LogFiles>,
    /// A listening Unix stream socket for viewers.
    pub console: Option<OwnedFd>,
    /// The master side of a pty.
    pub pty: Option<OwnedFd>,
    /// A plain output.
    pub output: Option<OwnedFd>,
}

impl HubFiles {
    /// Takes what the spec of a serial port names.
    ///
    /// # Errors
    /// [`MissingFd`] for the first one that was not passed.
    pub fn take(spec: &SerialSpec, files: &Files) -> Result<Self, MissingFd> {
        let output = spec.output.map(|fd| files.take(fd)).transpose()?;
        let rest = Self::take_visited(spec.log.as_ref(), spec.console, spec.pty, files)?;
        Ok(Self { output, ..rest })
    }

    /// Takes a log, a console socket and a pty, as far as they are named.
    ///
    /// # Errors
    /// As [`HubFiles::take`].
    pub fn take_visited(
        log: Option<&LogSpec>,
        console: Option<Fd>,
        pty: Option<Fd>,
        files: &Files,
    ) -> Result<Self, MissingFd> {
        let take = |fd: Option<_>| fd.map(|fd| files.take(fd)).transpose();
        Ok(Self {
            log: log.map(|log| LogFiles::take(log, files)).transpose()?,
            console: take(console)?,
            pty: take(pty)?,
            output: None,
        })
    }
}

/// What a hub counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that did not reach the log: the disk was full or slower than the guest.
    pub log_lost: u64,
    /// Viewers attached now.
    pub viewers: u64,
}

/// What the vCPUs and the hub's thread share.
struct Shared {
    id: String,
    history: Mutex<History>,
    output: Option<Output>,
    front: Mutex<Option<Weak<dyn Front>>>,
    /// Held by the thread from asking for room to handing input over.
    delivery: Mutex<()>,
    wake: OwnedFd,
    /// Somebody besides the plain output wants what is written.
    followed: AtomicBool,
    /// The thread waits without a time limit: new output must wake it.
    asleep: AtomicBool,
    /// The thread has input that the front-end had no room for.
    starved: AtomicBool,
    closing: AtomicBool,
    /// How far everybody has got whom it is worth waiting for.
    carried: Mutex<u64>,
    carried_on: Condvar,
    log_lost: AtomicU64,
    viewers: AtomicU64,
}

impl Shared {
    fn ring(&self) {
        // Fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Whether the thread has nothing left to carry: the plain output got everything from the vCPU,
    /// and there is nobody else.
    fn nobody_waits(&self) -> bool {
        let history = lock(&self.history);
        let written = self.output.is_none() || history.output_at == history.head();
        written && !self.followed.load(Ordering::SeqCst)
    }

    fn front(&self) -> Option<Arc<dyn Front>> {
        lock(&self.front).as_ref()?.upgrade()
    }
}

enum Worker {
    /// Not started; what it will serve.
    Waiting(Box<worker::Endpoints>),
    Running(JoinHandle<()>),
    /// Could not be started, or has been ended.
    Gone,
}

/// A console.
pub struct Hub {
    shared: Arc<Shared>,
    worker: Mutex<Worker>,
    started: AtomicBool,
}

fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Makes a pty carry bytes as they are, and keeps its other side open: otherwise the master would
/// report a hang-up for as long as no terminal is attached.
fn hold_pty(master: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let slave = ioctl_tiocgptpeer(
        master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    let mut settings = tcgetattr(&slave)?;
    settings.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &settings)?;
    set_nonblocking(master)?;
    Ok(slave)
}

impl Hub {
    /// A hub on `files`. `id` is the device's alias, for messages and the thread's name.
    ///
    /// # Errors
    /// What the host says; a `pty` that is no pty master.
    pub fn new(id: &str, files: HubFiles) -> io::Result<Arc<Self>> {
        let pty = match files.pty {
            Some(master) => {
                let slave = hold_pty(&master)?;
                Some(worker::Pty::new(master, slave))
            }
            None => None,
        };
        if let Some(console) = &files.console {
            set_nonblocking(console)?;
        }
        let log = files.log.map(RotatingLog::new).transpose()?;
        let output = files.output.map(Output::new).transpose()?;
        let visited = pty.is_some() || files.console.is_some();
        let shared = Arc::new(Shared {
            id: id.into(),
            history: Mutex::default(),
            output,
            front: Mutex::new(None),
            delivery: Mutex::new(()),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            followed: AtomicBool::new(log.is_some() || pty.is_some()),
            asleep: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            carried: Mutex::new(0),
            carried_on: Condvar::new(),
            log_lost: AtomicU64::new(0),
            viewers: AtomicU64::new(0),
        });
        let endpoints = worker::Endpoints {
            log,
            console: files.console,
            pty,
        };
        let hub = Arc::new(Self {
            shared,
            worker: Mutex::new(Worker::Waiting(Box::new(endpoints))),
            started: AtomicBool::new(false),
        });
        if visited {
            hub.start();
        }
        Ok(hub)
    }

    /// Input goes to `front` from now on.
    pub fn attach(&self, front: Weak<dyn Front>) {
        *lock(&self.shared.front) = Some(front);
        self.input_wanted();
    }

    /// Takes what the guest wrote. Never blocks.
    pub fn write(&self, bytes: &[u8]) {
        let lags = {
            let mut history = lock(&self.shared.history);
            history.push(bytes);
            match &self.shared.output {
                Some(output) => !output.follow(&mut history),
                None => false,
            }
        };
        // The thread says that it sleeps before it looks at the history for the last time, and this
        // asks after the push: one of the two sees the other.
        if lags || self.shared.followed.load(Ordering::SeqCst) {
            if !self.started.load(Ordering::Acquire) {
                self.start();
            }
            if self.shared.asleep.swap(false, Ordering::SeqCst) {
                self.shared.ring();
            }
        }
    }

    /// The front-end may have room for input again. Cheap; called after every read.
    pub fn input_wanted(&self) {
        if self.shared.starved.load(Ordering::SeqCst)
            && self.shared.starved.swap(false, Ordering::SeqCst)
        {
            self.shared.ring();
        }
    }

    /// Returns when no input is being handed over. The caller has made its room 0 before.
    pub fn quiesce(&self) {
        drop(lock(&self.shared.delivery));
    }

    /// Returns when what was written so far has reached the log and the plain output, and every
    /// viewer that keeps up; or after a short while, when one of them cannot be written.
    pub fn flush(&self) {
        if !matches!(*lock(&self.worker), Worker::Running(_)) || self.shared.nobody_waits() {
            return;
        }
        let head = lock(&self.shared.history).head();
        self.shared.ring();
        let carried = lock(&self.shared.carried);
        // Whatever ends the wait, there is nothing more to do about it.
        let _ = self
            .shared
            .carried_on
            .wait_timeout_while(carried, worker::LAST_WORDS, |carried| *carried < head);
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        Counters {
            log_lost: self.shared.log_lost.load(Ordering::Relaxed),
            viewers: self.shared.viewers.load(Ordering::Relaxed),
        }
    }

    fn start(&self) {
        let mut worker = lock(&self.worker);
        let endpoints = match std::mem::replace(&mut *worker, Worker::Gone) {
            Worker::Waiting(endpoints) => endpoints,
            other => {
                *worker = other;
                return;
            }
        };
        self.started.store(true, Ordering::Release);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("console".into())
            .stack_size(STACK)
            .spawn(move || worker::run(&shared, *endpoints));
        match thread {
            Ok(thread) => *worker = Worker::Running(thread),
            Err(error) => tracing::error!(
                %error,
                device = self.shared.id,
                "no thread for the console: the guest runs on without log, viewers and pty"
            ),
        }
    }
}

impl Hub {
    /// The last words, as when it is dropped, for a process that is about to end. Costs nothing when
    /// nobody is behind.
    pub fn close(&self) {
        if !self.shared.nobody_waits() {
            self.end();
        }
    }

    fn end(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.ring();
        let worker = std::mem::replace(&mut *lock(&self.worker), Worker::Gone);
        if let Worker::Running(thread) = worker
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Hub {
    /// Waits until what the guest wrote last is in the log, and for a short while for the others.
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
