//! The agent inside the fake guest: enough of QEMU's guest agent protocol to test who asks it.
//!
//! `fake.mute` on the kernel command line takes the channel and says nothing; with `fake.agent=PATH` a
//! real agent that listens on the socket at PATH answers.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vmm_api::spec::{DeviceKind, Fd, MachineSpec, PortStream};

/// The port that an agent listens on.
const PORT: &str = "org.qemu.guest_agent.0";
/// What begins a conversation.
const DELIMITER: u8 = 0xff;
/// Bytes of the longest command.
const LONGEST: u64 = 1 << 20;

/// The listener of the agent's channel, if the machine has one.
pub(super) fn channel_of(spec: &MachineSpec) -> Option<Fd> {
    let ports = spec.devices.iter().filter_map(|device| match &device.kind {
        DeviceKind::VirtioConsole(console) => Some(&console.ports),
        _ => None,
    });
    let port = ports
        .flatten()
        .find(|port| port.name.as_deref() == Some(PORT))?;
    match port.stream {
        PortStream::Socket { listener } => Some(listener),
        _ => None,
    }
}

/// Passes on what a client and the agent that listens at `path` say to each other, until one of them
/// leaves or `over` says so.
pub(super) fn relay(client: &UnixStream, path: &str, over: impl Fn() -> bool) {
    let Ok(agent) = UnixStream::connect(path) else {
        return;
    };
    let mut bytes = [0; 4096];
    while !over() {
        for (mut from, mut to) in [(client, &agent), (&agent, client)] {
            let waited = from.set_read_timeout(Some(Duration::from_millis(5)));
            match waited.and_then(|()| from.read(&mut bytes)) {
                Ok(count @ 1..) => {
                    if to
                        .write_all(bytes.get(..count).unwrap_or_default())
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }
}

/// What the agent knows, over all conversations.
#[derive(Debug)]
pub(super) struct Agent {
    /// Nanoseconds since the Unix epoch.
    time: i64,
    frozen: bool,
    online: [bool; 4],
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            time: 1_600_000_000_500_000_000,
            frozen: false,
            online: [true; 4],
        }
    }
}

impl Agent {
    /// One client, until it leaves or `over` says so.
    pub(super) fn talk(&mut self, socket: &UnixStream, over: impl Fn() -> bool) {
        let tick = Some(Duration::from_millis(5));
        if socket.set_read_timeout(tick).is_err() {
            return;
        }
        let mut reader = BufReader::new(socket.take(LONGEST));
        let mut line = Vec::new();
        loop {
            match reader.read_until(b'\n', &mut line) {
                Ok(_) if line.last() == Some(&b'\n') => {
                    let answer = self.answer(&line);
                    line.clear();
                    let mut out = socket;
                    if out.write_all(&answer).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !over() => {}
                _ => return,
            }
        }
    }

    /// The bytes that answer a line.
    fn answer(&mut self, line: &[u8]) -> Vec<u8> {
        let start = line.iter().rposition(|byte| *byte == DELIMITER);
        let words = line.get(start.map_or(0, |at| at + 1)..).unwrap_or_default();
        let command: Value = serde_json::from_slice(words).unwrap_or_default();
        let name = command["execute"].as_str().unwrap_or_default();
        let arguments = &command["arguments"];
        let mut bytes = Vec::new();
        if name == "guest-sync-delimited" {
            bytes.push(DELIMITER);
        }
        let answer = match self.perform(name, arguments) {
            Ok(value) => json!({ "return": value }),
            Err((class, why)) => json!({ "error": { "class": class, "desc": why } }),
        };
        bytes.extend(format!("{answer}\n").bytes());
        bytes
    }

    fn perform(&mut self, name: &str, arguments: &Value) -> Result<Value, (&'static str, String)> {
        let done = || Ok(json!({}));
        match name {
            "guest-sync-delimited" => Ok(arguments["id"].clone()),
            "guest-get-time" => Ok(self.time.into()),
            "guest-set-time" => {
                self.time = arguments["time"]
                    .as_i64()
                    .unwrap_or(1_700_000_000_000_000_000);
                done()
            }
            "guest-get-host-name" => Ok(json!({ "host-name": "web01.example" })),
            "guest-get-osinfo" => {
                Ok(json!({ "id": "debian", "pretty-name": "Debian \u{1b}[2J12" }))
            }
            "guest-get-timezone" => Ok(json!({ "zone": "CET", "offset": 3600 })),
            "guest-get-users" => Ok(json!([{ "user": "root", "login-time": 1_600_000_000.25 }])),
            "guest-network-get-interfaces" => Ok(cards()),
            "guest-get-fsinfo" => Ok(json!([{ "name": "vda1", "mountpoint": "/", "type": "ext4",
                "used-bytes": 5, "total-bytes": 10,
                "disk": [{ "serial": "S1", "dev": "/dev/vda1", "bus-type": "virtio" }] }])),
            "guest-fsfreeze-freeze" | "guest-fsfreeze-freeze-list" if self.frozen => {
                let why = format!("Command {name} has been disabled: the command is not allowed");
                Err(("CommandNotFound", why))
            }
            "guest-fsfreeze-freeze" => {
                self.frozen = true;
                Ok(2.into())
            }
            "guest-fsfreeze-freeze-list" => {
                self.frozen = true;
                let named = arguments["mountpoints"].as_array();
                Ok(named.map_or(0, Vec::len).into())
            }
            "guest-fsfreeze-thaw" => Ok(u64::from(std::mem::take(&mut self.frozen)).into()),
            "guest-fstrim" => Ok(json!({ "paths": [{ "path": "/", "trimmed": 4096 }] })),
            "guest-set-user-password" if arguments["username"] == "root" => done(),
            "guest-set-user-password" => {
                Err(("GenericError", "chpasswd: no such user".to_string()))
            }
            "guest-get-vcpus" => Ok(self.vcpus()),
            "guest-set-vcpus" => self.set_vcpus(arguments),
            _ => {
                let why = format!("The command {name} has not been found");
                Err(("CommandNotFound", why))
            }
        }
    }

    fn vcpus(&self) -> Value {
        let all = self.online.iter().enumerate();
        all.map(|(number, online)| {
            json!({ "logical-id": number, "online": online, "can-offline": number > 0 })
        })
        .collect()
    }

    fn set_vcpus(&mut self, arguments: &Value) -> Result<Value, (&'static str, String)> {
        let mut done = 0;
        for wanted in arguments["vcpus"].as_array().into_iter().flatten() {
            let number = wanted["logical-id"].as_u64().unwrap_or(u64::MAX);
            let slot = usize::try_from(number)
                .ok()
                .filter(|number| *number > 0)
                .and_then(|number| self.online.get_mut(number));
            let Some(slot) = slot else { break };
            *slot = wanted["online"].as_bool().unwrap_or(*slot);
            done += 1;
        }
        match done {
            0 => Err(("GenericError", "vCPU cannot be changed".to_string())),
            done => Ok(done.into()),
        }
    }
}

fn cards() -> Value {
    json!([
        { "name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [
            { "ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8 },
            { "ip-address": "::1", "ip-address-type": "ipv6", "prefix": 128 }] },
        { "name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses": [
            { "ip-address": "192.168.122.5", "ip-address-type": "ipv4", "prefix": 24 }] },
        { "name": "eth1", "hardware-address": "52:54:00:00:00:02" }
    ])
}
