//! Who changed what, when, and by which command: one line of JSON per change, one file per domain.
//! Lines are appended in one write and never changed.

use super::atomic;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since the Unix epoch.
    pub time: u64,
    /// User id of the process.
    pub uid: u32,
    /// User id of the login that it came from, when the host keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Process id of the command.
    pub pid: u32,
    /// The verb, such as `define`.
    pub verb: String,
    /// The domain's name at that time.
    pub domain: String,
    /// More, such as the new name of a rename.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Entry {
    /// An entry of this process, now.
    pub fn now(verb: &str, domain: &str, detail: impl Into<String>) -> Self {
        Self {
            time: seconds_now(),
            uid: rustix::process::getuid().as_raw(),
            login_uid: login_uid(),
            pid: std::process::id(),
            verb: verb.to_string(),
            domain: domain.to_string(),
            detail: detail.into(),
        }
    }
}

/// Seconds since the Unix epoch.
pub fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

fn login_uid() -> Option<u32> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// Appends an entry.
///
/// # Errors
/// What the file system says.
pub fn append(path: &Path, entry: &Entry) -> Result<()> {
    if let Some(folder) = path.parent() {
        atomic::create_dir(folder, 0o700)?;
    }
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(&line))
        .map_err(|error| Error::io("write the journal", path, &error))
}

/// All entries, oldest first; lines that a full disk cut short are left out.
///
/// # Errors
/// What the file system says; a journal that is not there is empty.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read the journal", path, &error)),
    }
}

/// The entries in the last `bytes` bytes, oldest first: what a journal of years says last.
///
/// # Errors
/// As [`read`].
pub fn read_last(path: &Path, bytes: u64) -> Result<Vec<Entry>> {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut tail = Vec::new();
        file.take(bytes).read_to_end(&mut tail)?;
        Ok(tail)
    };
    match tail() {
        // A line that is cut at the beginning is no entry.
        Ok(tail) => Ok(entries(&tail)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read the journal", path, &error)),
    }
}

/// The entries in whole lines of a journal.
pub(crate) fn entries(bytes: &[u8]) -> Vec<Entry> {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order_and_torn_lines_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal/x.jsonl");
        assert_eq!(read(&path).unwrap(), vec![]);
        let first = Entry::now("define", "a", "");
        let second = Entry::now("domrename", "a", "to b");
        append(&path, &first).unwrap();
        append(&path, &second).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"time\":1,").unwrap();
        assert_eq!(read(&path).unwrap(), vec![first, second.clone()]);
        assert_eq!(read_last(&path, 100 << 10).unwrap().len(), 2);
        let length = serde_json::to_vec(&second).unwrap().len() as u64;
        // The torn line, and a few bytes of the first.
        assert_eq!(read_last(&path, length + 20).unwrap(), vec![second]);
        assert_eq!(read_last(&dir.path().join("no"), 9).unwrap(), vec![]);
    }
}
