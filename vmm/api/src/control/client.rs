//! A blocking client of the control protocol, with a deadline on every wait.
//!
//! It must never wait for ever: a `vmm` that hangs is an error that names the time waited.

use super::{Call, ControlError, Event, Hello, Message, Outcome, Reply, Request, frame};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What can go wrong on the client's side.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the socket cannot be reached.
    #[error("cannot reach the control socket: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the control connection broke: {0}")]
    Io(#[source] io::Error),
    /// The `vmm` closed the connection: it has ended.
    #[error("the control connection was closed by the guest's process")]
    Closed,
    /// No answer in time.
    #[error("no answer from the guest's process within {0:?}")]
    Timeout(Duration),
    /// No protocol version in common.
    #[error(
        "the guest's process (build {build}) speaks protocol {min} to {max}, this build speaks {} to {}",
        super::VERSION_MIN,
        super::VERSION_MAX
    )]
    Version {
        /// The other side's build.
        build: String,
        /// Its oldest version.
        min: u32,
        /// Its newest version.
        max: u32,
    },
    /// A frame that is no message.
    #[error("the guest's process sent something that is no message: {0}")]
    Garbled(#[source] serde_json::Error),
    /// The request was answered with an error.
    #[error(transparent)]
    Refused(#[from] ControlError),
}

/// A connection to a `vmm`.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    hello: Hello,
    next_id: u64,
    events: VecDeque<Event>,
}

impl Client {
    /// Connects and exchanges hellos.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Version`], or a broken or silent peer.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let socket = UnixStream::connect(path).map_err(ClientError::Connect)?;
        Self::from_socket(socket, timeout)
    }

    /// Exchanges hellos on a connected socket.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn from_socket(socket: UnixStream, timeout: Duration) -> Result<Self, ClientError> {
        socket
            .set_write_timeout(Some(timeout))
            .map_err(ClientError::Io)?;
        let ours = Hello::ours(&[]);
        frame::send_json(&socket, &ours, &[]).map_err(ClientError::Io)?;
        let mut client = Self {
            socket,
            hello: ours,
            next_id: 1,
            events: VecDeque::new(),
        };
        let body = client.receive(Instant::now() + timeout, timeout)?;
        let theirs: Hello = serde_json::from_slice(&body).map_err(ClientError::Garbled)?;
        if client.hello.common(&theirs).is_none() {
            return Err(ClientError::Version {
                build: theirs.build,
                min: theirs.min,
                max: theirs.max,
            });
        }
        client.hello = theirs;
        Ok(client)
    }

    /// What the other side said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Sends a request and waits for its answer; events that come meanwhile are kept for
    /// [`Client::next_event`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the machine's own reason; else a broken or silent peer.
    pub fn call(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        frame::send_json(&self.socket, &Call { id, request }, fds).map_err(ClientError::Io)?;
        let deadline = Instant::now() + timeout;
        loop {
            match self.message(deadline, timeout)? {
                Message::Answer {
                    id: answered,
                    outcome,
                } if answered == id => {
                    return match outcome {
                        Outcome::Ok(reply) => Ok(reply),
                        Outcome::Error(error) => Err(error.into()),
                    };
                }
                Message::Answer { .. } => {}
                Message::Event { event } => self.events.push_back(event),
            }
        }
    }

    /// The next event, after [`Request::Events`] was answered.
    ///
    /// # Errors
    /// [`ClientError::Timeout`] when none came in time; [`ClientError::Closed`] at the end.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Event, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let Message::Event { event } = self.message(deadline, timeout)? {
                self.events.push_back(event);
            }
        }
    }

    fn message(&mut self, deadline: Instant, asked: Duration) -> Result<Message, ClientError> {
        let body = self.receive(deadline, asked)?;
        serde_json::from_slice(&body).map_err(ClientError::Garbled)
    }

    fn receive(&mut self, deadline: Instant, asked: Duration) -> Result<Vec<u8>, ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Timeout(asked));
        }
        self.socket
            .set_read_timeout(Some(left))
            .map_err(ClientError::Io)?;
        match frame::receive(&self.socket) {
            Ok(Some(frame)) => Ok(frame.body),
            Ok(None) => Err(ClientError::Closed),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(asked),
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                    ClientError::Closed
                }
                _ => ClientError::Io(error),
            }),
        }
    }
}
