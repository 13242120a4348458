//! Which domains were defined, changed and undefined, told by the kernel (inotify(7)): only the files
//! that it names are looked at, however many there are. A folder that is removed takes all definitions
//! with it; one that is made again is watched again.

use super::blocked;
use crate::error::{Error, Result};
use crate::manager::Manager;
use crate::manager::watch::{self, Mark};
use crate::spawn;
use crate::store::atomic;
use crate::system::wake;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// The watch on a store's definitions.
pub(super) struct Definitions {
    manager: Arc<Manager>,
    folder: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    /// The watch on the folder; none while it is missing.
    watch: Option<i32>,
    known: BTreeMap<String, Mark>,
}

impl Definitions {
    /// Watches from here on; what is defined now is no news.
    ///
    /// # Errors
    /// A folder that cannot be made or read, and what the kernel says.
    pub(super) fn of(manager: Arc<Manager>) -> Result<Self> {
        let folder = manager.store().layout().domains.clone();
        atomic::create_dir(&folder, 0o700)?;
        let make = || -> io::Result<_> {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let watch = wake::follow(&inotify, &folder)?;
            Ok((spawn::readable(inotify)?, watch))
        };
        let (inotify, watch) = make().map_err(|error| Error::io("watch", &folder, &error))?;
        let known = watch::definitions(manager.store())?;
        Ok(Self {
            manager,
            folder,
            inotify,
            watch,
            known,
        })
    }

    /// Waits for changes: the names, and libvirt's words of what became of each.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) async fn next(&mut self) -> Result<Vec<(String, &'static str)>> {
        let folder = self.folder.clone();
        let failed = move |error: io::Error| Error::io("watch", &folder, &error);
        loop {
            let mut ready = self.inotify.readable().await.map_err(&failed)?;
            ready.clear_ready();
            drop(ready);
            let found = match self.read().map_err(&failed)? {
                Some(names) => self.compare(names),
                None => {
                    let now = watch::definitions(self.manager.store())?;
                    let found = watch::differences(&self.known, &now);
                    self.known = now;
                    found
                }
            };
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }

    /// What became of these definitions.
    fn compare(&mut self, names: BTreeSet<String>) -> Vec<(String, &'static str)> {
        let layout = self.manager.store().layout();
        let mut found = Vec::new();
        for name in names {
            let now = Mark::of(&layout.definition(&name));
            let words = watch::became(self.known.get(&name), now.as_ref());
            match now {
                Some(now) => self.known.insert(name.clone(), now),
                None => self.known.remove(&name),
            };
            found.extend(words.map(|words| (name, words)));
        }
        found
    }

    /// The names that the kernel tells; `None` when any may have changed.
    fn read(&mut self) -> io::Result<Option<BTreeSet<String>>> {
        let (names, whole) = self.drain()?;
        let inotify = self.inotify.get_ref();
        let whole = match self.watch {
            Some(_) if whole => return Ok(Some(names)),
            Some(watch) => {
                // It may be a folder that was moved away: what happens there is none of ours. The
                // kernel has forgotten one that was removed.
                let _ = inotify::remove_watch(inotify, watch);
                false
            }
            None => true,
        };
        self.watch = wake::follow(inotify, &self.folder)?;
        let nothing = whole && self.watch.is_none();
        Ok(nothing.then(BTreeSet::new))
    }

    /// The names, and whether these are all and the folder is the same.
    fn drain(&self) -> io::Result<(BTreeSet<String>, bool)> {
        let mut names = BTreeSet::new();
        let mut whole = true;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(error) if blocked(error) => return Ok((names, whole)),
                Err(error) => return Err(error.into()),
            };
            let lost = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
            let ours = Some(event.wd()) == self.watch;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                || ours && event.events().intersects(lost)
            {
                whole = false;
            }
            if !ours {
                continue;
            }
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let name = name.and_then(|name| name.strip_suffix(".xml"));
            names.extend(
                name.filter(|name| !name.starts_with('.'))
                    .map(str::to_string),
            );
        }
    }
}
