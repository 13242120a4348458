//! Bytes of a client's socket, without ever blocking the thread.

use images::exec::{readable, writable};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::{AsFd, OwnedFd};

/// The client is to be left: it has gone, has made no sense, or may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone(pub(super) &'static str);

/// A socket, and what came and was not looked at yet.
pub(super) struct Incoming<'s> {
    socket: &'s OwnedFd,
    buffer: Vec<u8>,
}

/// Bytes of one read.
const CHUNK: usize = 4096;
/// Bytes that wait to be looked at, at most: more than any message that is kept.
const MOST: usize = 64 << 10;

impl<'s> Incoming<'s> {
    pub(super) fn new(socket: &'s OwnedFd) -> Self {
        Self::with(socket, Vec::new())
    }

    /// As [`Incoming::new`], after these bytes.
    pub(super) fn with(socket: &'s OwnedFd, buffer: Vec<u8>) -> Self {
        Self { socket, buffer }
    }

    /// What has come so far.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// The first `count` bytes, or as many as there are, have been dealt with.
    pub(super) fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count);
        count
    }

    /// Waits for more.
    pub(super) async fn more(&mut self) -> Result<(), Gone> {
        if self.buffer.len() >= MOST {
            return Err(Gone("it said too much at once"));
        }
        loop {
            let mut chunk = [0; CHUNK];
            match recv(self.socket, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(Gone("it has left")),
                Ok((_, got)) => {
                    self.buffer
                        .extend_from_slice(chunk.get(..got).unwrap_or_default());
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => readable(self.socket.as_fd())
                    .await
                    .map_err(|_| Gone("its socket failed"))?,
                Err(_) => return Err(Gone("its socket failed")),
            }
        }
    }

    /// Waits for exactly `N` bytes.
    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], Gone> {
        while self.buffer.len() < N {
            self.more().await?;
        }
        let array = self.buffer.first_chunk::<N>().copied().unwrap_or([0; N]);
        self.consume(N);
        Ok(array)
    }
}

/// Writes all of `bytes`, as fast as the client reads.
pub(super) async fn write(socket: &OwnedFd, mut bytes: &[u8]) -> Result<(), Gone> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => writable(socket.as_fd())
                .await
                .map_err(|_| Gone("its socket failed"))?,
            Err(_) => return Err(Gone("it does not read any more")),
        }
    }
    Ok(())
}
