//! Frames: a little-endian u32 length, then that many bytes of JSON; descriptors ride on the first
//! byte as `SCM_RIGHTS`.
//!
//! The length is checked before anything is allocated. A reader must never be blocked for ever by
//! a peer that stops in the middle: set a timeout on the socket.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Longest JSON text of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;
/// Most descriptors beside one frame.
pub const MAX_FDS: usize = 16;

/// A frame that came in.
#[derive(Debug)]
pub struct Frame {
    /// The JSON text.
    pub body: Vec<u8>,
    /// Descriptors, in the order sent; close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Sends one frame.
///
/// # Errors
/// `InvalidInput` when the body or the descriptors are over the limits; else what the socket says.
pub fn send(mut socket: &UnixStream, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME);
    let Some(length) = length.filter(|_| fds.len() <= MAX_FDS) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "control frame over its limits",
        ));
    };
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "descriptors do not fit",
        ));
    }
    let sent = loop {
        match sendmsg(
            socket.as_fd(),
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    socket.write_all(bytes.get(sent..).unwrap_or_default())
}

/// Receives one frame; `None` when the peer closed between frames.
///
/// # Errors
/// `InvalidData` for a length over [`MAX_FRAME`]; `UnexpectedEof` when the peer closes inside a
/// frame; else what the socket says (`WouldBlock` for a timeout).
pub fn receive(mut socket: &UnixStream) -> io::Result<Option<Frame>> {
    let mut head = [0u8; 4];
    let mut fds = Vec::new();
    let got = receive_with_fds(socket, &mut head, &mut fds)?;
    if got == 0 {
        return Ok(None);
    }
    socket.read_exact(head.get_mut(got..).unwrap_or_default())?;
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        let message = format!("control frame of {length} bytes; at most {MAX_FRAME} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some(Frame { body, fds }))
}

fn receive_with_fds(
    socket: &UnixStream,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    Ok(message.bytes)
}

/// Sends a serialisable value as one frame.
///
/// # Errors
/// As [`send`].
pub fn send_json<T: serde::Serialize>(
    socket: &UnixStream,
    value: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(value).map_err(io::Error::other)?;
    send(socket, &body, fds)
}
