//! A conversation with a guest's agent: JSON lines over its channel.
//!
//! ```text
//! connect --> 0xFF, guest-sync-delimited{id} --> skip to 0xFF --> {"return": id} --> commands
//! ```
//!
//! The 0xFF makes an agent forget half a command of whoever spoke before, and tells its answer from
//! what it still had to say to others (QEMU's guest agent protocol reference). Everything that comes
//! from the channel comes from the guest: it is bounded in size and time, and believed for nothing
//! but what is shown of it.

use crate::error::{Error, Kind, Result, plain_io};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long an agent may take to answer what it knows at once.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long an error may take to come after a command that has no answer when all is well.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of the longest answer: a file of 3 MiB as an agent encodes it.
const LONGEST: usize = 4 << 20;
/// Bytes that others may have left in the channel.
const LEFTOVER: usize = 16 << 20;
/// What no JSON holds: it begins a new conversation.
const DELIMITER: u8 = 0xff;

/// What an agent says when it does not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Whether it has no such command, or was told not to have it.
    pub absent: bool,
    /// Its words, fit for a terminal.
    pub why: String,
}

impl Refusal {
    /// In libvirt's words.
    pub fn into_error(self, command: &str) -> Error {
        let message = format!("internal error: unable to execute QEMU agent command '{command}'");
        Error::new(Kind::Guest, message).cause(self.why)
    }
}

pub(super) fn not_there(why: &str) -> Error {
    Error::new(
        Kind::Guest,
        "Guest agent is not responding: QEMU guest agent is not connected",
    )
    .cause(why)
    .hint("install and start qemu-guest-agent in the guest")
}

/// A conversation with an agent.
pub(super) struct Agent {
    socket: UnixStream,
    /// Read and not looked at yet.
    read: Vec<u8>,
    /// How much of that has no end of a line.
    scanned: usize,
}

impl Agent {
    /// Begins a conversation.
    pub fn greet(socket: UnixStream, patience: Duration) -> Result<Self> {
        let mut agent = Self {
            socket,
            read: Vec::new(),
            scanned: 0,
        };
        // Any number that nobody else uses at the moment.
        let id = u64::from(std::process::id()) << 16 | u64::from(rand_word());
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        let mut bytes = vec![DELIMITER];
        bytes.extend(sync.to_string().bytes());
        bytes.push(b'\n');
        let deadline = Instant::now() + patience;
        agent.send(&bytes, deadline)?;
        let mut left = LEFTOVER;
        loop {
            agent.skip_to_delimiter(&mut left, deadline)?;
            let answer = agent.line(deadline)?;
            if answer.and_then(|answer| answer["return"].as_u64()) == Some(id) {
                return Ok(agent);
            }
        }
    }

    /// Says a command and waits for its answer.
    ///
    /// # Errors
    /// Nobody answers in time, or not in this protocol.
    pub fn try_ask(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        patience: Duration,
    ) -> Result<std::result::Result<Value, Refusal>> {
        let mut words = json!({ "execute": command });
        if let Some(arguments) = arguments {
            words["arguments"] = arguments;
        }
        let deadline = Instant::now() + patience;
        self.send(format!("{words}\n").as_bytes(), deadline)?;
        loop {
            // A line that is no answer is somebody else's.
            let Some(mut answer) = self.line(deadline)? else {
                continue;
            };
            if let Some(refusal) = refusal(&answer) {
                return Ok(Err(refusal));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(Ok(value.take()));
            }
        }
    }

    /// As [`Agent::try_ask`], where a refusal is a failure.
    ///
    /// # Errors
    /// As [`Agent::try_ask`], and the agent's refusal.
    pub fn ask(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        patience: Duration,
    ) -> Result<Value> {
        self.try_ask(command, arguments, patience)?
            .map_err(|refusal| refusal.into_error(command))
    }

