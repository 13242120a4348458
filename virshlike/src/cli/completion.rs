//! What a shell offers when somebody presses Tab: verbs and options from their declarations, and
//! the names of domains and of their devices from the store.
//!
//! The shells' scripts (`vm completion SHELL`) call `vm` with `VM_COMPLETE=SHELL` and the words so
//! far. Must never write, never wait for a guest, and never say that something went wrong: nobody
//! reads it there.

use super::registry;
use crate::manager::Manager;
use crate::runtime::rundir::{self, Liveness};
use crate::store::{Connection, Environment};
use clap::Command;
use clap_complete::engine::{self, ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Shells, Zsh};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// The variable by which a script asks.
const ASKED: &str = "VM_COMPLETE";

/// Verbs whose domain is a running one.
const OF_RUNNING: &[&str] = &[
    "console",
    "cpu-stats",
    "destroy",
    "domblkstat",
    "domdisplay",
    "domfsfreeze",
    "domfsinfo",
    "domfsthaw",
    "domfstrim",
    "domhostname",
    "domid",
    "domif-reconnect",
    "domifaddr",
    "domifstat",
    "domtime",
    "guestinfo",
    "guestvcpus",
    "qemu-agent-command",
    "reboot",
    "reset",
    "resume",
    "screenshot",
    "send-key",
    "set-user-password",
    "shutdown",
    "suspend",
    "ttyconsole",
    "vcpuinfo",
    "vncdisplay",
];
/// Verbs whose domain is not running.
const OF_SHUT_OFF: &[&str] = &["start", "domrename"];

/// Answers a shell's script; `None` when none asked.
pub fn answer(arguments: &[OsString]) -> Option<ExitCode> {
    let shell = std::env::var(ASKED)
        .ok()
        .filter(|shell| !shell.is_empty())?;
    let from = arguments.iter().position(|word| word == "--");
    let words = arguments.get(from.map_or(arguments.len(), |at| at + 1)..)?;
    let mut out = Vec::new();
    let folder = std::env::current_dir().ok();
    let done = Shells::builtins().completer(&shell).map(|shell| {
        let mut command = dynamic(words);
        shell.write_complete(&mut command, words.to_vec(), folder.as_deref(), &mut out)
    });
    let written = std::io::stdout().write_all(&out);
    match (done, written) {
        (Some(Ok(())), Ok(())) => Some(ExitCode::SUCCESS),
        _ => Some(ExitCode::FAILURE),
    }
}

/// What fits the last of these words, the program's name being the first.
pub fn candidates_for(words: &[OsString]) -> Vec<String> {
    let folder = std::env::current_dir().ok();
    let last = words.len().saturating_sub(1);
    let mut command = dynamic(words);
    let found = engine::complete(&mut command, words.to_vec(), last, folder.as_deref());
    let found = found.unwrap_or_default().into_iter();
    found
        .map(|candidate| candidate.get_value().to_string_lossy().into_owned())
        .collect()
}

/// The script that makes a shell ask, or `None` for one that has none that asks.
pub fn script(shell: &str) -> Option<String> {
    let shells: [&dyn EnvCompleter; 3] = [&Bash, &Zsh, &Fish];
    let shell = shells.into_iter().find(|known| known.is(shell))?;
    let mut script = Vec::new();
    // Writing to memory does not fail.
    let _ = shell.write_registration(ASKED, "vm", "vm", "vm", &mut script);
    String::from_utf8(script).ok()
}

/// The command line whose arguments know the store's domains.
fn dynamic(words: &[OsString]) -> Command {
    let uri = uri(words);
    super::command().mut_subcommands(move |command| {
        let verb = command.get_name().to_string();
        let (uri, words) = (uri.clone(), words.to_vec());
        command.mut_args(move |arg| {
            let (uri, verb, words) = (uri.clone(), verb.clone(), words.clone());
            match arg.get_id().as_str() {
                "domain" | "domains" => arg.add(ArgValueCandidates::new(move || {
                    candidates(domains(uri.as_deref(), &verb))
                })),
                "network" => arg.add(ArgValueCandidates::new(move || {
                    candidates(networks(uri.as_deref(), &verb))
                })),
                "device" => arg.add(ArgValueCandidates::new(move || {
                    candidates(devices(uri.as_deref(), &words))
                })),
                "command" if verb == "help" => arg.add(ArgValueCandidates::new(|| {
                    candidates(registry::ENTRIES.iter().map(|entry| entry.name.to_string()))
                })),
                _ => arg,
            }
        })
    })
}

fn candidates(words: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    words.into_iter().map(CompletionCandidate::new).collect()
}

/// The connection that the words name, or the environment.
fn uri(words: &[OsString]) -> Option<String> {
    let text = |word: &OsString| word.to_str().map(str::to_string);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-c" | "--connect") => return words.next().and_then(text),
            Some(word) if word.starts_with("--connect=") => {
                return word.strip_prefix("--connect=").map(str::to_string);
            }
            _ => {}
        }
    }
    std::env::var("VM_DEFAULT_URI").ok()
}

fn manager(uri: Option<&str>) -> Option<Manager> {
    let environment = Environment::of_process();
    let connection = Connection::parse(uri, environment.uid).ok()?;
    Manager::open(connection, &environment).ok()
}

/// Names of the domains that fit a verb. Whether one runs is told by its lock alone.
fn domains(uri: Option<&str>, verb: &str) -> Vec<String> {
    let Some(manager) = manager(uri) else {
        return Vec::new();
    };
    let defined = manager.store().names().unwrap_or_default();
    let runs = rundir::runs(&manager.store().layout().run).unwrap_or_default();
    let running: BTreeSet<String> = runs
        .iter()
        .filter_map(|dir| match dir.liveness() {
            Ok(Liveness::Alive(record)) => Some(record.name),
            _ => None,
        })
        .collect();
    if OF_RUNNING.contains(&verb) {
        return running.into_iter().collect();
    }
    if OF_SHUT_OFF.contains(&verb) {
        let off = defined.into_iter().filter(|name| !running.contains(name));
        return off.collect();
    }
    let all: BTreeSet<String> = defined.into_iter().chain(running).collect();
    all.into_iter().collect()
}

/// Names of the networks that fit a verb.
fn networks(uri: Option<&str>, verb: &str) -> Vec<String> {
    let Some(manager) = manager(uri) else {
        return Vec::new();
    };
    let networks = manager.networks();
    let mut list = networks.list().unwrap_or_default();
    list.retain(|facts| match verb {
        "net-start" => !facts.active || !facts.faults.is_empty(),
        "net-destroy" | "net-dhcp-leases" => facts.active,
        _ => true,
    });
    list.into_iter().map(|facts| facts.name).collect()
}

/// Disks and network cards of the domain that the words name.
fn devices(uri: Option<&str>, words: &[OsString]) -> Vec<String> {
    let find = || {
        let manager = manager(uri)?;
        let names = manager.store().names().ok()?;
        let name = words
            .iter()
            .filter_map(|word| word.to_str())
            .find(|word| names.iter().any(|name| name == word))?;
        let domain = manager.find(name).ok()?;
        let (_, model) = manager.current_definition(&domain, None).ok()?;
        let disks = model.disks.into_iter().map(|disk| disk.target);
        let cards = model.interfaces.into_iter().filter_map(|card| card.mac);
        Some(disks.chain(cards.map(|mac| mac.to_string())).collect())
    };
    find().unwrap_or_default()
}
