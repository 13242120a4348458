//! What happens to networks: defined, undefined, started, stopped.
//!
//! The kernel wakes us when something changes in their folders or in their journals; nothing is polled.
//! Every command notes in a network's journal what it did, so that one that starts and ends at once is
//! told; what no command did, such as an edit of a definition by hand, follows from what is there now
//! and was before.
//!
//! ```text
//! woken --> new lines of journals: what they say, unless a look was faster
//!       --> a look: what the lines do not say (yet)
//! ```
//!
//! A line is written after what it tells of has become visible and before the network's lock is given
//! up. So lines are read first: a look that comes after them can only know more.

use super::{Mark, became, definitions};
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::runtime::network::record::{self, Phase};
use crate::store::Store;
use crate::store::journal::{self, Entry};
use crate::system::wake::{Wake, is_readable};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

/// Bytes of new lines that are read of one journal at a time.
const MOST: u64 = 1 << 20;

/// What kind of event; libvirt has one for networks that can happen here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifecycle;

impl Lifecycle {
    /// The word.
    pub const NAME: &'static str = "lifecycle";
}

impl FromStr for Lifecycle {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            Self::NAME => Ok(Self),
            _ => Err(format!("the only type is {}", Self::NAME)),
        }
    }
}

/// Something that happened to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkHappening {
    /// Its name.
    pub network: String,
    /// virsh's word: Defined, Undefined, Started, Stopped.
    pub detail: &'static str,
}

/// The networks as they were at one look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    defined: BTreeMap<String, Mark>,
    active: BTreeSet<String>,
}

/// That of a definition that was gone again before it was looked at.
const GONE: Mark = Mark(0, 0, 0, 0);

/// A watch over all networks, or over one.
#[derive(Debug)]
pub struct NetworkWatch {
    store: Store,
    only: Option<String>,
    wake: Wake,
    journals: Journals,
    last: Look,
    found: VecDeque<NetworkHappening>,
}

impl NetworkWatch {
    /// Begins to watch. What is defined and active now is no event.
    ///
    /// # Errors
    /// A store that cannot be read, and what the kernel says.
    pub fn new(manager: &Manager, only: Option<String>) -> Result<Self> {
        let store = manager.store().networks();
        let journals = Journals::in_folder(store.layout().lib.join("journal"));
        let failed = |error: io::Error| Error::io("watch", &store.layout().run, &error);
        let mut watch = Self {
            wake: Wake::new().map_err(failed)?,
            journals,
            store,
            only,
            last: Look::default(),
            found: VecDeque::new(),
        };
        watch.follow()?;
        // What they say so far is told by the look.
        watch.journals.news();
        watch.last = watch.look()?;
        Ok(watch)
    }

    /// The next event; none when `deadline` passed or there is something to be read from `stop`.
    ///
    /// # Errors
    /// A store that cannot be read, and what the kernel says.
    pub fn next(
        &mut self,
        deadline: Option<Instant>,
        stop: BorrowedFd<'_>,
    ) -> Result<Option<NetworkHappening>> {
        loop {
            if let Some(happening) = self.found.pop_front() {
                return Ok(Some(happening));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) || is_readable(stop) {
                return Ok(None);
            }
            self.wake
                .wait(left, Some(stop))
                .map_err(|error| Error::io("watch", &self.store.layout().run, &error))?;
            self.follow()?;
            for entry in self.journals.news() {
                if self.only.as_ref().is_none_or(|only| *only == entry.domain) {
                    let mark = || Mark::of(&self.store.layout().definition(&entry.domain));
                    self.found.extend(self.last.learn(&entry, mark));
                }
            }
            let now = self.look()?;
            self.found.extend(differences(&self.last, &now));
            self.last = now;
        }
    }

