//! Asking inside the guest: the verbs that its agent answers.
//!
//! [`talk`] is the conversation, [`facts`] what its answers mean. Nothing here believes a guest: what
//! it says of itself is shown, and decides nothing about the host.

pub mod facts;
mod talk;

use super::{Domain, Manager};
use crate::error::{Error, Kind, Result, plain_io};
use crate::model;
use crate::runtime::Guest;
use base64::prelude::{BASE64_STANDARD, Engine};
use facts::{Card, FileSystem, Vcpu};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use talk::{ANSWER, Agent, not_there};

/// The channel that agents listen on.
pub const CHANNEL: &str = "org.qemu.guest_agent.0";
/// How long what moves data may take: freezing, trimming.
const SLOW: Duration = Duration::from_secs(120);
/// Most mount points that a freeze may name.
const MOST_MOUNTS: usize = 1024;

/// What a guest is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Shut down.
    Powerdown,
    /// Reboot, in the same process.
    Reboot,
}

/// What a guest's clock is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Nanoseconds since the Unix epoch.
    At(i64),
    /// The machine's clock.
    Machine,
}

/// How long a command of a person's own may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The usual time.
    Usual,
    /// As long as it takes.
    Endless,
    /// So long.
    For(Duration),
}

impl Patience {
    fn time(self) -> Duration {
        match self {
            Self::Usual => ANSWER,
            // A year is no end that a person sees, and fits every clock.
            Self::Endless => Duration::from_secs(365 * 24 * 3600),
            Self::For(time) => time,
        }
    }
}

/// A guest whose agent has answered.
pub struct Asked {
    /// The guest.
    pub guest: Guest,
    /// The definition that it runs.
    pub model: model::Domain,
    agent: Agent,
}

impl Asked {
    fn value<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        let answer = self.agent.ask(command, None, ANSWER)?;
        understood(command, answer)
    }

    /// What a command answers, or nothing where this agent does not have it.
    fn known<T: DeserializeOwned>(&mut self, command: &str) -> Result<Option<T>> {
        match self.agent.try_ask(command, None, ANSWER)? {
            Ok(answer) => understood(command, answer).map(Some),
            Err(refusal) if refusal.absent => Ok(None),
            Err(refusal) => Err(refusal.into_error(command)),
        }
    }
}

fn understood<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T> {
    serde_json::from_value(answer).map_err(|error| {
        let message = format!("the answer of the guest agent to '{command}' is not understood");
        Error::new(Kind::Guest, message).cause(talk::printable(&error.to_string()))
    })
}

impl Manager {
    /// The guest of a domain with its agent, which answers.
    ///
    /// # Errors
    /// It is not running, has no agent's channel, or no agent answers.
    pub fn agent(&self, domain: &Domain) -> Result<Asked> {
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
        let agent = Agent::greet(socket, ANSWER)?;
        Ok(Asked {
            guest,
            model,
            agent,
        })
    }

