//! Ethernet frames on a stream socket: how passt and QEMU's `-netdev stream` talk.
//!
//! Each frame has its length in front, four bytes with the highest first, and no virtio header: what
//! is not finished on the way (checksums, segments) cannot be said here, so nothing is left unfinished.
//!
//! The manager connects the socket and passes its descriptor. What came without its end, and what went
//! without its end, is kept with the socket and not with who reads and writes: a front-end that is
//! paused, reset or rebuilt goes on in the middle of a frame. Both have bounds; a peer that sends a
//! frame above [`LONGEST`] is no peer that frames can be found with again, and is left.
//!
//! Must never wait, and never trust the peer: it reads what the whole network sends.
//!
//! ```text
//! Connected --its end, an error, a frame that is too long--> Gone
//! ```

mod frames;

pub use frames::{Frames, LONGEST, PREFIX, TooLong};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that wait to be sent before no further frame is taken. A frame that is taken goes in whole.
const OUTGOING: usize = 256 << 10;

/// Why a peer is no longer there.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It closed its side.
    #[error("the peer has closed the connection")]
    Closed,
    /// It sends what are no frames.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The socket fails.
    #[error("the connection fails: {0}")]
    Socket(io::Error),
}

/// How sending went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Everything that was queued went out.
    All,
    /// The peer takes no more for now.
    Blocked,
    /// The host has no memory for it now, and nothing tells when it has.
    Starved,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes.
    Some,
    /// There are none now.
    Nothing,
    /// The host has no memory for it now, and nothing tells when it has.
    Starved,
}

/// Bytes on their way to the peer, the first of which may have gone.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    incoming: Mutex<Frames>,
    outgoing: Mutex<Outgoing>,
    gone: AtomicBool,
}

impl Stream {
    /// Takes a connected stream socket.
    ///
    /// # Errors
    /// For anything else.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        if rustix::net::sockopt::socket_type(&fd)? != rustix::net::SocketType::STREAM {
            let message = "it is no stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        rustix::net::getpeername(&fd)?;
        Ok(Self {
            fd,
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
            gone: AtomicBool::new(false),
        })
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the peer is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether somebody is at the other end, also where nobody reads what they say.
    pub fn has_peer(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        let left = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|left| left > 0);
        !left && !self.is_gone()
    }

    /// Nothing goes either way from now on; true for the first who says so. The peer sees its end.
    pub fn leave(&self) -> bool {
        let first = !self.gone.swap(true, Ordering::AcqRel);
        if first {
            // It fails only where the connection is down already.
            let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
            *self.outgoing() = Outgoing::default();
        }
        first
    }

    /// What has come and was not taken. Not to be held over a wait.
    pub fn incoming(&self) -> MutexGuard<'_, Frames> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the peer has sent into `frames`, which are [`Stream::incoming`] and without a whole
    /// frame.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn receive(&self, frames: &mut Frames) -> Result<Received, Lost> {
        let got =
            rustix::io::retry_on_intr(|| recv(&self.fd, &mut *frames.room(), RecvFlags::DONTWAIT));
        match got {
            Ok((0, _)) => Err(Lost::Closed),
            Ok((count, _)) => {
                frames.filled(count);
                Ok(Received::Some)
            }
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => refused(error).map(|()| Received::Starved),
        }
    }

    /// Queues a frame of `length` bytes, 1 to [`LONGEST`], which `copy` copies in; returns how many it
    /// copied. False when too much is queued already, or the length is none of a frame.
    pub fn queue(&self, length: usize, copy: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let mut outgoing = self.outgoing();
        let Some(prefix) = frames::prefix(length) else {
            return false;
        };
        if outgoing.bytes.len() - outgoing.sent >= OUTGOING {
            return false;
        }
        outgoing.bytes.extend(prefix);
        let start = outgoing.bytes.len();
        outgoing.bytes.resize(start + length, 0);
        // What is not copied goes as zeroes: the length has been said.
        copy(outgoing.bytes.get_mut(start..).unwrap_or_default());
        true
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn flush(&self) -> Result<Sent, Lost> {
        let mut outgoing = self.outgoing();
        loop {
            let rest = outgoing.bytes.get(outgoing.sent..).unwrap_or_default();
            if rest.is_empty() {
                outgoing.bytes.clear();
                outgoing.sent = 0;
                return Ok(Sent::All);
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::io::retry_on_intr(|| send(&self.fd, rest, flags)) {
                Ok(count) => outgoing.sent += count,
                Err(Errno::AGAIN) => {
                    let sent = std::mem::take(&mut outgoing.sent);
                    outgoing.bytes.drain(..sent);
                    return Ok(Sent::Blocked);
                }
                Err(error) => return refused(error).map(|()| Sent::Starved),
            }
        }
    }
}

/// What an error of the socket says of the connection: nothing, or that it is lost.
fn refused(error: Errno) -> Result<(), Lost> {
    match error {
        Errno::NOBUFS | Errno::NOMEM => Ok(()),
        Errno::PIPE | Errno::CONNRESET => Err(Lost::Closed),
        error => Err(Lost::Socket(error.into())),
    }
}

#[cfg(test)]
mod tests;
