//! Which UUID stands in which definition, and what it claims ([`super::scan::claims`]), kept so
//! that a store of thousands is not read whole for every change. It may be deleted at any time, and
//! lies with what ends with the host's uptime, so nothing syncs it.
//!
//! An entry counts only while the file is the very one that was read: the same inode, size and time
//! of change. A file that had just been written when it was read is left out, since a second write
//! within the same tick of the clock would look the same.
//!
//! Only a writer writes it, under the store's lock; who reads it takes no lock.

use super::atomic;
use crate::error::Result;
use rustix::fs::Stat;
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The first line: another version is no index.
const HEAD: &str = "vm-index 2";
/// How long a file must have been left alone before it is entered, where its time of change has
/// nanoseconds: several ticks of the clock that file systems use.
const FINE: Duration = Duration::from_millis(100);
/// The same where it has none.
const COARSE: Duration = Duration::from_secs(3);
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
    pub fn of(found: &Stat) -> Self {
        Self {
            inode: found.st_ino,
            size: u64::try_from(found.st_size).unwrap_or(0),
            changed: (
                found.st_ctime,
                i64::try_from(found.st_ctime_nsec).unwrap_or(0),
            ),
        }
    }

    /// Whether it was left alone for long enough, `now`, to tell a later write from it. A time of
    /// change without nanoseconds may come from a file system that knows seconds alone.
    pub fn has_settled(self, now: Duration) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) =
            (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return false;
        };
        let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds.into());
        let patience = if nanoseconds == 0 { COARSE } else { FINE };
        changed.saturating_add(patience) < now
    }
}

/// The time of day, since the Unix epoch.
pub fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// A definition that was read, or that the index knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The domain's name.
    pub name: String,
    /// The state of the file.
    pub stamp: Stamp,
    /// Its UUID.
    pub uuid: Uuid,
    /// What it takes for itself.
    pub claims: Claims,
}

/// MAC addresses and images of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claims {
    /// As its text says.
    Read(Vec<String>),
    /// Where they stand in the index.
    Indexed(Range<usize>),
}

/// The index as it was found: its text, read line by line as the names of files come, in their order.
#[derive(Debug, Default)]
pub struct Index {
    text: String,
    /// Where the next line begins.
    next: usize,
}

impl Index {
    /// Reads it; one that is not there, or is none, is empty.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        match text.strip_prefix(HEAD).map(|rest| rest.starts_with('\n')) {
            Some(true) => Self {
                text,
                next: HEAD.len() + 1,
            },
            _ => Self::default(),
        }
    }

    /// What is known of a definition that is still the one that was read. Names are asked for in
    /// ascending order; an index that is in another order knows less.
    pub fn take(&mut self, name: &str, stamp: Stamp) -> Option<(Uuid, Claims)> {
        loop {
            let rest = self.text.get(self.next..)?;
            let length = rest.find('\n')?;
            let line = rest.get(..length)?;
            let found = parse(line);
            if let Some(found) = &found
                && found.name > name
            {
                return None;
            }
            let start = self.next;
            self.next += length + 1;
            if let Some(found) = found
                && found.name == name
            {
                let claims = start + length - found.claims.len()..start + length;
                return (found.stamp == stamp).then_some((found.uuid, Claims::Indexed(claims)));
            }
        }
    }

    /// The claims of an entry.
    pub fn claims<'a>(&'a self, claims: &'a Claims) -> impl Iterator<Item = &'a str> {
        let (read, indexed) = match claims {
            Claims::Read(list) => (list.as_slice(), ""),
            Claims::Indexed(place) => (&[][..], self.text.get(place.clone()).unwrap_or("")),
        };
        let indexed = indexed.split('\t').filter(|claim| !claim.is_empty());
        read.iter().map(String::as_str).chain(indexed)
    }

    /// Writes it anew with these entries, in ascending order of their names; `old` is where some of
    /// their claims stand. `looked` is the time of day when the look at them began: what had not
    /// settled by then may have been written again since it was read.
    ///
    /// # Errors
    /// What the file system says; nothing depends on it.
    pub fn write(path: &Path, old: &Self, looked: Duration, entries: &[Entry]) -> Result<()> {
        if let Some(folder) = path.parent() {
            atomic::create_dir(folder, 0o700)?;
        }
        let mut text = format!("{HEAD}\n");
        let settled = |entry: &&Entry| entry.stamp.has_settled(looked);
        for entry in entries.iter().filter(settled) {
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
            for claim in old.claims(&entry.claims) {
                text.push('\t');
                text.push_str(claim);
            }
            text.push('\n');
        }
        atomic::write_volatile(path, text.as_bytes())
    }
}