    /// Asks the guest's agent to shut down or reboot the guest; returns when it was told. The guest
    /// as it ran then.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn ask_agent(&self, domain: &Domain, farewell: Farewell) -> Result<Guest> {
        let ways_out =
            |error: Error| error.hint("use --mode acpi to press the power button instead");
        let mut asked = self.agent(domain).map_err(ways_out)?;
        let (mode, verb) = match farewell {
            Farewell::Powerdown => ("powerdown", "shutdown"),
            Farewell::Reboot => ("reboot", "reboot"),
        };
        asked.agent.farewell(mode)?;
        self.note(domain.uuid, verb, &domain.name, "by the guest agent");
        Ok(asked.guest)
    }

    /// What the guest's clock says, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn guest_time(&self, domain: &Domain) -> Result<i64> {
        self.agent(domain)?.value("guest-get-time")
    }

    /// Sets the guest's clock.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn set_guest_time(&self, domain: &Domain, clock: Clock) -> Result<()> {
        let arguments = match clock {
            Clock::At(time) => Some(json!({ "time": time })),
            Clock::Machine => None,
        };
        let mut asked = self.agent(domain)?;
        asked.agent.ask("guest-set-time", arguments, ANSWER)?;
        self.note(
            domain.uuid,
            "domtime",
            &domain.name,
            "set by the guest agent",
        );
        Ok(())
    }

    /// What the guest calls itself.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn guest_hostname(&self, domain: &Domain) -> Result<String> {
        let found: facts::HostName = self.agent(domain)?.value("guest-get-host-name")?;
        Ok(found.name)
    }

    /// The network cards that the guest sees, with its addresses.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn guest_cards(&self, domain: &Domain) -> Result<Vec<Card>> {
        self.agent(domain)?.value("guest-network-get-interfaces")
    }

    /// The file systems that the guest has mounted, each with the names that its disks have in the
    /// definition.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn guest_file_systems(&self, domain: &Domain) -> Result<Vec<FileSystem>> {
        let mut asked = self.agent(domain)?;
        let mut found: Vec<FileSystem> = asked.value("guest-get-fsinfo")?;
        for disk in found.iter_mut().flat_map(|system| &mut system.disks) {
            disk.name_from(&asked.model.disks);
        }
        Ok(found)
    }

    /// Everything of these kinds that the agent tells, as libvirt names it. A kind that it cannot
    /// tell is left out, unless it was asked for alone.
    ///
    /// # Errors
    /// As [`Manager::agent`], the agent's refusal, or a wanted kind that it does not know.
    pub fn guest_info(
        &self,
        domain: &Domain,
        kinds: &[facts::Info],
    ) -> Result<Vec<(String, Value)>> {
        let mut asked = self.agent(domain)?;
        let mut fields = Vec::new();
        let all = kinds.is_empty();
        for kind in facts::Info::ALL {
            if !all && !kinds.contains(&kind) {
                continue;
            }
            let command = kind.command();
            match asked.known::<Value>(command)? {
                Some(answer) => kind.fields(answer, &asked.model.disks, &mut fields),
                None if all => {}
                None => {
                    let message = format!("the guest agent does not know '{command}'");
                    return Err(Error::new(Kind::Guest, message)
                        .hint("a newer qemu-guest-agent in the guest may"));
                }
            }
        }
        Ok(fields)
    }

    /// Holds the guest's writes to all its file systems, or to those with these mount points; how
    /// many are held.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn freeze(&self, domain: &Domain, mounts: &[String]) -> Result<u64> {
        if mounts.len() > MOST_MOUNTS {
            return Err(Error::new(Kind::Usage, "too many mount points"));
        }
        let (command, arguments) = match mounts {
            [] => ("guest-fsfreeze-freeze", None),
            some => (
                "guest-fsfreeze-freeze-list",
                Some(json!({ "mountpoints": some })),
            ),
        };
        self.count(domain, "domfsfreeze", command, arguments)
    }

    /// Lets the guest write again; how many file systems were held.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn thaw(&self, domain: &Domain) -> Result<u64> {
        self.count(domain, "domfsthaw", "guest-fsfreeze-thaw", None)
    }

    fn count(
        &self,
        domain: &Domain,
        verb: &str,
        command: &str,
        arguments: Option<Value>,
    ) -> Result<u64> {
        let mut asked = self.agent(domain)?;
        let answer = asked.agent.ask(command, arguments, SLOW)?;
        let count = understood(command, answer)?;
        self.note(domain.uuid, verb, &domain.name, "by the guest agent");
        Ok(count)
    }

    /// Has the guest tell its disks which blocks it does not use, in pieces of at least so many
    /// bytes.
    ///
    /// # Errors
    /// As [`Manager::agent`], the agent's refusal, or why a file system could not be trimmed.
    pub fn trim(&self, domain: &Domain, minimum: u64) -> Result<()> {
        let mut asked = self.agent(domain)?;
        let arguments = json!({ "minimum": minimum });
        let answer = asked.agent.ask("guest-fstrim", Some(arguments), SLOW)?;
        self.note(domain.uuid, "domfstrim", &domain.name, "by the guest agent");
        let failed = facts::trim_failures(&answer);
        if failed.is_empty() {
            return Ok(());
        }
        let error = Error::new(Kind::Guest, "some file systems were not trimmed");
        Err(failed.into_iter().fold(error, Error::cause))
    }

    /// Sets the password of a user of the guest; `encrypted` when it is a hash for its shadow file.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn set_user_password(
        &self,
        domain: &Domain,
        user: &str,
        password: &str,
        encrypted: bool,
    ) -> Result<()> {
        let arguments = json!({
            "username": user,
            "password": BASE64_STANDARD.encode(password),
            "crypted": encrypted,
        });
        let mut asked = self.agent(domain)?;
        let command = "guest-set-user-password";
        asked.agent.ask(command, Some(arguments), ANSWER)?;
        self.note(domain.uuid, "set-user-password", &domain.name, user);
        Ok(())
    }

    /// The processors that the guest sees.
    ///
    /// # Errors
    /// As [`Manager::agent`], and the agent's refusal.
    pub fn guest_vcpus(&self, domain: &Domain) -> Result<Vec<Vcpu>> {
        self.agent(domain)?.value("guest-get-vcpus")
    }

    /// Has the guest use these of its processors, or no longer.
    ///
    /// # Errors
    /// As [`Manager::agent`], the agent's refusal, or one of them that it did not change.
    pub fn set_guest_vcpus(&self, domain: &Domain, numbers: &[u32], online: bool) -> Result<()> {
        let one = |number: &u32| json!({ "logical-id": number, "online": online });
        let list: Vec<Value> = numbers.iter().map(one).collect();
        let mut asked = self.agent(domain)?;
        let command = "guest-set-vcpus";
        let answer = asked
            .agent
            .ask(command, Some(json!({ "vcpus": list })), ANSWER)?;
        let done: usize = understood(command, answer)?;
        self.note(
            domain.uuid,
            "guestvcpus",
            &domain.name,
            "by the guest agent",
        );
        if done < numbers.len() {
            let message = format!("the guest changed {done} of {} processors", numbers.len());
            let see = format!("vm guestvcpus {}", domain.name);
            return Err(Error::new(Kind::Guest, message).hint(see));
        }
        Ok(())
    }

    /// Says a command of a person's own to the agent: `{"execute": NAME, "arguments": {...}}`. Its
    /// answer as it came, `return` and all.
    ///
    /// # Errors
    /// No such command; as [`Manager::agent`]; the agent's refusal.
    pub fn agent_command(&self, domain: &Domain, words: &str, patience: Patience) -> Result<Value> {
        let wrong = |why: String| {
            Error::new(Kind::Usage, "this is no command of a guest agent")
                .cause(why)
                .hint("such as '{\"execute\": \"guest-info\"}'")
        };
        let mut command: Value =
            serde_json::from_str(words).map_err(|error| wrong(error.to_string()))?;
        let name = command["execute"].as_str().map(str::to_string);
        let name = name.ok_or_else(|| wrong("it has no \"execute\"".to_string()))?;
        let arguments = command.get_mut("arguments").map(Value::take);
        let mut asked = self.agent(domain)?;
        self.note(domain.uuid, "qemu-agent-command", &domain.name, &name);
        let answer = asked.agent.ask(&name, arguments, patience.time())?;
        Ok(json!({ "return": answer }))
    }
}