    /// Watches every folder that tells something: what comes later wakes.
    fn follow(&self) -> Result<()> {
        let layout = self.store.layout();
        let records = record::all(&layout.run).into_iter();
        let folders = records.map(|(dir, _)| dir.path().to_path_buf());
        let ours = [&layout.domains, &layout.run, &self.journals.folder];
        for folder in ours.into_iter().cloned().chain(folders) {
            self.wake
                .also(&folder)
                .map_err(|error| Error::io("watch", &folder, &error))?;
        }
        Ok(())
    }

    fn look(&self) -> Result<Look> {
        let layout = self.store.layout();
        let records = || record::all(&layout.run).into_iter();
        let wanted = |name: &str| self.only.as_ref().is_none_or(|only| only == name);
        let mut defined = definitions(&self.store)?;
        defined.retain(|name, _| wanted(name));
        let active = records().filter(|(_, record)| record.phase == Phase::Active);
        let active = active.map(|(_, record)| record.name);
        Ok(Look {
            defined,
            active: active.filter(|name| wanted(name)).collect(),
        })
    }
}

impl Look {
    /// What a line of a journal tells that was not known; from then on it is. `mark` is that of the
    /// definition as it is now.
    fn learn(
        &mut self,
        entry: &Entry,
        mark: impl FnOnce() -> Option<Mark>,
    ) -> Option<NetworkHappening> {
        let network = &entry.domain;
        let (new, detail) = match entry.verb.as_str() {
            "net-start" | "net-create" => (self.active.insert(network.clone()), "Started"),
            "net-destroy" => (self.active.remove(network), "Stopped"),
            "net-undefine" => (self.defined.remove(network).is_some(), "Undefined"),
            // One that was there is told by the look that finds it changed.
            "net-define" if !self.defined.contains_key(network) => {
                self.defined.insert(network.clone(), mark().unwrap_or(GONE));
                (true, "Defined")
            }
            _ => return None,
        };
        new.then(|| NetworkHappening {
            network: network.clone(),
            detail,
        })
    }
}

/// The journals of a store, read on from where they ended at the last reading.
#[derive(Debug)]
struct Journals {
    folder: PathBuf,
    /// Bytes of each file that were read.
    read: BTreeMap<PathBuf, u64>,
}

impl Journals {
    /// What they say now is no news.
    fn in_folder(folder: PathBuf) -> Self {
        let mut journals = Self {
            folder,
            read: BTreeMap::new(),
        };
        journals.read = journals.lengths().collect();
        journals
    }

    fn lengths(&self) -> impl Iterator<Item = (PathBuf, u64)> + use<> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())))
    }

    /// New entries, in the order of their times and within one journal in its order.
    fn news(&mut self) -> Vec<Entry> {
        let mut news = Vec::new();
        let now: BTreeMap<PathBuf, u64> = self.lengths().collect();
        // One that was removed and is made again is read from its beginning.
        self.read.retain(|path, _| now.contains_key(path));
        for (path, length) in now {
            let from = self.read.get(&path).copied().unwrap_or(0).min(length);
            if from == length {
                continue;
            }
            // What cannot be read now is read later.
            if let Ok((entries, bytes)) = lines_from(&path, from) {
                self.read.insert(path, from.saturating_add(bytes));
                news.extend(entries);
            }
        }
        news.sort_by_key(|entry| entry.time);
        news
    }
}

/// Entries in the whole lines from a place on, and how many bytes these are.
fn lines_from(path: &Path, from: u64) -> io::Result<(Vec<Entry>, u64)> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |at| at.saturating_add(1));
    let lines = bytes.get(..whole).unwrap_or_default();
    Ok((journal::entries(lines), u64::try_from(whole).unwrap_or(0)))
}