    /// Says the last command. No answer is success: an agent that goes down with its guest closes
    /// the channel.
    pub fn farewell(&mut self, mode: &str) -> Result<()> {
        let command = "guest-shutdown";
        let arguments = json!({ "mode": mode });
        match self.try_ask(command, Some(arguments), SILENCE) {
            Ok(Err(refusal)) => Err(refusal.into_error(command)),
            _ => Ok(()),
        }
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        let left = left(deadline).ok_or_else(silent)?;
        self.socket
            .set_write_timeout(Some(left))
            .and_then(|()| self.socket.write_all(bytes))
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(),
                _ => not_there("the channel was closed"),
            })
    }

    fn skip_to_delimiter(&mut self, left: &mut usize, deadline: Instant) -> Result<()> {
        loop {
            let found = self.read.iter().position(|byte| *byte == DELIMITER);
            *left = left.saturating_sub(found.unwrap_or(self.read.len()).saturating_add(1));
            if *left == 0 {
                return Err(endless());
            }
            self.scanned = 0;
            if let Some(at) = found {
                self.read.drain(..=at);
                return Ok(());
            }
            self.read.clear();
            self.more(deadline)?;
        }
    }

    /// The next line; `None` when it is no JSON.
    fn line(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            let fresh = self.read.iter().skip(self.scanned);
            if let Some(at) = fresh.copied().position(|byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=self.scanned + at).collect();
                self.scanned = 0;
                return Ok(serde_json::from_slice(&line).ok());
            }
            self.scanned = self.read.len();
            if self.scanned > LONGEST {
                return Err(endless());
            }
            self.more(deadline)?;
        }
    }

    fn more(&mut self, deadline: Instant) -> Result<()> {
        let left = left(deadline).ok_or_else(silent)?;
        let mut buffer = [0; 16 << 10];
        let read = self
            .socket
            .set_read_timeout(Some(left))
            .and_then(|()| self.socket.read(&mut buffer));
        match read {
            Ok(0) => Err(not_there("the channel was closed")),
            Ok(count) => {
                self.read.extend(buffer.iter().take(count));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(silent()),
            Err(error) => Err(not_there(&plain_io(&error))),
        }
    }
}

/// What is left until a deadline; a time limit of zero would mean none.
fn left(deadline: Instant) -> Option<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

fn endless() -> Error {
    Error::new(Kind::Guest, "the guest agent answers without end")
}

fn refusal(answer: &Value) -> Option<Refusal> {
    let error = answer.get("error")?;
    let class = error["class"].as_str().unwrap_or_default();
    Some(Refusal {
        absent: matches!(class, "CommandNotFound" | "CommandDisabled"),
        why: printable(error["desc"].as_str().unwrap_or("no reason given")),
    })
}

fn silent() -> Error {
    Error::new(
        Kind::Timeout,
        "Guest agent is not responding: Guest agent not available for now",
    )
    .hint("it may be busy, or another program may be using its channel")
}

/// What a guest says, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(200).collect()
}

fn rand_word() -> u16 {
    let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
    u16::from_le_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::thread;

    /// An agent that has something left to say, syncs, and answers the command so.
    fn agent(answer: &'static [u8]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        thread::spawn(move || {
            let mut reader = BufReader::new(theirs.try_clone().expect("a descriptor"));
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line).expect("a line");
            assert_eq!(line.remove(0), DELIMITER);
            let sync: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!(sync["execute"], "guest-sync-delimited");
            let id = sync["arguments"]["id"].as_u64().expect("an id");
            let mut out = &theirs;
            out.write_all(b"{\"return\": 7}\nhalf a \xff{\"return\": 1}\n")
                .expect("written");
            out.write_all(&[DELIMITER]).expect("written");
            writeln!(out, "{}", json!({ "return": id })).expect("written");
            line.clear();
            reader.read_until(b'\n', &mut line).expect("a line");
            let command: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!(command["execute"], "guest-shutdown");
            out.write_all(answer).expect("written");
        });
        ours
    }

    #[test]
    fn a_conversation_begins_behind_what_others_left() {
        let mut agent = Agent::greet(agent(b""), ANSWER).expect("an agent");
        agent.farewell("powerdown").expect("no answer is success");
    }

    #[test]
    fn an_agent_that_refuses_is_heard() {
        let refusal =
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\x1b shutdown\"}}\n";
        // A control character is no JSON as it stands, so it is told as no answer.
        let mut first = Agent::greet(agent(refusal), ANSWER).expect("an agent");
        first.farewell("reboot").expect("no JSON");
        let refusal = b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001bway\"}}\n";
        let mut second = Agent::greet(agent(refusal), ANSWER).expect("an agent");
        let error = second.farewell("reboot").expect_err("a refusal");
        assert_eq!(error.causes, ["no way"]);
    }

    #[test]
    fn nobody_and_noise_are_no_agents() {
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        let error = Agent::greet(ours, Duration::from_millis(50)).map(|_| ());
        assert_eq!(error.expect_err("silence").kind, Kind::Timeout);
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        drop(theirs);
        let error = Agent::greet(ours, ANSWER).map(|_| ());
        assert_eq!(error.expect_err("closed").kind, Kind::Guest);
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        thread::spawn(move || {
            // Ends when the other side gives up.
            let noise = [DELIMITER, b'x', b'y'].repeat(20_000);
            while theirs.write_all(&noise).is_ok() {}
        });
        let error = Agent::greet(ours, ANSWER).map(|_| ());
        assert_eq!(error.expect_err("noise").kind, Kind::Guest);
    }
}
