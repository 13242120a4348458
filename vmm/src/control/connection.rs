//! One client: bytes in, bytes out, never waiting.
//!
//! Frames are read piece by piece and never past their end, so the descriptors that come with a
//! piece belong to the frame that is being read. A length is checked before memory is taken for it,
//! and memory grows with what really came.

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vmm_api::control::frame::{Frame, MAX_FDS, MAX_FRAME};

/// Bytes that may wait for a client before it counts as gone: it does not read.
const MAX_WAITING: usize = 4 << 20;
/// Bytes read at once.
const PIECE: usize = 16 << 10;

/// Why a client is dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Dropped {
    #[error("it closed the connection")]
    Closed,
    #[error("it does not read its answers")]
    Slow,
    #[error("{0}")]
    Nonsense(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    /// The frame that is being read: its length prefix, then its body.
    head: Vec<u8>,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
    out: Vec<u8>,
    sent: usize,
    pub(super) greeted: bool,
    pub(super) wants_events: bool,
    /// Calls that were not answered yet.
    pub(super) open_calls: usize,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            head: Vec::with_capacity(4),
            body: Vec::new(),
            fds: Vec::new(),
            out: Vec::new(),
            sent: 0,
            greeted: false,
            wants_events: false,
            open_calls: 0,
        })
    }

    /// Whether something waits to be sent.
    pub(super) fn has_output(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Reads on; a frame when one is complete, `None` when there is nothing more to read now.
    pub(super) fn receive(&mut self) -> Result<Option<Frame>, Dropped> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                self.head.clear();
                return Ok(Some(Frame {
                    body: std::mem::take(&mut self.body),
                    fds: std::mem::take(&mut self.fds),
                }));
            }
            let mut piece = [0; PIECE];
            let room = piece.get_mut(..missing.min(PIECE)).unwrap_or_default();
            let count = match self.read(room) {
                Ok(0) => return Err(Dropped::Closed),
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let came = piece.get(..count).unwrap_or_default();
            if self.head.len() < 4 {
                self.head.extend_from_slice(came);
            } else {
                self.body.extend_from_slice(came);
            }
            if self.fds.len() > MAX_FDS {
                return Err(Dropped::Nonsense("too many descriptors in a frame".into()));
            }
        }
    }

    /// Bytes until the length, or else the frame, is complete.
    fn missing(&self) -> Result<usize, Dropped> {
        let Ok(head) = <[u8; 4]>::try_from(self.head.as_slice()) else {
            return Ok(4 - self.head.len());
        };
        let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            let text = format!("a frame of {length} bytes; at most {MAX_FRAME} are taken");
            return Err(Dropped::Nonsense(text));
        }
        if length == 0 {
            return Err(Dropped::Nonsense("an empty frame".into()));
        }
        Ok(length - self.body.len())
    }

    fn read(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(room)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )?;
        for item in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = item {
                self.fds.extend(fds);
            }
        }
        Ok(message.bytes)
    }

    /// Queues one value as a frame.
    pub(super) fn push<T: serde::Serialize>(&mut self, value: &T) -> Result<(), Dropped> {
        let body = serde_json::to_vec(value).map_err(io::Error::other)?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= MAX_FRAME);
        let length = length.ok_or_else(|| io::Error::other("an answer over the frame limit"))?;
        if self.out.len() - self.sent + body.len() > MAX_WAITING {
            return Err(Dropped::Slow);
        }
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(&body);
        self.flush()
    }

    /// Sends as much as the client takes.
    pub(super) fn flush(&mut self) -> Result<(), Dropped> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(
                &self.socket,
                rest,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        if self.sent >= self.out.len() {
            self.out = Vec::new();
            self.sent = 0;
        } else if self.sent > MAX_FRAME {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