/// What happened between two looks: a network is defined before it starts, and stops before it goes.
fn differences(old: &Look, now: &Look) -> Vec<NetworkHappening> {
    let one = |network: &str, detail| NetworkHappening {
        network: network.to_string(),
        detail,
    };
    let mut found = Vec::new();
    let names: BTreeSet<&String> = now.defined.keys().chain(old.defined.keys()).collect();
    for stopped in old.active.difference(&now.active) {
        found.push(one(stopped, "Stopped"));
    }
    for name in names {
        let words = became(old.defined.get(name), now.defined.get(name));
        // libvirt's word has nothing behind it here.
        let word = words.and_then(|words| words.split(' ').next());
        found.extend(word.map(|word| one(name, word)));
    }
    for started in now.active.difference(&old.active) {
        found.push(one(started, "Started"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(defined: &[(&str, u64)], active: &[&str]) -> Look {
        let marked = |(name, size): &(&str, u64)| ((*name).to_string(), Mark(1, 1, 1, *size));
        Look {
            defined: defined.iter().map(marked).collect(),
            active: active.iter().map(|name| (*name).to_string()).collect(),
        }
    }

    #[test]
    fn lines_tell_what_no_look_has_seen_and_nothing_twice() {
        let mut last = look(&[("a", 1)], &[]);
        let mut learn = |verb: &str, name: &str| {
            let entry = Entry::now(verb, name, "");
            let told = last.learn(&entry, || Some(Mark(1, 1, 1, 7)));
            told.map(|one| one.detail)
        };
        // It came and went between two looks.
        assert_eq!(learn("net-start", "a"), Some("Started"));
        // A repair.
        assert_eq!(learn("net-start", "a"), None);
        assert_eq!(learn("net-destroy", "a"), Some("Stopped"));
        assert_eq!(learn("net-destroy", "a"), None);
        assert_eq!(learn("net-define", "a"), None);
        assert_eq!(learn("net-undefine", "a"), Some("Undefined"));
        assert_eq!(learn("net-define", "b"), Some("Defined"));
        assert_eq!(learn("start", "b"), None);
        let now = look(&[("b", 7)], &[]);
        assert!(differences(&last, &now).is_empty());
    }

    #[test]
    fn journals_are_read_on_from_where_they_ended() {
        let dir = tempfile::tempdir().unwrap();
        let one = dir.path().join("one.jsonl");
        let add = |path: &Path, verb: &str| {
            journal::append(path, &Entry::now(verb, "a", "")).unwrap();
        };
        add(&one, "net-define");
        let mut journals = Journals::in_folder(dir.path().into());
        let verbs = |news: Vec<Entry>| -> Vec<String> {
            news.into_iter().map(|entry| entry.verb).collect()
        };
        assert!(journals.news().is_empty());
        add(&one, "net-start");
        add(&one, "net-destroy");
        add(&dir.path().join("two.jsonl"), "start");
        assert_eq!(
            verbs(journals.news()),
            ["net-start", "net-destroy", "start"]
        );
        // A line is read when it is whole.
        let whole = fs::read(&one).unwrap();
        fs::write(&one, [&whole[..], b"{\"time\":"].concat()).unwrap();
        assert!(journals.news().is_empty());
        fs::write(&one, &whole).unwrap();
        add(&one, "net-undefine");
        assert_eq!(verbs(journals.news()), ["net-undefine"]);
        fs::remove_file(&one).unwrap();
        assert!(journals.news().is_empty());
        add(&one, "net-define");
        assert_eq!(verbs(journals.news()), ["net-define"]);
    }

    #[test]
    fn what_came_and_went_is_told_in_an_order_that_can_be() {
        let old = look(&[("a", 1), ("b", 1)], &["a"]);
        let now = look(&[("b", 2), ("c", 1)], &["c"]);
        let told: Vec<String> = differences(&old, &now)
            .into_iter()
            .map(|one| format!("{} {}", one.network, one.detail))
            .collect();
        assert_eq!(
            told,
            [
                "a Stopped",
                "a Undefined",
                "b Defined",
                "c Defined",
                "c Started"
            ]
        );
        assert!(differences(&now, &now).is_empty());
    }
}
