//! Which UUID stands in which definition, and what it claims ([`super::scan::claims`]), kept so that a store of thousands is not read whole for
//! every change. It may be deleted at any time, and lies with what ends with the host's uptime.
//!
//! An entry counts only while the file is the very one that was read: the same inode, size and time
//! of change. A file that had just been written when it was read is left out, since a second write
//! within the same tick of the clock would look the same.
//!
//! Only a writer writes it, under the store's lock; who reads it takes no lock.

use super::atomic;
use crate::error::Result;
use std::collections::HashMap;
use std::fmt::Write;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The first line: another version is no index.
const HEAD: &str = "vm-index 2";
/// Seconds for which a file must have been left alone before it is entered.
const SETTLED: i64 = 2;
/// Missing entries from which on a writer writes the index anew.
pub const WORTH_IT: usize = 64;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds of the last change; nobody can set it back.
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file.
    pub fn of(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether it was left alone for long enough to tell a later write from it.
    pub fn has_settled(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.changed.0.saturating_add(SETTLED) < now
    }
}

/// A definition that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The domain's name.
    pub name: String,
    /// The state of the file.
    pub stamp: Stamp,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it takes for itself.
    pub claims: Vec<String>,
}

/// The index as it was found.
#[derive(Debug, Default)]
pub struct Index(HashMap<String, Entry>);

impl Index {
    /// Reads it; one that is not there, or is none, is empty.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Self::default();
        }
        let entries = lines.filter_map(parse);
        Self(entries.map(|entry| (entry.name.clone(), entry)).collect())
    }

    /// What is known of a definition that is still the one that was read.
    pub fn take(&mut self, name: &str, stamp: Stamp) -> Option<Entry> {
        self.0.remove(name).filter(|entry| entry.stamp == stamp)
    }

    /// Writes it anew with these entries.
    ///
    /// # Errors
    /// What the file system says; nothing depends on it.
    pub fn write(path: &Path, entries: &[Entry]) -> Result<()> {
        if let Some(folder) = path.parent() {
            atomic::create_dir(folder, 0o700)?;
        }
        let mut text = format!("{HEAD}\n");
        for entry in entries.iter().filter(|entry| entry.stamp.has_settled()) {
            let Stamp {
                inode,
                size,
                changed: (seconds, nanoseconds),
            } = entry.stamp;
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "{inode} {size} {seconds} {nanoseconds} {} {}",
                entry.uuid.simple(),
                entry.name
            );
            for claim in &entry.claims {
                text.push('\t');
                text.push_str(claim);
            }
            text.push('\n');
        }
        atomic::write_volatile(path, text.as_bytes())
    }
}

/// `inode size seconds nanoseconds uuid name`, then claims behind tabs. Names and claims may have
/// spaces, and have no control characters.
fn parse(line: &str) -> Option<Entry> {
    let mut parts = line.split('\t');
    let mut words = parts.next()?.splitn(6, ' ');
    let stamp = Stamp {
        inode: words.next()?.parse().ok()?,
        size: words.next()?.parse().ok()?,
        changed: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
    };
    Some(Entry {
        uuid: Uuid::try_parse(words.next()?).ok()?,
        name: words.next()?.to_string(),
        stamp,
        claims: parts.map(str::to_string).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64, seconds: i64) -> Stamp {
        Stamp {
            inode,
            size: 5,
            changed: (seconds, 7),
        }
    }

    #[test]
    fn an_entry_counts_for_the_very_file_that_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/index");
        let entry = |name: &str, stamp| Entry {
            name: name.to_string(),
            stamp,
            uuid: Uuid::from_u128(9),
            claims: vec!["/a b.img".into(), "52:54:00:00:00:01".into()],
        };
        // Written in the future, or just now: not entered.
        let entries = [
            entry("web 01", stamp(1, 100)),
            entry("new", stamp(2, i64::MAX)),
        ];
        Index::write(&path, &entries).unwrap();
        let read = || Index::read(&path);
        assert_eq!(
            read().take("web 01", stamp(1, 100)).as_ref(),
            entries.first()
        );
        assert_eq!(read().take("web 01", stamp(1, 101)), None);
        assert_eq!(read().take("web 01", stamp(3, 100)), None);
        assert_eq!(read().take("new", stamp(2, i64::MAX)), None);
    }

    #[test]
    fn what_is_no_index_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        for text in [
            "",
            "vm-index 2\n1 5 1 7 0 a\n",
            "vm-index 1\nnonsense\n1 2\n",
        ] {
            fs::write(&path, text).unwrap();
            assert!(Index::read(&path).0.is_empty(), "{text}");
        }
    }
}
