//! Networking without rights: one passt per card of `<interface type='user'>`.
//!
//! ```text
//! guest -- card -- vmm -- socket pair -- passt -- the host's own sockets
//! ```
//!
//! The manager makes a pair of connected sockets, gives one end to the guest's process and one to passt
//! (`--fd`), and lets go of both. passt ends with its peer (`--one-off`), whatever ends that; so there is
//! nothing to undo. One that hangs is found by the name that it was started under, which holds the
//! domain's UUID, a number that no other run has, and never a path: as root passt becomes nobody, and
//! Debian's AppArmor profile lets it write in few places, so it is asked for no file but the log that a
//! definition wants.
//!
//! Nothing here may touch a process that was not started here. Anybody can read the name of one that
//! runs and give it to another, so a process is taken for ours only where its owner and its program fit
//! as well (`runtime::background`).

use super::background;
use super::cgroup::Group;
use super::limits::Limits;
use super::network::Tool;
use crate::error::{Error, Kind, Result};
use crate::model::{PortForward, Protocol, UserNetwork};
use crate::spawn::Plan;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use uuid::Uuid;

/// The program.
pub const PASST: Tool = Tool {
    name: "passt",
    what: "which gives guests a network without rights (<interface type='user'>)",
    package: "passt",
};

/// Bytes of its words that are looked at when it gives up.
const WORDS: u64 = 16 << 10;

/// A passt that a guest needs.
#[derive(Debug)]
pub struct Helper {
    /// What it is called while it runs.
    pub name: String,
    /// Its end of the connection.
    pub socket: OwnedFd,
    /// What it is told, the socket apart.
    pub arguments: Vec<OsString>,
    /// The log that the definition wants.
    pub log: Option<String>,
}

/// What the passt of a domain's interface is called in one run: passt tells by its own name what it is to
/// be. Never the same twice, so that no two stores, sessions or runs mean each other's.
pub fn name(domain: Uuid, interface: usize) -> String {
    format!("passt-{domain}-{interface}-{}", Uuid::new_v4().simple())
}

