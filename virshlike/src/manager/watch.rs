//! What happens to domains, as `vm daemon` tells it, or from the guests' own events and from changes
//! on disk where no daemon runs.
//!
//! ```text
//! a daemon's socket --line--> one thread -------------------\
//!                                                            \
//! guest's control socket --event--> one thread per guest -----+-- channel --> whoever asked
//! store and runtime directories --look()---------------------/
//! ```
//!
//! A daemon that ends is replaced by looking for oneself. What happens to networks: [`networks`].

pub(crate) mod heard;
pub mod networks;

use super::{Domain, Manager};
use crate::error::Result;
use crate::runtime::guest::LEAVE;
use crate::runtime::record::RunEnd;
use crate::runtime::rundir::LastWords;
use crate::runtime::{Guest, Liveness};
use crate::store::Store;
use heard::{Heard, Told};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm_api::control::Event;
use vmm_api::end::EndReason;
use vmm_api::state::PauseReason;

/// Types of events, under libvirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Type {
    /// Defined, started, suspended, resumed, stopped, undefined.
    Lifecycle,
    /// The guest was reset.
    Reboot,
    /// A disk could not be read or written.
    IoError,
    /// A job went on.
    Job,
}

impl Type {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lifecycle, Self::Reboot, Self::IoError, Self::Job];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Reboot => "reboot",
            Self::IoError => "io-error",
            Self::Job => "job",
        }
    }
}

impl FromStr for Type {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("the types are {}", words.join(", "))
        })
    }
}

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Its name.
    pub domain: String,
    /// What kind.
    #[serde(rename = "event")]
    pub kind: Type,
    /// virsh's words for it.
    pub detail: String,
    /// Its UUID, where it is known; a daemon tells it beside the happening.
    #[serde(skip)]
    pub uuid: Option<Uuid>,
}

impl Happening {
    fn new(domain: &str, kind: Type, detail: impl Into<String>) -> Self {
        Self {
            domain: domain.to_string(),
            kind,
            detail: detail.into(),
            uuid: None,
        }
    }

    /// The same of a domain whose UUID is known.
    fn of(self, uuid: Option<Uuid>) -> Self {
        Self { uuid, ..self }
    }

    /// A domain was started.
    pub(crate) fn started(domain: &str) -> Self {
        Self::new(domain, Type::Lifecycle, "Started Booted")
    }

    /// It ended, in libvirt's words.
    pub(crate) fn stopped(domain: &str, end: RunEnd, detail: &str) -> Self {
        let word = match end {
            RunEnd::Vanished | RunEnd::Said(EndReason::Crashed) => "Crashed",
            RunEnd::Said(EndReason::Shutdown | EndReason::Rebooted | EndReason::DebugExit) => {
                "Shutdown"
            }
            RunEnd::Said(EndReason::Destroyed) => "Destroyed",
            RunEnd::Said(EndReason::Saved) => "Saved",
            RunEnd::Said(EndReason::Migrated) => "Migrated",
            RunEnd::Said(EndReason::Failed) => "Failed",
        };
        let words = format!("Stopped {word}");
        Self::new(domain, Type::Lifecycle, with(&words, detail))
    }

    /// Something became of its definition, in libvirt's words.
    pub(crate) fn redefined(domain: &str, words: &str) -> Self {
        Self::new(domain, Type::Lifecycle, words)
    }
}

/// The state of a definition's file: it changes when it is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64, i64, i64, u64);

impl Mark {
    /// That of a file; none where there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self(
            found.ino(),
            found.mtime(),
            found.mtime_nsec(),
            found.len(),
        ))
    }
}

/// The definitions of a store.
///
/// # Errors
/// A store that cannot be read.
pub(crate) fn definitions(store: &Store) -> Result<BTreeMap<String, Mark>> {
    let names = store.names()?.into_iter();
    let marked = |name: String| Some((Mark::of(&store.layout().definition(&name))?, name));
    Ok(names
        .filter_map(marked)
        .map(|(mark, name)| (name, mark))
        .collect())
}

/// libvirt's words for what became of a definition; none when it is as it was.
pub(crate) fn became(old: Option<&Mark>, now: Option<&Mark>) -> Option<&'static str> {
    match (old, now) {
        (None, Some(_)) => Some("Defined Added"),
        (Some(_), None) => Some("Undefined Removed"),
        (Some(old), Some(now)) if old != now => Some("Defined Updated"),
        _ => None,
    }
}

