//! The terminal side of a guest's console.
//!
//! [`Session::run`] connects, says what virsh says, puts the terminal into raw mode
//! ([`terminal::Raw`], which puts it back on every way out), and carries bytes both ways until the
//! escape character, a signal, or the end of the guest. Input that is no terminal may end; output
//! then goes on until the guest ends.

pub mod terminal;

use super::Context;
use crate::error::{Error, Kind, Result};
use crate::manager::Domain;
use crate::runtime::Guest;
use crate::runtime::guest::explain;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::time::{Duration, Instant};
use terminal::{Raw, Signals};
use vmm_api::console::{Attach, Attached, MAX_LINE, Role, to_line};
use vmm_api::control::client::ClientError;

/// How long the guest's process may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a console may be silent before the hint about a getty.
const SILENCE: Duration = Duration::from_secs(5);

/// The character that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Escape(u8);

impl Default for Escape {
    fn default() -> Self {
        Self(0x1d)
    }
}

impl FromStr for Escape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            [b'^', key @ (b'@'..=b'_' | b'a'..=b'z')] => Ok(Self(key.to_ascii_uppercase() ^ 0x40)),
            [key] if key.is_ascii() => Ok(Self(*key)),
            _ => Err("write it as '^]' or '^A', or as one character".into()),
        }
    }
}

impl fmt::Display for Escape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            key @ 0..=0x1f => {
                let letter = char::from(key ^ 0x40);
                write!(f, "^{letter} (Ctrl + {letter})")
            }
            key => write!(f, "{}", char::from(key)),
        }
    }
}

/// One look at a console.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Take typing over from another viewer.
    pub force: bool,
    /// Only look.
    pub view: bool,
    /// The character that leaves.
    pub escape: Escape,
    /// The alias of the console; the first one when absent.
    pub devname: Option<String>,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The escape character.
    Left,
    /// A signal.
    Signal,
    /// The guest closed its side.
    Closed,
}

impl Session {
    /// Attaches to a running domain's console.
    ///
    /// # Errors
    /// It is not running, has no console, or its process does not answer.
    pub fn run(self, context: &Context, domain: &Domain) -> Result<()> {
        let manager = context.manager()?;
        let guest = manager
            .guest(domain)?
            .ok_or_else(|| Error::new(Kind::State, "The domain is not running"))?;
        let (socket, early, attached) = self.attach(&guest)?;
        context
            .ui
            .line(format!("Connected to domain '{}'", domain.name))?;
        context
            .ui
            .line(format!("Escape character is {}", self.escape))?;
        if attached.role == Role::Viewer && !self.view {
            context
                .ui
                .hint("another viewer types: you only see; --force takes over");
        }
        let end = {
            let signals = Signals::catch()?;
            let _raw = Raw::enter()?;
            let mut relay = Relay::new(&socket, self.escape, attached)?;
            relay.show(&early)?;
            relay.run(&signals)?
        };
        if end == End::Closed {
            // The console goes a moment before its process.
            let condition = manager.settled_condition(domain, ANSWER)?;
            context.ui.hint(format!(
                "the console was closed: the domain is {} ({})",
                condition.state.as_str(),
                condition.reason
            ));
        }
        Ok(())
    }

    fn attach(&self, guest: &Guest) -> Result<(UnixStream, Vec<u8>, Attached)> {
        let name = &guest.record.name;
        let socket = guest.console(self.devname.as_deref()).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                if let Some(alias) = &self.devname {
                    return no_such_console(guest, alias);
                }
                return Error::new(Kind::NotFound, format!("domain '{name}' has no console"))
                    .hint("add <serial type='pty'/> to its <devices>: vm edit");
            }
            Error::io("connect to the console of", guest.dir().path(), &error)
        })?;
        let wish = Attach {
            write: !self.view,
            force: self.force,
        };
        let talk = || -> io::Result<(Vec<u8>, Attached)> {
            socket.set_read_timeout(Some(ANSWER))?;
            (&socket).write_all(&to_line(&wish))?;
            let mut reader = BufReader::new(&socket);
            let mut line = Vec::new();
            let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
            reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
            let attached = serde_json::from_slice(&line)?;
            Ok((reader.buffer().to_vec(), attached))
        };
        let (early, attached) = talk().map_err(|error| {
            let what = format!("the console of domain '{name}'");
            explain(&from_console(error), &what)
        })?;
        Ok((socket, early, attached))
    }
}

/// What went wrong with a console, as it is told of the control socket.
fn from_console(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout(ANSWER),
        io::ErrorKind::UnexpectedEof => ClientError::Closed,
        _ => ClientError::Io(error),
    }
}

fn no_such_console(guest: &Guest, alias: &str) -> Error {
    let name = &guest.record.name;
    let known: Vec<&str> = guest.record.consoles.keys().map(String::as_str).collect();
    let error = Error::new(
        Kind::NotFound,
        format!("domain '{name}' has no console '{alias}'"),
    );
    match known.as_slice() {
        [] => error,
        known => error.hint(format!("it has {}", known.join(", "))),
    }
}

