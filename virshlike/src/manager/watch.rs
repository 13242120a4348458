//! What happens to domains, from the guests' own events and from changes on disk.
//!
//! ```text
//! guest's control socket --event--> one thread per guest --\
//!                                                            >-- channel --> whoever asked
//! store and runtime directories --look()------------------/
//! ```

use super::{Domain, Manager};
use crate::error::Result;
use crate::runtime::Guest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::mpsc::Sender;
use uuid::Uuid;
use vmm_api::control::Event;
use vmm_api::end::EndReason;
use vmm_api::state::PauseReason;

/// Types of events, under libvirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Its name.
    pub domain: String,
    /// What kind.
    pub kind: Type,
    /// virsh's words for it.
    pub detail: String,
}

impl Happening {
    fn new(domain: &str, kind: Type, detail: impl Into<String>) -> Self {
        Self {
            domain: domain.to_string(),
            kind,
            detail: detail.into(),
        }
    }
}

/// A definition's file: what changes when it is written anew.
type Mark = (u64, i64, i64, u64);

/// A watch over all domains, or over one.
pub struct Watch<'a> {
    manager: &'a Manager,
    only: Option<Domain>,
    sender: Sender<Happening>,
    defined: BTreeMap<String, Mark>,
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
            defined: BTreeMap::new(),
            running: BTreeSet::new(),
        };
        watch.defined = watch.definitions()?;
        for guest in watch.guests()? {
            watch.listen(guest, false);
        }
        Ok(watch)
    }

    /// Looks at what is on disk, and tells what changed.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn look(&mut self) -> Result<()> {
        let now = self.definitions()?;
        for (name, mark) in &now {
            let detail = match self.defined.get(name) {
                None => "Defined Added",
                Some(old) if old != mark => "Defined Updated",
                Some(_) => continue,
            };
            self.tell(Happening::new(name, Type::Lifecycle, detail));
        }
        for name in self.defined.keys().filter(|name| !now.contains_key(*name)) {
            self.tell(Happening::new(name, Type::Lifecycle, "Undefined Removed"));
        }
        self.defined = now;
        for guest in self.guests()? {
            if !self.running.contains(&(guest.record.uuid, guest.record.id)) {
                self.listen(guest, true);
            }
        }
        Ok(())
    }

    fn tell(&self, happening: Happening) {
        // Nobody listens any more when this fails.
        let _ = self.sender.send(happening);
    }

    fn definitions(&self) -> Result<BTreeMap<String, Mark>> {
        let store = self.manager.store();
        let names = store.names()?.into_iter();
        let wanted = |name: &String| self.only.as_ref().is_none_or(|only| only.name == *name);
        Ok(names
            .filter(wanted)
            .filter_map(|name| {
                let found = fs::metadata(store.layout().definition(&name)).ok()?;
                let mark = (found.ino(), found.mtime(), found.mtime_nsec(), found.len());
                Some((name, mark))
            })
            .collect())
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
            let client = guest.subscribe();
            if new {
                let _ = sender.send(Happening::new(&name, Type::Lifecycle, "Started Booted"));
            }
            let mut stopped = false;
            let heard = client.and_then(|client| {
                guest.events(client, |event| {
                    stopped |= matches!(event, Event::Stopped { .. });
                    let happenings = of_event(&name, &event);
                    happenings.into_iter().all(|one| sender.send(one).is_ok())
                })
            });
            // One that is gone without a word has crashed; one that cannot be heard lives on.
            let gone = !guest.dir().lock_is_held().unwrap_or(true);
            if heard.is_ok() && !stopped && gone {
                let _ = sender.send(Happening::new(&name, Type::Lifecycle, "Stopped Crashed"));
            }
        });
    }
}

fn of_event(name: &str, event: &Event) -> Vec<Happening> {
    let with = |words: &str, detail: &str| match detail.is_empty() {
        true => words.to_string(),
        false => format!("{words} ({detail})"),
    };
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
            let word = match reason {
                EndReason::Shutdown => "Shutdown".to_string(),
                EndReason::Destroyed => "Destroyed".to_string(),
                EndReason::Failed => "Failed".to_string(),
                other => other.as_str().to_string(),
            };
            one(Type::Lifecycle, with(&format!("Stopped {word}"), detail))
        }
        Event::Job { job, done, total } => {
            one(Type::Job, format!("{}: {done} of {total}", job.as_str()))
        }
        Event::Unknown => Vec::new(),
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