/// What became of the definitions between two looks.
pub(crate) fn differences(
    old: &BTreeMap<String, Mark>,
    now: &BTreeMap<String, Mark>,
) -> Vec<(String, &'static str)> {
    let names: BTreeSet<&String> = now.keys().chain(old.keys()).collect();
    let one = |name: &String| Some((name.clone(), became(old.get(name), now.get(name))?));
    names.into_iter().filter_map(one).collect()
}

/// A watch over all domains, or over one.
pub struct Watch<'a> {
    manager: &'a Manager,
    only: Option<Domain>,
    sender: Sender<Happening>,
    /// Passes on what a daemon tells, as long as there is one.
    daemon: Option<JoinHandle<()>>,
    defined: BTreeMap<String, Mark>,
    /// UUIDs of what is defined, and of what was removed in the last look.
    uuids: BTreeMap<String, Uuid>,
    running: BTreeSet<(Uuid, u32)>,
}

impl<'a> Watch<'a> {
    /// Begins to watch. What is defined and running now is no event.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn new(
        manager: &'a Manager,
        only: Option<Domain>,
        sender: Sender<Happening>,
    ) -> Result<Self> {
        let mut watch = Self {
            manager,
            only,
            sender,
            daemon: None,
            defined: BTreeMap::new(),
            uuids: BTreeMap::new(),
            running: BTreeSet::new(),
        };
        match Heard::from(manager.store().layout()) {
            Some(heard) => watch.daemon = Some(watch.hear(heard)),
            None => watch.begin()?,
        }
        Ok(watch)
    }

    /// Passes on what a daemon tells, from a thread that ends with it.
    fn hear(&self, heard: Heard) -> JoinHandle<()> {
        let (only, sender) = (self.only.clone(), self.sender.clone());
        std::thread::spawn(move || {
            let wanted = |told: &Told| {
                only.as_ref().is_none_or(|only| match told.uuid {
                    Some(uuid) => only.uuid == uuid,
                    None => only.name == told.happening.domain,
                })
            };
            heard.pass_on(wanted, &sender);
        })
    }

    /// Begins to look for itself.
    fn begin(&mut self) -> Result<()> {
        self.defined = self.definitions()?;
        self.uuids = self.manager.store().identities()?.into_iter().collect();
        for guest in self.guests()? {
            self.listen(guest, false);
        }
        Ok(())
    }

    /// Looks at what is on disk, and tells what changed; nothing while a daemon tells. Says whether
    /// the daemon was lost: what happened meanwhile is not known.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn look(&mut self) -> Result<bool> {
        if let Some(daemon) = &self.daemon {
            let lost = daemon.is_finished();
            if lost {
                self.daemon = None;
                self.begin()?;
            }
            return Ok(lost);
        }
        let now = self.definitions()?;
        let found = differences(&self.defined, &now);
        if !found.is_empty() {
            self.uuids.retain(|name, _| self.defined.contains_key(name));
            self.uuids.extend(self.manager.store().identities()?);
        }
        for (name, words) in found {
            let uuid = self.uuids.get(&name).copied();
            self.tell(Happening::redefined(&name, words).of(uuid));
        }
        self.defined = now;
        for guest in self.guests()? {
            if !self.running.contains(&(guest.record.uuid, guest.record.id)) {
                self.listen(guest, true);
            }
        }
        Ok(false)
    }

    fn tell(&self, happening: Happening) {
        // Nobody listens any more when this fails.
        let _ = self.sender.send(happening);
    }

    fn definitions(&self) -> Result<BTreeMap<String, Mark>> {
        let mut found = definitions(self.manager.store())?;
        if let Some(only) = &self.only {
            found.retain(|name, _| *name == only.name);
        }
        Ok(found)
    }

    fn guests(&self) -> Result<Vec<Guest>> {
        let mut guests = self.manager.guests()?;
        if let Some(only) = &self.only {
            guests.retain(|guest| guest.record.uuid == only.uuid);
        }
        Ok(guests)
    }

    /// Passes on a guest's own events, from a thread that ends with the guest or the process. One
    /// that was started while it was watched is told of when its events are being heard, so that
    /// whoever acts on it misses none.
    fn listen(&mut self, guest: Guest, new: bool) {
        self.running.insert((guest.record.uuid, guest.record.id));
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            let name = guest.record.name.clone();
            let uuid = Some(guest.record.uuid);
            let words = guest.dir().open_end();
            let client = guest.subscribe();
            if new {
                let _ = sender.send(Happening::started(&name).of(uuid));
            }
            let mut stopped = false;
            let heard = client.and_then(|client| {
                guest.events(client, |event| {
                    stopped |= matches!(event, Event::Stopped { .. });
                    let happenings = of_event(&name, &event);
                    let mut happenings = happenings.into_iter().map(|one| one.of(uuid));
                    happenings.all(|one| sender.send(one).is_ok())
                })
            });
            // A process closes its socket a little before it is gone; one that cannot be heard may
            // live on.
            let patience = match heard {
                Ok(()) => LEAVE,
                Err(_) => Duration::ZERO,
            };
            if !stopped && ends_within(&guest, patience) {
                let _ = sender.send(how_it_ended(&guest, words.as_ref()).of(uuid));
            }
        });
    }
}

