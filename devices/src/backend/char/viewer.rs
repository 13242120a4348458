//! One viewer of a console: its connection, its handshake and its place in the output.
//!
//! ```text
//! accepted --a valid line--> attached --end of file, error--> gone
//!     \--too long, not JSON, ----------------------------------^
//!        end of file
//! ```
//!
//! Nothing here blocks: the socket is non-blocking and what cannot be sent now waits in the history,
//! of which a viewer that is too slow loses the oldest part.

use super::history::History;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vmm_api::console::{Attach, Attached, MAX_LINE, REPLAY_BYTES, Role, to_line};

/// What became of an attempt to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All there is has been moved, or the other side must act first.
    Fine,
    /// The connection is over.
    Over,
}

#[derive(Debug)]
enum Stage {
    /// Its line is awaited; what has come of it.
    Greeting(Vec<u8>),
    Attached,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Viewer {
    /// Tells viewers apart.
    pub(super) number: u64,
    socket: OwnedFd,
    stage: Stage,
    /// The answer, as far as it is not sent.
    answer: Vec<u8>,
    /// Typed together with the line, and not delivered yet.
    typed: Vec<u8>,
    position: u64,
    blocked: bool,
}

impl Viewer {
    pub(super) fn new(number: u64, socket: OwnedFd) -> Self {
        Self {
            number,
            socket,
            stage: Stage::Greeting(Vec::new()),
            answer: Vec::new(),
            typed: Vec::new(),
            position: 0,
            blocked: false,
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(self.stage, Stage::Attached)
    }

    /// The socket takes no more for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Input that came with the line waits to be delivered.
    pub(super) fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Reads the viewer's line; the wish, once it is complete.
    pub(super) fn greet(&mut self) -> Result<Option<Attach>, Progress> {
        let mut buffer = [0; MAX_LINE];
        let bytes = match receive(&self.socket, &mut buffer) {
            Received::Bytes(bytes) => bytes,
            Received::Nothing => return Ok(None),
            Received::Over => return Err(Progress::Over),
        };
        let Stage::Greeting(line) = &mut self.stage else {
            return Ok(None);
        };
        line.extend_from_slice(bytes);
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return if line.len() < MAX_LINE {
                Ok(None)
            } else {
                Err(Progress::Over)
            };
        };
        let wish = line.get(..end).unwrap_or_default();
        let wish = serde_json::from_slice(wish).map_err(|_| Progress::Over)?;
        self.typed = line.split_off(end + 1);
        Ok(Some(wish))
    }

    /// Answers the line; output follows from as far back as the replay reaches.
    pub(super) fn admit(&mut self, role: Role, history: &History) {
        self.position = history
            .head()
            .saturating_sub(REPLAY_BYTES as u64)
            .max(history.oldest());
        self.answer = to_line(&Attached {
            role,
            replay: history.head() - self.position,
        });
        if role == Role::Viewer {
            self.typed.clear();
        }
        self.stage = Stage::Attached;
    }

    /// Sends what is new until there is no more or the socket is full.
    pub(super) fn follow(&mut self, history: &std::sync::Mutex<History>) -> Progress {
        self.blocked = false;
        while !self.answer.is_empty() {
            match send_some(&self.socket, &self.answer) {
                Ok(sent) => {
                    self.answer.drain(..sent.min(self.answer.len()));
                }
                Err(stop) => return self.stop(stop),
            }
        }
        loop {
            // Copied out, so that a vCPU never waits for a socket call.
            let mut buffer = [0; super::worker::BUFFER];
            let bytes = super::worker::copy_new(history, &mut self.position, &mut buffer);
            if bytes.is_empty() {
                return Progress::Fine;
            }
            match send_some(&self.socket, bytes) {
                Ok(sent) => self.position += sent as u64,
                Err(stop) => return self.stop(stop),
            }
        }
    }

    fn stop(&mut self, error: Errno) -> Progress {
        self.blocked = error == Errno::AGAIN;
        if self.blocked {
            Progress::Fine
        } else {
            Progress::Over
        }
    }

    /// Gives up to `buffer.len()` typed bytes.
    pub(super) fn typed<'a>(&mut self, buffer: &'a mut [u8]) -> Result<&'a [u8], Progress> {
        if self.typed.is_empty() {
            return match receive(&self.socket, buffer) {
                Received::Bytes(bytes) => Ok(bytes),
                Received::Nothing => Ok(&[]),
                Received::Over => Err(Progress::Over),
            };
        }
        let count = self.typed.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(self.typed.drain(..count)) {
            *place = byte;
        }
        Ok(buffer.get(..count).unwrap_or_default())
    }

    /// Drops what a viewer types that may not.
    pub(super) fn discard(&mut self) -> Progress {
        let mut buffer = [0; MAX_LINE];
        match receive(&self.socket, &mut buffer) {
            Received::Over => Progress::Over,
            Received::Bytes(_) | Received::Nothing => Progress::Fine,
        }
    }
}

impl AsFd for Viewer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

enum Received<'a> {
    Bytes(&'a [u8]),
    Nothing,
    Over,
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Received<'a> {
    match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Received::Over,
        Ok((count, _)) => Received::Bytes(buffer.get(..count).unwrap_or_default()),
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::Over,
    }
}

fn send_some(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
