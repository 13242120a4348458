//! The thread engine, for systems where io_uring is missing or forbidden: a pool of threads of
//! one executor that block in plain system calls.
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Completion;
use super::op::{Op, OpKind, OpTable, Readiness, drain_eventfd};
use super::task::Remote;
use crate::storage::sys;

/// Threads of one executor; started as jobs need them.
const MAX_THREADS: usize = 16;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(usize, OpKind)>,
    done: Vec<Completion>,
    idle: usize,
    closing: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    remote: Arc<Remote>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(remote: &Arc<Remote>) -> Pool {
        let shared = Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            remote: remote.clone(),
        };
        Pool {
            shared: Arc::new(shared),
            threads: Vec::new(),
        }
    }

    /// Queues an operation. Polls are not jobs: [`Pool::park`] waits for them itself.
    pub(super) fn push(&mut self, key: usize, op: &Op) {
        if matches!(op.kind, OpKind::Poll { .. }) {
            return;
        }
        let mut queue = self.shared.lock();
        queue.jobs.push_back((key, op.kind.clone()));
        let spare = queue.idle >= queue.jobs.len();
        drop(queue);
        if !spare && self.threads.len() < MAX_THREADS {
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new()
                .name("image-io".to_owned())
                .spawn(move || worker(&shared));
            match spawned {
                Ok(thread) => self.threads.push(thread),
                Err(error) if self.threads.is_empty() => {
                    // No thread at all: the job is done here, slowly but surely.
                    tracing::warn!(%error, "no thread for image I/O; working inline");
                    self.work_inline();
                }
                Err(_) => {}
            }
        }
        self.shared.work.notify_one();
    }

    fn work_inline(&self) {
        loop {
            let Some((key, kind)) = self.shared.lock().jobs.pop_front() else {
                return;
            };
            let result = perform(&kind);
            self.shared.lock().done.push((key, result));
        }
    }

    /// Ends an operation that has not begun; one that has begun runs to its end.
    pub(super) fn cancel(&mut self, key: usize, ops: &OpTable) {
        let mut queue = self.shared.lock();
        if let Some(at) = queue.jobs.iter().position(|(k, _)| *k == key) {
            queue.jobs.remove(at);
            queue.done.push((key, -libc::ECANCELED));
        } else if ops.polls().any(|(k, ..)| k == key) {
            queue.done.push((key, -libc::ECANCELED));
        }
    }

    /// Takes completions and readable descriptors; waits for one as long as `timeout` says.
    pub(super) fn park(
        &mut self,
        timeout: Option<Duration>,
        ops: &OpTable,
        done: &mut Vec<Completion>,
    ) {
        done.append(&mut self.shared.lock().done);
        let timeout = if done.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        let waiting: Vec<(usize, i32, Readiness)> = ops.polls().collect();
        if waiting.is_empty() && timeout == Some(Duration::ZERO) {
            return;
        }
        let fds: Vec<_> = waiting
            .iter()
            .map(|(_, fd, wanted)| (*fd, wanted.events()))
            .collect();
        let ready = sys::poll_ready(self.shared.remote.event(), &fds, timeout);
        for ((key, ..), ready) in waiting.iter().zip(&ready) {
            // A canceled poll may be in `done` already; the table ignores the second completion.
            if *ready {
                done.push((*key, 1));
            }
        }
        let _ = drain_eventfd(self.shared.remote.event().as_fd());
        done.append(&mut self.shared.lock().done);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A worker does not panic; if one did, there is nothing left to save.
            let _ = thread.join();
        }
    }
}

fn worker(shared: &Shared) {
    let mut queue = shared.lock();
    loop {
        if let Some((key, kind)) = queue.jobs.pop_front() {
            drop(queue);
            let result = perform(&kind);
            // The descriptor is given back before the owner learns of the end.
            drop(kind);
            queue = shared.lock();
            queue.done.push((key, result));
            drop(queue);
            shared.remote.ring();
            queue = shared.lock();
            continue;
        }
        if queue.closing {
            return;
        }
        queue.idle += 1;
        queue = shared
            .work
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner);
        queue.idle -= 1;
    }
}

fn perform(kind: &OpKind) -> i32 {
    let result = match kind {
        OpKind::Read {
            file,
            offset,
            pieces,
        } => sys::preadv(file.as_fd(), pieces.as_slice(), *offset),
        OpKind::Write {
            file,
            offset,
            pieces,
        } => sys::pwritev(file.as_fd(), pieces.as_slice(), *offset),
        OpKind::Sync { file } => sys::fdatasync(file.as_fd()).map(|()| 0),
        OpKind::Fallocate {
            file,
            mode,
            offset,
            len,
        } => sys::fallocate(file.as_fd(), *mode, *offset, *len).map(|()| 0),
        OpKind::Poll { .. } => Ok(0),
    };
    match result {
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}
