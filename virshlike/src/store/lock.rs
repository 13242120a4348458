//! Locks between `vm` commands: one per domain for its life cycle, a short one for the store.
//!
//! Order: a domain's lock first, then the store's. A lock is an flock on a file in the runtime
//! directory that names its holder for whoever has to wait; it ends with its holder's process, so
//! nothing is ever stale. Every wait has a deadline and says what it waited for.

use super::atomic;
use crate::error::{Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a command waits for another one. Starting a guest is the longest that one may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock `path`, waiting up to `patience`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with the holder's own words; else what the file system says.
    pub fn take(path: &Path, what: &str, patience: Duration) -> Result<Self> {
        if let Some(folder) = path.parent() {
            atomic::create_dir(folder, 0o700)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| Error::io("open the lock", path, &error))?;
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::io("lock", path, &error.into())),
            }
            if Instant::now() >= deadline {
                return Err(timeout(&mut file, what, patience));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        // Only for the words of others who wait: a failure to write them changes nothing.
        let words = format!("{} (process {})\n", command_words(), std::process::id());
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(words.as_bytes()));
        Ok(Self { _file: file })
    }
}

fn timeout(file: &mut File, what: &str, patience: Duration) -> Error {
    let mut holder = String::new();
    let _ = file.take(512).read_to_string(&mut holder);
    let holder = holder
        .lines()
        .next()
        .unwrap_or("another command")
        .to_string();
    Error::new(
        Kind::Timeout,
        format!("waited {} s for {what}", patience.as_secs()),
    )
    .cause(format!("it is held by: {holder}"))
    .hint("wait for that command, or end it")
}

/// The command line, shortened, without anything that could be a secret beyond its verb.
fn command_words() -> String {
    let mut words = vec!["vm".to_string()];
    words.extend(
        std::env::args_os()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .filter(|word| !word.starts_with('-'))
            .take(2)
            .map(|word| word.chars().take(64).collect()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_waits_and_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/store");
        let first = Lock::take(&path, "the store", Duration::from_secs(1)).unwrap();
        let error = Lock::take(&path, "the store", Duration::ZERO).unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
        assert!(error.causes.iter().any(|cause| cause.contains("process")));
        drop(first);
        Lock::take(&path, "the store", Duration::ZERO).unwrap();
    }
}
