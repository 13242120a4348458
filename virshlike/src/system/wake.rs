//! Folders that are watched by the kernel's word (inotify(7)), also before they are there and after
//! they were removed and made again. What changed, the caller finds out by looking: nothing here reads
//! a file, and nothing is polled.
//!
//! ```text
//! there -----removed, moved away-----> the nearest folder above it is watched
//!   ^                                          |
//!   +---- a step towards it is made: watched --+
//! ```

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// What happens in a folder that is watched, and to it.
pub const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::CLOSE_WRITE)
    .union(LOSS);

/// That a folder is gone from its path.
const LOSS: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// What brings a folder that is missing.
const COMING: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(LOSS);

/// Watches `folder`, or where it is missing the nearest folder above it that is there. The number of
/// the watch on `folder` itself; none while it is missing: then to be called again after every
/// change.
///
/// # Errors
/// What the kernel says.
pub fn follow(inotify: &OwnedFd, folder: &Path) -> io::Result<Option<i32>> {
    loop {
        if let Some(watch) = add(inotify, folder, CHANGES)? {
            return Ok(Some(watch));
        }
        let mut missing = folder;
        for above in folder.ancestors().skip(1) {
            if add(inotify, above, COMING)?.is_some() {
                break;
            }
            missing = above;
        }
        // What came before the watch was there wakes nobody.
        if !missing.exists() {
            return Ok(None);
        }
    }
}

/// A watch on a folder; none where there is none.
fn add(inotify: &OwnedFd, folder: &Path, what: WatchFlags) -> io::Result<Option<i32>> {
    // One folder may be watched for itself and on the way to another.
    let what = what | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
    match inotify::add_watch(inotify, folder, what) {
        Ok(watch) => Ok(Some(watch)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether something can be read from a descriptor now.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

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

    /// Watches a folder too, as [`follow`] does; one that is watched already changes nothing. To be
    /// called again after every [`Wake::wait`] for folders that may come and go.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn also(&self, folder: &Path) -> io::Result<()> {
        follow(&self.inotify, folder).map(drop)
    }

    /// Waits for a change, or until something can be read from `other`; `most` at most.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, most: Option<Duration>, other: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let most = most.map(|most| Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        let fds = [Some(self.inotify.as_fd()), other];
        let fds = fds.into_iter().flatten();
        let mut waiting: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut waiting, most.as_ref()) {
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

    /// It would take an hour if nothing woke it.
    #[track_caller]
    fn wakes(wake: &Wake, change: impl FnOnce()) {
        // What came before.
        wake.wait(Some(Duration::ZERO), None).unwrap();
        change();
        let before = Instant::now();
        wake.wait(Some(Duration::from_secs(3600)), None).unwrap();
        assert!(before.elapsed() < Duration::from_secs(1800));
    }

    #[test]
    fn a_change_wakes_and_so_does_another_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let wake = Wake::new().unwrap();
        wake.also(dir.path()).unwrap();
        wake.also(dir.path()).unwrap();
        wake.wait(Some(Duration::ZERO), None).unwrap();
        wakes(&wake, || fs::write(dir.path().join("a"), "").unwrap());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(writer);
        let before = Instant::now();
        let hour = Some(Duration::from_secs(3600));
        wake.wait(hour, Some(reader.as_fd())).unwrap();
        assert!(before.elapsed() < Duration::from_secs(1800));
    }

    #[test]
    fn a_folder_is_followed_through_its_making_and_removal() {
        let dir = tempfile::tempdir().unwrap();
        let wake = Wake::new().unwrap();
        let folder = dir.path().join("a/b/c");
        let watched = || follow(&wake.inotify, &folder).unwrap().is_some();
        assert!(!watched());
        for _ in 0..2 {
            for step in ["a", "a/b", "a/b/c"] {
                wakes(&wake, || fs::create_dir(dir.path().join(step)).unwrap());
                assert_eq!(watched(), step == "a/b/c", "{step}");
            }
            wakes(&wake, || fs::write(folder.join("x"), "").unwrap());
            wakes(&wake, || fs::remove_dir_all(dir.path().join("a")).unwrap());
            assert!(!watched());
        }
        // One that is moved here at once with all that it holds.
        let elsewhere = tempfile::tempdir_in(dir.path()).unwrap();
        fs::create_dir_all(elsewhere.path().join("a/b/c")).unwrap();
        wakes(&wake, || {
            fs::rename(elsewhere.path().join("a"), dir.path().join("a")).unwrap();
        });
        assert!(watched());
        wakes(&wake, || {
            fs::rename(&folder, dir.path().join("a/d")).unwrap()
        });
        assert!(!watched());
    }
}