/// Bytes both ways.
struct Relay<'a> {
    socket: &'a UnixStream,
    escape: Escape,
    /// Typed and not yet taken by the guest's process.
    pending: Vec<u8>,
    input_ended: bool,
    silent_since: Option<Instant>,
}

impl<'a> Relay<'a> {
    fn new(socket: &'a UnixStream, escape: Escape, attached: Attached) -> Result<Self> {
        socket
            .set_nonblocking(true)
            .map_err(|error| broken(&error))?;
        Ok(Self {
            socket,
            escape,
            pending: Vec::new(),
            input_ended: false,
            silent_since: (attached.replay == 0).then(Instant::now),
        })
    }

    fn run(&mut self, signals: &Signals) -> Result<End> {
        let stdin = io::stdin();
        loop {
            let mut socket_events = PollFlags::IN;
            if !self.pending.is_empty() {
                socket_events |= PollFlags::OUT;
            }
            // Nothing is read from the keyboard while the guest's process takes nothing.
            let listen = !self.input_ended && self.pending.is_empty();
            let stdin_events = if listen {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            let mut fds = [
                PollFd::from_borrowed_fd(self.socket.as_fd(), socket_events),
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stdin.as_fd(), stdin_events),
            ];
            let count = if self.input_ended { 2 } else { 3 };
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            match poll(fds.get_mut(..count).unwrap_or_default(), Some(&second)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(broken(&error.into())),
            }
            let [socket, signal, keyboard] = fds.map(|fd| fd.revents());
            if !signal.is_empty() {
                return Ok(End::Signal);
            }
            if socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && self.read_guest()?
            {
                return Ok(End::Closed);
            }
            if !self.pending.is_empty() && self.write_guest()? {
                return Ok(End::Closed);
            }
            if listen && !keyboard.is_empty() && self.read_keyboard()? {
                return Ok(End::Left);
            }
            self.hint_when_silent();
        }
    }

    /// Shows what the guest wrote; `true` when there will be no more.
    fn read_guest(&mut self) -> Result<bool> {
        let mut bytes = [0; 16 << 10];
        match self.socket.read(&mut bytes) {
            Ok(0) => Ok(true),
            Ok(count) => self
                .show(bytes.get(..count).unwrap_or_default())
                .map(|()| false),
            Err(error) if retry(&error) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(broken(&error)),
        }
    }

    fn show(&mut self, bytes: &[u8]) -> Result<()> {
        if !bytes.is_empty() {
            self.silent_since = None;
        }
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| {
                Error::new(Kind::Io, "cannot write to the terminal")
                    .cause(crate::error::plain_io(&error))
            })
    }

    /// Takes what was typed; `true` when the escape character was among it.
    fn read_keyboard(&mut self) -> Result<bool> {
        let mut bytes = [0; 1024];
        match rustix::io::read(io::stdin().as_fd(), &mut bytes) {
            Ok(0) => self.input_ended = true,
            Ok(count) => {
                let typed = bytes.get(..count).unwrap_or_default();
                let escape = typed.iter().position(|byte| *byte == self.escape.0);
                self.pending
                    .extend(typed.iter().take(escape.unwrap_or(count)));
                if escape.is_some() {
                    self.write_guest()?;
                    return Ok(true);
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // The terminal is gone.
            Err(rustix::io::Errno::IO) => return Ok(true),
            Err(error) => return Err(broken(&error.into())),
        }
        Ok(false)
    }

    /// Hands on what was typed, as far as it is taken; `true` when the guest's side is closed.
    fn write_guest(&mut self) -> Result<bool> {
        match self.socket.write(&self.pending) {
            Ok(count) => {
                self.pending.drain(..count.min(self.pending.len()));
                Ok(false)
            }
            Err(error) if retry(&error) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            Err(error) => Err(broken(&error)),
        }
    }

    fn hint_when_silent(&mut self) {
        if self
            .silent_since
            .is_some_and(|since| since.elapsed() >= SILENCE)
        {
            self.silent_since = None;
            // Raw mode needs its own carriage returns.
            let _ = write!(
                io::stderr(),
                "hint: nothing was written to this console yet. A guest needs console=ttyS0 on its\r\n\
                 hint: kernel command line, and a getty on ttyS0 for a login. Press Enter once.\r\n"
            );
        }
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn broken(error: &io::Error) -> Error {
    Error::new(Kind::Io, "the connection to the console broke").cause(crate::error::plain_io(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_hangs_is_told_of_as_everything_that_hangs() {
        let error = explain(
            &from_console(io::ErrorKind::WouldBlock.into()),
            "the console",
        );
        assert_eq!(error.message, "waited 5.0 s for an answer of the console");
        assert!(error.hints[0].contains("vm destroy"), "{:?}", error.hints);
    }

    #[test]
    fn escape_characters_are_read_and_shown_as_virsh_does() {
        assert_eq!(Escape::default().to_string(), "^] (Ctrl + ])");
        assert_eq!("^]".parse::<Escape>(), Ok(Escape::default()));
        assert_eq!("^a".parse::<Escape>(), Ok(Escape(1)));
        assert_eq!("~".parse::<Escape>(), Ok(Escape(b'~')));
        assert!("^^^".parse::<Escape>().is_err());
        assert!("é".parse::<Escape>().is_err());
    }
}
