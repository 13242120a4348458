//! Bytes to and from a client, without blocking the thread.
//!
//! A socket is tried at once; only when it has nothing, or takes nothing, the executor waits for it.
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::exec;

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A TCP socket. There is no TLS and no authentication: bind it to the loopback address.
    Tcp(TcpListener),
}

impl Listener {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(l) => l.as_fd(),
            Listener::Tcp(l) => l.as_fd(),
        }
    }

    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Listener::Unix(l) => l.set_nonblocking(true),
            Listener::Tcp(l) => l.set_nonblocking(true),
        }
    }

    /// The next client. None if it has gone already.
    pub(super) fn accept(&self) -> io::Result<Option<Stream>> {
        let stream = match self {
            Listener::Unix(l) => l.accept().and_then(|(s, _)| {
                s.set_nonblocking(true)?;
                Ok(Stream::Unix(s))
            }),
            Listener::Tcp(l) => l.accept().and_then(|(s, _)| {
                s.set_nonblocking(true)?;
                s.set_nodelay(true)?;
                Ok(Stream::Tcp(s))
            }),
        };
        match stream {
            Ok(stream) => Ok(Some(stream)),
            Err(e) => match e.raw_os_error() {
                // Gone before it was accepted, or the descriptors are used up for now.
                Some(
                    libc::EAGAIN
                    | libc::EINTR
                    | libc::ECONNABORTED
                    | libc::EMFILE
                    | libc::ENFILE
                    | libc::ENOBUFS
                    | libc::ENOMEM
                    | libc::ECONNRESET
                    | libc::EINVAL,
                ) => {
                    tracing::warn!(error = %e, "a client was not accepted");
                    Ok(None)
                }
                _ => Err(e),
            },
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }

    fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&mut &*s).read(out),
            Stream::Tcp(s) => (&mut &*s).read(out),
        }
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => (&mut &*s).write_vectored(pieces),
            Stream::Tcp(s) => (&mut &*s).write_vectored(pieces),
        }
    }

    /// Ends both directions: whoever waits for the client goes on with its end.
    pub(super) fn shutdown(&self) {
        let both = std::net::Shutdown::Both;
        // A client that has gone already is what is wanted.
        let _ = match self {
            Stream::Unix(s) => s.shutdown(both),
            Stream::Tcp(s) => s.shutdown(both),
        };
    }

    /// Reads what is there, at least one byte; zero at the end.
    pub(crate) async fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(out) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    exec::readable(self.fd()).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Waits until there is something to read, for a caller who knows that there is nothing yet.
    async fn wait(&self) -> io::Result<()> {
        exec::readable(self.fd()).await
    }

    /// Writes all pieces.
    pub(super) async fn write_all(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut left = pieces;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.try_write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    exec::writable(self.fd()).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Bytes that are read ahead at most.
const AHEAD: usize = 64 << 10;

/// Reads a stream in pieces of known length, many with one call.
pub(super) struct Reader<'a> {
    stream: &'a Stream,
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read took all that there was.
    drained: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(stream: &'a Stream) -> Reader<'a> {
        Reader {
            stream,
            ahead: vec![0; AHEAD].into(),
            start: 0,
            end: 0,
            drained: false,
        }
    }

    /// Fills `out`; an error of the kind `UnexpectedEof` at the end of the stream.
    pub(super) async fn exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        let mut done = self.take(out);
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // Large payloads need no copy.
            if rest.len() >= AHEAD {
                match self.stream.read(rest).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => done += n,
                }
                continue;
            }
            self.fill().await?;
            done += self.take(rest);
        }
        Ok(())
    }

    /// Reads `len` bytes and forgets them.
    pub(super) async fn skip(&mut self, len: u64) -> io::Result<()> {
        let mut left = len;
        loop {
            let n = left.min((self.end - self.start) as u64);
            self.start += n as usize;
            left -= n;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Copies what was read ahead; how much.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let ahead = self.ahead.get(self.start..self.end).unwrap_or_default();
        let n = ahead.len().min(out.len());
        for (to, from) in out.iter_mut().zip(ahead) {
            *to = *from;
        }
        self.start += n;
        n
    }

    /// Reads ahead; only when everything was taken.
    async fn fill(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.drained) {
            // A try would be in vain, most likely.
            self.stream.wait().await?;
        }
        (self.start, self.end) = (0, 0);
        let n = self.stream.read(&mut self.ahead).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.drained = n < self.ahead.len();
        self.end = n;
        Ok(())
    }
}