/// Whether this very run has ended, as far as can be told.
fn has_ended(guest: &Guest) -> bool {
    match guest.dir().liveness() {
        Ok(Liveness::Alive(record)) => record.id != guest.record.id,
        Ok(_) => true,
        Err(_) => false,
    }
}

/// Waits until this very run has ended; `false` when it has not.
fn ends_within(guest: &Guest, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !has_ended(guest) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        // Again and again: another run may have begun meanwhile, and be waited for instead.
        let _ = guest.wait_end(left.min(Duration::from_millis(50)));
    }
    true
}

/// What the end of a guest is that told nothing of it: its last words are on disk, or what a command
/// kept of them.
fn how_it_ended(guest: &Guest, words: Option<&LastWords>) -> Happening {
    let name = &guest.record.name;
    if let Some(end) = words.and_then(LastWords::read) {
        return Happening::stopped(name, RunEnd::Said(end.reason), &end.detail);
    }
    match guest.dir().liveness() {
        Ok(Liveness::Ended(last)) if last.id == guest.record.id => {
            Happening::stopped(name, last.end, &last.detail)
        }
        _ => Happening::stopped(name, RunEnd::Vanished, ""),
    }
}

/// Words, and what there is to say of them.
fn with(words: &str, detail: &str) -> String {
    match detail.is_empty() {
        true => words.to_string(),
        false => format!("{words} ({detail})"),
    }
}

/// What a guest's own event is, in virsh's words.
pub(crate) fn of_event(name: &str, event: &Event) -> Vec<Happening> {
    let one = |kind, detail: String| vec![Happening::new(name, kind, detail)];
    match event {
        Event::Running => one(Type::Lifecycle, "Resumed Unpaused".into()),
        Event::Paused { reason, detail } => {
            let words = match reason {
                PauseReason::User => "Suspended Paused".to_string(),
                PauseReason::IoError => "Suspended I/O Error".to_string(),
                other => format!("Suspended {}", other.as_str()),
            };
            let mut happenings = one(Type::Lifecycle, with(&words, detail));
            if *reason == PauseReason::IoError {
                happenings.extend(one(Type::IoError, with("pause", detail)));
            }
            happenings
        }
        Event::Reset => one(Type::Reboot, String::new()),
        Event::Powerdown => one(Type::Lifecycle, "Shutdown requested".into()),
        Event::Stopped { reason, detail } => {
            vec![Happening::stopped(name, RunEnd::Said(*reason), detail)]
        }
        Event::Job { job, done, total } => {
            one(Type::Job, format!("{}: {done} of {total}", job.as_str()))
        }
        Event::CardLost { .. } | Event::Unknown => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_is_two_events() {
        let event = Event::Paused {
            reason: PauseReason::IoError,
            detail: "vda".into(),
        };
        let kinds: Vec<Type> = of_event("a", &event).iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [Type::Lifecycle, Type::IoError]);
    }

    #[test]
    fn types_are_read_by_their_words() {
        for kind in Type::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("nonsense".parse::<Type>().unwrap_err().contains("reboot"));
    }
}
