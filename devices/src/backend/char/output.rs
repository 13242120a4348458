//! The plain output of a console: written on the spot by the vCPU, as far as that needs no waiting.
//!
//! The descriptor's own flags are left alone, because standard output is shared with whoever
//! started the process: readiness is asked for before each write instead. What does not fit stays
//! in the history, and the hub's thread writes it when there is room.

use super::history::History;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A pipe that is ready takes this much without blocking (PIPE_BUF, pipe(7)).
const CHUNK: usize = 4096;

#[derive(Debug)]
pub(super) struct Output {
    fd: OwnedFd,
    /// A regular file: always ready.
    file: bool,
    /// The reader has gone for good.
    dead: AtomicBool,
}

impl Output {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let file = FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::RegularFile;
        Ok(Self {
            fd,
            file,
            dead: AtomicBool::new(false),
        })
    }

    fn ready(&self) -> bool {
        if self.file {
            return true;
        }
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut polled = [PollFd::new(&self.fd, PollFlags::OUT)];
        // A hang-up counts as ready: the write then tells.
        matches!(poll(&mut polled, Some(&now)), Ok(ready) if ready > 0)
    }

    /// Writes what is new as far as possible; false when something is left.
    pub(super) fn follow(&self, history: &mut History) -> bool {
        let mut at = history.output_at;
        let done = loop {
            let bytes = history.peek(&mut at);
            if bytes.is_empty() || self.dead.load(Ordering::Relaxed) {
                at = history.head();
                break true;
            }
            if !self.ready() {
                break false;
            }
            let bytes = bytes.get(..CHUNK).unwrap_or(bytes);
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => at += count as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break false,
                Err(error) => {
                    tracing::warn!(%error, "the console's plain output is closed; it goes on without");
                    self.dead.store(true, Ordering::Relaxed);
                }
            }
        };
        history.output_at = at;
        done
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
