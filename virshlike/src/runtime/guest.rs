//! A living guest, spoken to over its control socket, with a deadline on every wait.

use super::record::RunRecord;
use super::rundir::{CONSOLE, CONTROL, RunDir};
use crate::error::{Error, Kind, Result};
use crate::store::journal;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vmm_api::control::client::{Client, ClientError};
use vmm_api::control::{Event, Reply, Request, Status};
use vmm_api::end::{EndReason, EndRecord};

/// How long a healthy process may take to answer.
pub const ANSWER: Duration = Duration::from_secs(5);
/// How long a process may take to go, images flushed, after it was told to.
pub const LEAVE: Duration = Duration::from_secs(30);

/// A living guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// What was written down when it was started.
    pub record: RunRecord,
    dir: RunDir,
}

impl Guest {
    /// The guest whose runtime directory said that it lives.
    pub fn new(record: RunRecord, dir: RunDir) -> Self {
        Self { record, dir }
    }

    /// Its runtime directory.
    pub fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// A connection to its process.
    ///
    /// # Errors
    /// Nobody answers within `patience`.
    pub fn connect(&self, patience: Duration) -> Result<Client, ClientError> {
        let socket = self.dir.connect(CONTROL).map_err(ClientError::Connect)?;
        Client::from_socket(socket, patience)
    }

    /// A connection to its console: the one of this alias, or the first.
    ///
    /// # Errors
    /// What the socket says; not found when there is none of that alias.
    pub fn console(&self, alias: Option<&str>) -> io::Result<UnixStream> {
        match alias {
            None => self.dir.connect(CONSOLE),
            Some(alias) => match self.record.consoles.get(alias) {
                Some(name) => self.dir.connect(name),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }

    /// A connection to the socket of the channel with this alias.
    ///
    /// # Errors
    /// What the socket says; not found when there is no such channel.
    pub fn channel(&self, alias: &str) -> io::Result<UnixStream> {
        let path = self.record.sockets.get(alias);
        let path = Path::new(path.ok_or(io::ErrorKind::NotFound)?);
        match path.strip_prefix(self.dir.path()) {
            // A socket's path may have 107 bytes only, and the directory may lie deeper.
            Ok(name) => self.dir.connect(&name.to_string_lossy()),
            Err(_) => UnixStream::connect(path),
        }
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// A refusal in the machine's own words, or that nobody answered in time.
    pub fn call(&self, request: Request, patience: Duration) -> Result<Reply> {
        let what = format!("the process of domain '{}'", self.record.name);
        self.connect(ANSWER)
            .and_then(|mut client| client.call(request, &[], patience))
            .map_err(|error| explain(&error, &what))
    }

    /// What it is doing.
    ///
    /// # Errors
    /// As [`Guest::call`].
    pub fn status(&self, patience: Duration) -> Result<Status> {
        match self.call(Request::Query, patience)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(Error::new(
                Kind::Guest,
                "the guest's process answered beside the question",
            )),
        }
    }

    /// Ends it and returns when its process is gone, and with it every lock that it held. One that
    /// does not answer is killed.
    ///
    /// # Errors
    /// It is still there after [`LEAVE`].
    pub fn destroy(&self) -> Result<()> {
        let process = self.process();
        let told = self
            .connect(ANSWER)
            .and_then(|mut client| client.call(Request::Destroy, &[], ANSWER));
        let patience = match told {
            Ok(_) | Err(ClientError::Closed) => LEAVE,
            Err(_) => Duration::ZERO,
        };
        if self.wait_gone(process.as_ref(), patience)? {
            return Ok(());
        }
        if let Some(process) = &process {
            tracing::warn!(
                domain = self.record.name,
                "the process does not answer: killing it"
            );
            // It fails only when the process is gone already.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        if self.wait_gone(process.as_ref(), LEAVE)? {
            let why = "its process did not answer and was killed";
            let end = EndRecord::new(EndReason::Destroyed, why, journal::seconds_now());
            return self.dir.say_end(&end);
        }
        Err(Error::new(
            Kind::Timeout,
            format!(
                "waited {} s for the process of domain '{}' to end",
                LEAVE.as_secs(),
                self.record.name
            ),
        )
        .hint("it may hang in the kernel on its storage: see dmesg and the state of its process"))
    }

    /// A handle to the process that cannot hit another one.
    pub fn process(&self) -> Option<OwnedFd> {
        let mark = self.record.process?;
        let pid = Pid::from_raw(i32::try_from(mark.pid).ok()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after opening: from here on the handle stays with this very process.
        mark.exists().then_some(process)
    }

    /// Waits until lock and process are gone; `false` when they are not within `patience`.
    fn wait_gone(&self, process: Option<&OwnedFd>, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let gone = process.is_none_or(|process| has_ended(process, left));
            if gone && !self.dir.lock_is_held()? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
            if gone {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Waits until it has ended, up to `patience`; `false` when it has not.
    ///
    /// # Errors
    /// A runtime directory that cannot be read.
    pub fn wait_end(&self, patience: Duration) -> Result<bool> {
        self.wait_gone(self.process().as_ref(), patience)
    }

    /// A connection on which its events arrive from now on.
    ///
    /// # Errors
    /// As [`Guest::call`].
    pub fn subscribe(&self) -> Result<Client> {
        let what = format!("the process of domain '{}'", self.record.name);
        let subscribe = || {
            let mut client = self.connect(ANSWER)?;
            client.call(Request::Events, &[], ANSWER)?;
            Ok(client)
        };
        subscribe().map_err(|error| explain(&error, &what))
    }

    /// The events that arrive, one after the other, until it ends or `next` says enough.
    ///
    /// # Errors
    /// A broken connection; the end of the guest is none.
    pub fn events(&self, mut client: Client, mut next: impl FnMut(Event) -> bool) -> Result<()> {
        let what = format!("the process of domain '{}'", self.record.name);
        loop {
            match client.next_event(Duration::from_secs(3600)) {
                Ok(event) => {
                    if !next(event) {
                        return Ok(());
                    }
                }
                Err(ClientError::Closed) => return Ok(()),
                Err(ClientError::Timeout(_)) => {}
                Err(error) => return Err(explain(&error, &what)),
            }
        }
    }
}

/// Whether a process has ended, waiting for that up to `patience`.
fn has_ended(process: &OwnedFd, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap_or_default();
    poll(&mut fds, Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// A control error in words for the operator.
pub fn explain(error: &ClientError, what: &str) -> Error {
    match error {
        ClientError::Refused(refusal) => {
            let kind = match refusal.kind {
                vmm_api::control::ErrorKind::State => Kind::State,
                vmm_api::control::ErrorKind::Unsupported => Kind::Unsupported,
                _ => Kind::Guest,
            };
            let message = match kind {
                Kind::State => format!("Requested operation is not valid: {}", refusal.message),
                _ => refusal.message.clone(),
            };
            Error::new(kind, message)
        }
        ClientError::Timeout(waited) => Error::new(
            Kind::Timeout,
            format!(
                "waited {:.1} s for an answer of {what}",
                waited.as_secs_f32()
            ),
        )
        .hint("look at its log with 'vm logs', or end it with 'vm destroy'"),
        ClientError::Closed => Error::new(Kind::Guest, format!("{what} has ended")),
        // The same, met a moment earlier or later.
        ClientError::Connect(error) | ClientError::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            ) =>
        {
            Error::new(Kind::Guest, format!("{what} has ended"))
        }
        other => Error::new(Kind::Guest, format!("cannot talk to {what}")).cause(other.to_string()),
    }
}
