//! The terminal in raw mode, and back again on every way out: return, error, panic, signal.
//!
//! Signals do not end the process while a console is attached: they are read from a pipe and end
//! the session, so that there is one way out for all of them.

use crate::error::{Error, Kind, Result, plain_io};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Raw mode for as long as it lives; nothing when standard input is no terminal.
#[derive(Debug)]
pub struct Raw {
    before: Option<(OwnedFd, Termios)>,
}

impl Raw {
    /// Enters raw mode.
    ///
    /// # Errors
    /// A terminal that does not take it.
    pub fn enter() -> Result<Self> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(Self { before: None });
        }
        let enter = || -> io::Result<(OwnedFd, Termios)> {
            // A descriptor of its own: restoring must not depend on who closed standard input.
            let terminal = stdin.as_fd().try_clone_to_owned()?;
            let before = tcgetattr(&terminal)?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&terminal, OptionalActions::Now, &raw)?;
            Ok((terminal, before))
        };
        let before = enter().map_err(|error| {
            Error::new(Kind::Io, "cannot put the terminal into raw mode").cause(plain_io(&error))
        })?;
        Ok(Self {
            before: Some(before),
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some((terminal, before)) = &self.before {
            // A terminal that is gone needs no restoring.
            let _ = tcsetattr(terminal, OptionalActions::Now, before);
            let _ = rustix::io::write(terminal, b"\r\n");
        }
    }
}

/// Signals that end a session, readable as a descriptor.
#[derive(Debug)]
pub struct Signals {
    reader: UnixStream,
    registered: Vec<signal_hook::SigId>,
}

impl Signals {
    /// From now on signals arrive here.
    ///
    /// # Errors
    /// What the system says.
    pub fn catch() -> Result<Self> {
        let catch = || -> io::Result<Self> {
            let (reader, writer) = UnixStream::pair()?;
            let mut registered = Vec::new();
            for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
                let writer = writer.try_clone()?;
                registered.push(signal_hook::low_level::pipe::register(signal, writer)?);
            }
            Ok(Self { reader, registered })
        };
        catch().map_err(|error| {
            Error::new(Kind::Io, "cannot watch for signals").cause(plain_io(&error))
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
