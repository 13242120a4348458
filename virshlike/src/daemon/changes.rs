//! Which domains' runtime directories changed, told by the kernel (inotify(7)): nothing is polled.

use super::blocked;
use crate::error::{Error, Result};
use crate::spawn;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

/// What is written anew at every start of a guest.
const RECORD: &std::ffi::CStr = c"run.json";

/// The watch on a store's runtime directories.
pub(super) struct Changes {
    run: PathBuf,
    /// The watch on `run` itself.
    whole: i32,
    inotify: AsyncFd<OwnedFd>,
    domains: HashMap<i32, Uuid>,
}

impl Changes {
    /// Watches the directories below `run`, which exists.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn below(run: &Path) -> Result<Self> {
        let make = || -> io::Result<(AsyncFd<OwnedFd>, i32)> {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let come = WatchFlags::CREATE | WatchFlags::MOVED_TO;
            let whole = inotify::add_watch(&inotify, run, come | WatchFlags::MOVE_SELF)?;
            Ok((spawn::readable(inotify)?, whole))
        };
        let (inotify, whole) = make().map_err(|error| Error::io("watch", run, &error))?;
        Ok(Self {
            run: run.into(),
            whole,
            inotify,
            domains: HashMap::new(),
        })
    }

    /// Every domain with a runtime directory; they are watched from here on.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub(super) fn all(&mut self) -> Result<Vec<Uuid>> {
        let entries =
            fs::read_dir(&self.run).map_err(|error| Error::io("read", &self.run, &error))?;
        let found: Vec<Uuid> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        for uuid in &found {
            self.add(*uuid);
        }
        Ok(found)
    }

    fn add(&mut self, uuid: Uuid) {
        let path = self.run.join(uuid.to_string());
        match inotify::add_watch(self.inotify.get_ref(), &path, WatchFlags::MOVED_TO) {
            Ok(watch) => {
                self.domains.insert(watch, uuid);
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => tracing::warn!("cannot watch {}: {error}", path.display()),
        }
    }

    /// Waits for changes; the domains that they concern. `None`: some were lost, look at all.
    ///
    /// # Errors
    /// What the kernel says; that the directory above them is gone.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Uuid>>> {
        let run = self.run.clone();
        let failed = move |error: io::Error| Error::io("watch", &run, &error);
        let mut found = Vec::new();
        while found.is_empty() {
            let mut ready = self.inotify.readable().await.map_err(&failed)?;
            ready.clear_ready();
            drop(ready);
            match self.read() {
                Ok(Some(some)) => found = some,
                Ok(None) => return Ok(None),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Some(found))
    }

    fn read(&mut self) -> io::Result<Option<Vec<Uuid>>> {
        let mut new = Vec::new();
        let mut found = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(error) if blocked(error) => break,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return Ok(None);
            }
            let gone = ReadFlags::IGNORED | ReadFlags::MOVE_SELF;
            if event.wd() == self.whole && flags.intersects(gone) {
                // With it went this daemon's own lock and socket: another one has to begin anew.
                return Err(io::Error::other("it was removed"));
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.domains.remove(&event.wd());
            } else if let Some(uuid) = self.domains.get(&event.wd()) {
                if event.file_name() == Some(RECORD) {
                    found.push(*uuid);
                }
            } else if let Some(name) = event.file_name() {
                // A new directory may have its record already.
                new.extend(
                    name.to_str()
                        .ok()
                        .and_then(|name| name.parse::<Uuid>().ok()),
                );
            }
        }
        for uuid in new {
            self.add(uuid);
            found.push(uuid);
        }
        found.sort_unstable();
        found.dedup();
        Ok(Some(found))
    }
}
