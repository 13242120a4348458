//! Asking inside the guest: the guest agent's JSON protocol over its channel.
//!
//! ```text
//! connect --> 0xFF, guest-sync-delimited{id} --> skip to 0xFF --> {"return": id} --> guest-shutdown
//! ```
//!
//! The 0xFF makes an agent forget half a command of whoever spoke before, and tells its answer from
//! what it still had to say to others (QEMU's guest agent protocol reference). Everything that comes
//! from the channel comes from the guest: it is bounded in size and time, and believed for nothing
//! but a failure.

use super::{Domain, Manager};
use crate::error::{Error, Kind, Result, plain_io};
use crate::runtime::Guest;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The channel that agents listen on.
pub const CHANNEL: &str = "org.qemu.guest_agent.0";
/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an error may take to come after a command that has no answer when all is well.
const SILENCE: Duration = Duration::from_secs(2);
/// Bytes of the longest answer.
const LONGEST: usize = 64 << 10;
/// What no JSON holds: it begins a new conversation.
const DELIMITER: u8 = 0xff;

/// What a guest is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Shut down.
    Powerdown,
    /// Reboot, in the same process.
    Reboot,
}

impl Farewell {
    fn mode(self) -> &'static str {
        match self {
            Self::Powerdown => "powerdown",
            Self::Reboot => "reboot",
        }
    }
}

impl Manager {
    /// Asks the guest's agent to shut down or reboot the guest; returns when it was told. The guest
    /// as it ran then.
    ///
    /// # Errors
    /// It is not running, has no agent's channel, or no agent answers.
    pub fn ask_agent(&self, domain: &Domain, farewell: Farewell) -> Result<Guest> {
        let guest = self.running(domain)?;
        let (_, model) = self.current_definition(domain, Some(&guest))?;
        let channel = model
            .channels
            .iter()
            .find(|channel| channel.name.as_deref() == Some(CHANNEL))
            .filter(|channel| guest.record.sockets.contains_key(&channel.alias));
        let Some(channel) = channel else {
            return Err(
                Error::new(Kind::State, "QEMU guest agent is not configured").hint(format!(
                    "add <channel type='unix'><target type='virtio' name='{CHANNEL}'/></channel>: vm edit {}",
                    domain.name
                )),
            );
        };
        if self.open_ports(&guest).get(&channel.alias) == Some(&false) {
            return Err(not_there("nothing in the guest has its channel open"));
        }
        let socket = guest.channel(&channel.alias).map_err(|error| {
            Error::new(Kind::Guest, "cannot connect to the guest agent's channel")
                .cause(plain_io(&error))
        })?;
        let mut agent = Agent::greet(socket, ANSWER)?;
        agent.farewell(farewell)?;
        let verb = match farewell {
            Farewell::Powerdown => "shutdown",
            Farewell::Reboot => "reboot",
        };
        self.note(domain.uuid, verb, &domain.name, "by the guest agent");
        Ok(guest)
    }
}

fn not_there(why: &str) -> Error {
    Error::new(
        Kind::Guest,
        "Guest agent is not responding: QEMU guest agent is not connected",
    )
    .cause(why)
    .hint("install and start qemu-guest-agent in the guest, or use --mode acpi")
}

/// A conversation with an agent.
struct Agent {
    socket: UnixStream,
    /// Read and not looked at yet.
    read: Vec<u8>,
}

impl Agent {
    /// Begins a conversation.
    fn greet(socket: UnixStream, patience: Duration) -> Result<Self> {
        let mut agent = Self {
            socket,
            read: Vec::new(),
        };
        // Any number that nobody else uses at the moment.
        let id = u64::from(std::process::id()) << 16 | u64::from(rand_word());
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        let mut bytes = vec![DELIMITER];
        bytes.extend(sync.to_string().bytes());
        bytes.push(b'\n');
        let deadline = Instant::now() + patience;
        agent.send(&bytes, deadline)?;
        loop {
            agent.skip_to_delimiter(deadline)?;
            let answer = agent.answer(deadline)?;
            if answer.and_then(|answer| answer["return"].as_u64()) == Some(id) {
                return Ok(agent);
            }
        }
    }

    /// Says the last command. No answer is success.
    fn farewell(&mut self, farewell: Farewell) -> Result<()> {
        let command = json!({
            "execute": "guest-shutdown",
            "arguments": { "mode": farewell.mode() },
        });
        let deadline = Instant::now() + SILENCE;
        self.send(format!("{command}\n").as_bytes(), deadline)?;
        // An agent that goes down with its guest closes the channel.
        let Ok(Some(answer)) = self.answer(deadline) else {
            return Ok(());
        };
        match answer.get("error") {
            None => Ok(()),
            Some(error) => {
                let why = error["desc"].as_str().unwrap_or("no reason given");
                let message =
                    "internal error: unable to execute QEMU agent command 'guest-shutdown'";
                Err(Error::new(Kind::Guest, message).cause(printable(why)))
            }
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

    fn skip_to_delimiter(&mut self, deadline: Instant) -> Result<()> {
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == DELIMITER) {
                self.read.drain(..=at);
                return Ok(());
            }
            self.read.clear();
            self.more(deadline)?;
        }
    }

    /// The next line; `None` when it is no JSON.
    fn answer(&mut self, deadline: Instant) -> Result<Option<Value>> {
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=at).collect();
                return Ok(serde_json::from_slice(&line).ok());
            }
            if self.read.len() > LONGEST {
                return Err(Error::new(
                    Kind::Guest,
                    "the guest agent answers without end",
                ));
            }
            self.more(deadline)?;
        }
    }

    fn more(&mut self, deadline: Instant) -> Result<()> {
        let left = left(deadline).ok_or_else(silent)?;
        let mut buffer = [0; 4096];
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

fn silent() -> Error {
    Error::new(
        Kind::Timeout,
        "Guest agent is not responding: Guest agent not available for now",
    )
    .hint("it may be busy, or another program may be using its channel")
    .hint("use --mode acpi to press the power button instead")
}

/// What a guest says, fit for a terminal.
fn printable(text: &str) -> String {
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
        agent
            .farewell(Farewell::Powerdown)
            .expect("no answer is success");
    }

    #[test]
    fn an_agent_that_refuses_is_heard() {
        let refusal =
            b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\x1b shutdown\"}}\n";
        // A control character is no JSON as it stands, so it is told as no answer.
        let mut first = Agent::greet(agent(refusal), ANSWER).expect("an agent");
        first.farewell(Farewell::Reboot).expect("no JSON");
        let refusal = b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001bway\"}}\n";
        let mut second = Agent::greet(agent(refusal), ANSWER).expect("an agent");
        let error = second.farewell(Farewell::Reboot).expect_err("a refusal");
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
            while theirs.write_all(&[DELIMITER, b'x', b'y']).is_ok() {}
        });
        let error = Agent::greet(ours, ANSWER).map(|_| ());
        assert_eq!(error.expect_err("noise").kind, Kind::Guest);
    }
}
