//! Descriptors that a `vmm` inherits: opened here, and nobody else's child gets them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use rustix::io::{FdFlags, fcntl_setfd};
use vmm_api::spec::{Fd, NamedFd};

/// Descriptors lose close-on-exec just before a spawn; one spawn at a time keeps them from strangers.
static SPAWN: Mutex<()> = Mutex::new(());

/// Descriptors that the process is to inherit under the numbers that they have here.
#[derive(Default)]
pub(super) struct Opened(Vec<OwnedFd>);

impl Opened {
    pub(super) fn keep(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        let fd = fd.into();
        let number = fd.as_raw_fd();
        self.0.push(fd);
        Fd(number)
    }

    pub(super) fn open(&mut self, path: impl AsRef<Path>, write: bool) -> io::Result<Fd> {
        let path = path.as_ref();
        let file = File::options().read(true).write(write).open(path);
        let file =
            file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(self.keep(file))
    }

    /// As [`Opened::open`], for reading, with its path for messages.
    pub(super) fn named(&mut self, path: &Path) -> io::Result<NamedFd> {
        let name = path.display().to_string();
        self.open(path, false).map(|fd| NamedFd { fd, name })
    }

    pub(super) fn spawn(self, command: &mut Command) -> io::Result<Child> {
        let _one = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
        for fd in &self.0 {
            fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
        }
        command.spawn()
    }
}
