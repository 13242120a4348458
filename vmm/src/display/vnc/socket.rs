//! Bytes of a client's socket, without ever blocking the thread: as they are, or as the content of a
//! WebSocket's messages.

use super::web::Web;
use images::exec::{readable, writable};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// The client is to be left: it has gone, has made no sense, or may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone(pub(super) &'static str);

/// What a client says when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RFB.
    Plain,
    /// HTTP first, then RFB in messages of a WebSocket.
    Web,
}

/// Bytes that wait to be looked at, at most: more than any message that is kept.
const MOST: usize = 64 << 10;
/// Bytes of one read.
const CHUNK: usize = 4096;

/// A descriptor that two may read and write.
#[derive(Debug, Clone)]
pub(super) struct Raw(Rc<OwnedFd>);

impl Raw {
    /// Waits until there is something to read.
    pub(super) async fn readable(&self) -> Result<(), Gone> {
        let waited = readable(self.0.as_fd()).await;
        waited.map_err(|_| Gone("its socket failed"))
    }

    /// Waits until it takes something.
    pub(super) async fn writable(&self) -> Result<(), Gone> {
        let waited = writable(self.0.as_fd()).await;
        waited.map_err(|_| Gone("its socket failed"))
    }
}

/// Reads and writes that would block say so.
impl io::Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, got) = recv(&self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(got)
    }
}

impl io::Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(send(&self.0, bytes, flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's socket.
pub(super) enum Socket {
    Plain(Raw),
    Web(Box<Web>),
}

impl Socket {
    /// A socket whose client speaks in this way; with HTTP that part is over when this returns.
    /// `strict` keeps pages of other hosts out.
    pub(super) async fn open(fd: OwnedFd, dialect: Dialect, strict: bool) -> Result<Self, Gone> {
        let raw = Raw(Rc::new(fd));
        match dialect {
            Dialect::Plain => Ok(Self::Plain(raw)),
            Dialect::Web => {
                let web = Web::accept(raw, strict).await?;
                Ok(Self::Web(Box::new(web)))
            }
        }
    }

    /// Waits for bytes and appends them.
    async fn read(&self, buffer: &mut Vec<u8>) -> Result<(), Gone> {
        match self {
            Self::Plain(raw) => read(raw, buffer).await,
            Self::Web(web) => web.read(buffer).await,
        }
    }

    /// Writes all of `bytes`, as fast as the client reads.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        match self {
            Self::Plain(raw) => write(raw, bytes).await,
            Self::Web(web) => web.write(bytes).await,
        }
    }
}

async fn read(raw: &Raw, buffer: &mut Vec<u8>) -> Result<(), Gone> {
    loop {
        match append(raw, buffer) {
            Ok(0) => return Err(Gone("it has left")),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => raw.readable().await?,
            Err(_) => return Err(Gone("its socket failed")),
        }
    }
}

/// Appends what has come; how much that was. Here and not where it is waited, so that the chunk is no part
/// of what waits.
fn append(raw: &Raw, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    let mut chunk = [0; CHUNK];
    let (_, got) = recv(&raw.0, &mut chunk, RecvFlags::DONTWAIT)?;
    buffer.extend_from_slice(chunk.get(..got).unwrap_or_default());
    Ok(got)
}

async fn write(raw: &Raw, mut bytes: &[u8]) -> Result<(), Gone> {
    while !bytes.is_empty() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(&raw.0, bytes, flags) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => raw.writable().await?,
            Err(_) => return Err(Gone("it does not read any more")),
        }
    }
    Ok(())
}

/// A socket, and what came and was not looked at yet.
pub(super) struct Incoming<'s> {
    socket: &'s Socket,
    buffer: Vec<u8>,
    /// So many bytes at the front of it have been dealt with. They are removed when more comes and they
    /// are the larger part, so that many small messages in one piece are not moved again and again.
    done: usize,
}

impl<'s> Incoming<'s> {
    pub(super) fn new(socket: &'s Socket) -> Self {
        Self::with(socket, Vec::new())
    }

    /// As [`Incoming::new`], after these bytes.
    pub(super) fn with(socket: &'s Socket, buffer: Vec<u8>) -> Self {
        Self {
            socket,
            buffer,
            done: 0,
        }
    }

    /// What has come so far.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.done..).unwrap_or_default()
    }

    /// The first `count` bytes, or as many as there are, have been dealt with.
    pub(super) fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.bytes().len());
        self.done += count;
        count
    }

    /// Waits for more.
    pub(super) async fn more(&mut self) -> Result<(), Gone> {
        if self.bytes().len() >= MOST {
            return Err(Gone("it said too much at once"));
        }
        if self.done >= self.buffer.len().div_ceil(2) {
            self.buffer.drain(..self.done);
            self.done = 0;
        }
        self.socket.read(&mut self.buffer).await
    }

    /// Waits for exactly `N` bytes.
    pub(super) async fn array<const N: usize>(&mut self) -> Result<[u8; N], Gone> {
        while self.bytes().len() < N {
            self.more().await?;
        }
        let array = self.bytes().first_chunk::<N>().copied().unwrap_or([0; N]);
        self.consume(N);
        Ok(array)
    }
}