/// A line of the index.
struct Line<'a> {
    stamp: Stamp,
    uuid: Uuid,
    name: &'a str,
    /// Behind tabs.
    claims: &'a str,
}

/// `inode size seconds nanoseconds uuid name`, then claims behind tabs. Names and claims may have
/// spaces, and have no control characters.
fn parse(line: &str) -> Option<Line<'_>> {
    let (words, claims) = line.split_at(line.find('\t').unwrap_or(line.len()));
    let mut words = words.splitn(6, ' ');
    let stamp = Stamp {
        inode: words.next()?.parse().ok()?,
        size: words.next()?.parse().ok()?,
        changed: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
    };
    Some(Line {
        uuid: Uuid::try_parse(words.next()?).ok()?,
        name: words.next()?,
        stamp,
        claims,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(inode: u64, changed: (i64, i64)) -> Stamp {
        Stamp {
            inode,
            size: 5,
            changed,
        }
    }

    #[test]
    fn an_entry_counts_for_the_very_file_that_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/index");
        let claims = ["/a b.img", "52:54:00:00:00:01"];
        let entry = |name: &str, stamp| Entry {
            name: name.to_string(),
            stamp,
            uuid: Uuid::from_u128(9),
            claims: Claims::Read(claims.map(str::to_string).to_vec()),
        };
        // Written in the future: not entered.
        let entries = [
            entry("new", stamp(2, (i64::MAX, 7))),
            entry("web 01", stamp(1, (100, 7))),
            entry("web 02", stamp(4, (100, 7))),
        ];
        // One that was written just before the look is left out, however late the index is written.
        let during = Duration::new(100, 50);
        Index::write(&path, &Index::default(), during, &entries).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEAD}\n"));
        Index::write(&path, &Index::default(), now(), &entries).unwrap();
        let take = |name, stamp| Index::read(&path).take(name, stamp);
        assert_eq!(take("web 01", stamp(1, (100, 8))), None);
        assert_eq!(take("web 01", stamp(3, (100, 7))), None);
        assert_eq!(take("new", stamp(2, (i64::MAX, 7))), None);
        // Names between, before and behind those that it has change nothing for the others.
        let mut index = Index::read(&path);
        assert_eq!(index.take("a", stamp(1, (100, 7))), None);
        let (uuid, found) = index.take("web 01", stamp(1, (100, 7))).unwrap();
        assert_eq!(uuid, Uuid::from_u128(9));
        assert_eq!(index.claims(&found).collect::<Vec<_>>(), claims);
        assert_eq!(index.take("web 01b", stamp(1, (100, 7))), None);
        assert!(index.take("web 02", stamp(4, (100, 7))).is_some());
        assert_eq!(index.take("web 03", stamp(4, (100, 7))), None);
        // What is known from the index is written again from there.
        let kept = Entry {
            claims: found,
            ..entry("web 01", stamp(1, (100, 7)))
        };
        let old = Index::read(&path);
        let second = dir.path().join("run/second");
        Index::write(&second, &old, now(), &[kept]).unwrap();
        let mut index = Index::read(&second);
        let (_, found) = index.take("web 01", stamp(1, (100, 7))).unwrap();
        assert_eq!(index.claims(&found).collect::<Vec<_>>(), claims);
    }

    #[test]
    fn a_file_settles_when_a_second_write_has_another_time() {
        let at = |milliseconds| Duration::from_secs(100) + Duration::from_millis(milliseconds);
        let fine = stamp(1, (100, 5));
        assert!(!fine.has_settled(at(50)) && fine.has_settled(at(500)));
        let coarse = stamp(1, (100, 0));
        assert!(!coarse.has_settled(at(1900)) && coarse.has_settled(at(3100)));
        assert!(!stamp(1, (-5, 1)).has_settled(at(0)));
    }

    #[test]
    fn what_is_no_index_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        for text in [
            "",
            "vm-index 2",
            "vm-index 2\n1 5 1 7 0 a\n",
            "vm-index 2\n1 5 1 7 00000000000000000000000000000009 a",
            "vm-index 22\n1 5 1 7 00000000000000000000000000000009 a\n",
            "vm-index 1\nnonsense\n1 2\n",
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(
                Index::read(&path).take("a", stamp(1, (1, 7))),
                None,
                "{text}"
            );
        }
    }
}
