//! Waits until something in one of several folders changes, told by the kernel (inotify(7)). What it
//! was, the caller finds out by looking: nothing here reads a file.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// The folders that are watched.
#[derive(Debug)]
pub struct Wake {
    inotify: OwnedFd,
}

impl Wake {
    /// Of no folder yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify })
    }

    /// Watches a folder too; one that is watched already or not there changes nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn also(&self, folder: &Path) -> io::Result<()> {
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, folder, changes) {
            Err(error) if error != Errno::NOENT && error != Errno::NOTDIR => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Waits for a change, `most` at most.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, most: Duration) -> io::Result<()> {
        let most = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        let mut waiting = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut waiting, Some(&most)) {
            Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    #[test]
    fn a_change_wakes_and_a_missing_folder_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let wake = Wake::new().unwrap();
        wake.also(&dir.path().join("missing")).unwrap();
        wake.also(dir.path()).unwrap();
        wake.also(dir.path()).unwrap();
        wake.wait(Duration::ZERO).unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        // It would take an hour if nothing woke it.
        let before = Instant::now();
        wake.wait(Duration::from_secs(3600)).unwrap();
        assert!(before.elapsed() < Duration::from_secs(1800));
    }
}