/// The name among these that an interface's passt was given, by this build or one before.
pub fn of_interface(names: &[String], domain: Uuid, interface: usize) -> Option<&String> {
    let prefix = format!("passt-{domain}-{interface}");
    names.iter().find(|name| {
        let rest = name.strip_prefix(&prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// What passt is told.
pub fn arguments(network: &UserNetwork, mtu: Option<u16>) -> Vec<OsString> {
    let mut words: Vec<String> = vec!["--one-off".into()];
    let mut option = |name: &str, value: String| words.extend([name.to_string(), value]);
    if let Some(log) = &network.log {
        option("--log-file", log.clone());
    }
    if let Some(device) = &network.device {
        option("--interface", device.clone());
    }
    if let Some(mtu) = mtu {
        option("--mtu", mtu.to_string());
    }
    for (address, prefix) in &network.addresses {
        option("--address", address.to_string());
        if let (IpAddr::V4(_), Some(prefix)) = (address, prefix) {
            option("--netmask", prefix.to_string());
        }
    }
    for forward in &network.forwards {
        let name = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        option(name, ports(forward));
    }
    words.into_iter().map(OsString::from).collect()
}

/// `<portForward>` in passt's words: `ADDRESS%DEVICE/PORTS,~EXCLUDED`.
fn ports(forward: &PortForward) -> String {
    let mut text = String::new();
    if let Some(address) = forward.address {
        let _ = write!(text, "{address}");
    }
    if let Some(device) = &forward.device {
        let _ = write!(text, "%{device}");
    }
    if !text.is_empty() {
        text.push('/');
    }
    if forward.ranges.is_empty() {
        text.push_str("all");
    }
    for (at, range) in forward.ranges.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        if range.exclude {
            text.push('~');
        }
        let _ = write!(text, "{}", range.start);
        let more = range.end.saturating_sub(range.start);
        if more > 0 {
            let _ = write!(text, "-{}", range.end);
        }
        if let Some(to) = range.to {
            let _ = write!(text, ":{to}");
            if more > 0 {
                let _ = write!(text, "-{}", to.saturating_add(more));
            }
        }
    }
    text
}

/// Starts a passt and waits until it serves. Those of the runs before are gone by then
/// ([`end_all`]): they would hold the ports that this one wants.
///
/// # Errors
/// No program, or what passt says itself.
pub fn start(helper: Helper, group: &Group) -> Result<()> {
    let program = PASST.need()?;
    let own = program.clone();
    // A pipe: a confined passt may write to few files, and inherits none of the others.
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| Error::new(Kind::Host, "cannot make a pipe").cause(error.to_string()))?;
    let number = helper.socket.as_raw_fd();
    let mut arguments = helper.arguments;
    arguments.extend(["--fd".into(), number.to_string().into()]);
    let plan = Plan {
        program,
        arguments,
        descriptors: vec![number],
        output: File::from(writer),
        cgroup: group.procs(),
        memory: None,
    };
    let status = background::launch(plan, Some(&helper.name))?;
    if !status.success() {
        let mut error = Error::new(Kind::Host, "passt does not serve the interface")
            .cause(format!("it ended with {status}"));
        error.causes.extend(last_words(reader));
        return Err(match helper.log {
            Some(log) => error.hint(format!(
                "its log is {log}, if it may write there: Debian's AppArmor profile lets it write below home directories and /tmp only"
            )),
            None => error,
        });
    }
    for (pid, _) in find(&helper.name, &own) {
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        if let Some(why) = group.adopt(pid, &Limits::default()) {
            tracing::debug!("passt stays in the group of this command: {why}");
        }
    }
    Ok(())
}

/// The end of what it said, complaints about a log that nobody keeps apart.
fn last_words(reader: OwnedFd) -> Vec<String> {
    let mut bytes = Vec::new();
    // The pipe is read without waiting: its end is an error, and what came before it is there.
    let _ = File::from(reader).take(WORDS).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let noise = |line: &str| line.starts_with("Failed to send") && line.ends_with("to syslog");
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !noise(line))
        .collect();
    let from = lines.len().saturating_sub(4);
    let last = lines.get(from..).unwrap_or_default();
    last.iter().map(|line| (*line).to_string()).collect()
}

/// Ends those that are left of a guest that is gone, for certain: most have ended by themselves, and
/// the others would hold the ports that the next run wants.
pub fn end_all(names: &[String]) {
    if names.is_empty() {
        return;
    }
    let Ok(program) = PASST.need() else {
        // Whoever removed the program has to end what runs of it.
        return;
    };
    for name in names {
        for (_, process) in find(name, &program) {
            background::kill(&process);
        }
    }
}

/// The processes of this name that are ours; each handle stays with that very process.
fn find(name: &str, program: &Path) -> Vec<(Pid, OwnedFd)> {
    background::find(program, |line| {
        line.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PortRange;

    #[test]
    fn an_interface_finds_the_name_of_its_own_passt() {
        let domain = Uuid::new_v4();
        let names: Vec<String> = [10, 1, 2].map(|index| name(domain, index)).into();
        assert_eq!(of_interface(&names, domain, 1), names.get(1));
        assert_eq!(of_interface(&names, domain, 0), None);
        assert_eq!(of_interface(&names, Uuid::new_v4(), 1), None);
        let older = [format!("passt-{domain}-0")];
        assert_eq!(of_interface(&older, domain, 0), older.first());
    }

    fn range(start: u16, end: u16, to: Option<u16>, exclude: bool) -> PortRange {
        PortRange {
            start,
            end,
            to,
            exclude,
        }
    }

    #[test]
    fn a_plain_interface_needs_no_options() {
        assert_eq!(arguments(&UserNetwork::default(), None), ["--one-off"]);
    }

    #[test]
    fn everything_of_a_definition_is_told() {
        let network = UserNetwork {
            log: Some("/tmp/passt.log".into()),
            device: Some("eth0".into()),
            addresses: vec![
                ("172.17.2.4".parse().unwrap(), Some(24)),
                ("2001:db8::feed".parse().unwrap(), Some(64)),
            ],
            forwards: vec![
                PortForward {
                    protocol: Protocol::Tcp,
                    address: Some("2001:db8::1".parse().unwrap()),
                    device: None,
                    ranges: vec![
                        range(22, 22, Some(2022), false),
                        range(1000, 1050, None, false),
                        range(1020, 1020, None, true),
                        range(80, 81, Some(8080), false),
                    ],
                },
                PortForward {
                    protocol: Protocol::Udp,
                    address: Some("127.0.0.1".parse().unwrap()),
                    device: Some("lo".into()),
                    ranges: Vec::new(),
                },
                PortForward {
                    protocol: Protocol::Tcp,
                    address: None,
                    device: Some("eth0".into()),
                    ranges: vec![range(5, 6, None, true)],
                },
            ],
        };
        let words = arguments(&network, Some(1400));
        let line: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            line.join(" "),
            "--one-off --log-file /tmp/passt.log --interface eth0 --mtu 1400 \
             --address 172.17.2.4 --netmask 24 --address 2001:db8::feed \
             --tcp-ports 2001:db8::1/22:2022,1000-1050,~1020,80-81:8080-8081 \
             --udp-ports 127.0.0.1%lo/all --tcp-ports %eth0/~5-6"
        );
    }

    fn tail(name: &str) -> std::process::Child {
        let plan = Plan {
            program: TAIL.into(),
            arguments: vec!["-f".into(), "/dev/null".into()],
            descriptors: Vec::new(),
            output: tempfile::tempfile().unwrap(),
            cgroup: None,
            memory: None,
        };
        crate::spawn::spawn_as(plan, Some(name)).unwrap()
    }

    const TAIL: &str = "/usr/bin/tail";

    #[test]
    fn no_two_runs_have_a_name_in_common() {
        let uuid = Uuid::new_v4();
        let names = [name(uuid, 0), name(uuid, 0), name(uuid, 1)];
        assert!(names.iter().all(|name| name.contains("passt")));
        assert!(names[0] != names[1] && names[1] != names[2]);
    }

    #[test]
    fn only_processes_of_that_very_name_and_program_are_found() {
        let wanted = name(Uuid::new_v4(), 0);
        let tail_program = Path::new(TAIL);
        assert!(find(&wanted, tail_program).is_empty());
        let mut both = [tail(&wanted), tail(&wanted)];
        let found = find(&wanted, tail_program);
        let mut pids: Vec<u32> = found
            .iter()
            .map(|(pid, _)| pid.as_raw_nonzero().get().cast_unsigned())
            .collect();
        let mut ids: Vec<u32> = both.iter().map(std::process::Child::id).collect();
        pids.sort_unstable();
        ids.sort_unstable();
        assert_eq!(pids, ids, "all of them are looked at");
        assert!(
            find("/dev/null", tail_program).is_empty(),
            "a word is no name"
        );
        // One that took the name and is another program is left alone.
        assert!(find(&wanted, Path::new("/usr/bin/passt")).is_empty());
        end_all(std::slice::from_ref(&wanted));
        assert_eq!(find(&wanted, tail_program).len(), 2);
        for (_, process) in found {
            background::kill(&process);
        }
        for child in &mut both {
            child.wait().unwrap();
        }
        assert!(find(&wanted, tail_program).is_empty());
    }
}
