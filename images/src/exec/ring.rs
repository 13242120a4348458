//! The io_uring engine: turns operations into submissions and collects completions.
//!
//! Submissions are gathered and handed over once per turn of the executor. What is given to the
//! kernel (descriptors, iovecs, memory) lives in the executor's operation table, which frees an
//! entry only after its completion.
#![allow(unsafe_code)]
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::Completion;
use super::op::{Op, OpKind, drain_eventfd};
use super::task::Remote;

/// Submission slots; more operations than this wait in `backlog` for their turn.
const ENTRIES: u32 = 256;
/// The poll on the executor's eventfd.
const WAKE: u64 = u64::MAX;
/// Completions that nobody waits for.
const IGNORED: u64 = u64::MAX - 1;

/// One ring.
pub(super) struct Ring {
    ring: IoUring,
    remote: Arc<Remote>,
    backlog: VecDeque<squeue::Entry>,
    wake_armed: bool,
}

impl Ring {
    /// Sets up a ring and proves that it has what the engine needs.
    pub(super) fn new(remote: &Arc<Remote>) -> io::Result<Ring> {
        let ring = build()?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::PollAdd::CODE,
            opcode::AsyncCancel::CODE,
        ];
        if needed.iter().any(|&code| !probe.is_supported(code)) {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Ring {
            ring,
            remote: remote.clone(),
            backlog: VecDeque::new(),
            wake_armed: false,
        })
    }

    /// Queues an operation; it reaches the kernel in the next [`Ring::park`].
    pub(super) fn push(&mut self, key: usize, op: &Op) {
        let entry = entry(op).user_data(key as u64);
        self.backlog.push_back(entry);
    }

    /// Asks the kernel to end an operation early.
    pub(super) fn cancel(&mut self, key: usize) {
        let entry = opcode::AsyncCancel::new(key as u64)
            .build()
            .user_data(IGNORED);
        self.backlog.push_back(entry);
    }

    /// Submits and takes completions. Waits for one: without end (None), up to a time, or not at
    /// all (zero).
    pub(super) fn park(&mut self, timeout: Option<Duration>, done: &mut Vec<Completion>) {
        if !self.wake_armed && timeout != Some(Duration::ZERO) {
            let fd = types::Fd(self.remote.event().as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32)
                .build()
                .user_data(WAKE);
            self.backlog.push_back(poll);
            self.wake_armed = true;
        }
        self.fill();
        // Who rang since the queue of wakes was looked at has rung in vain if we slept now: the
        // descriptor is empty again.
        let rung = self.collect(done);
        let nothing_to_hand_over = {
            let queue = self.ring.submission();
            queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
        };
        // Completions that came by themselves, or more work to hand over, need no sleep.
        let wait = done.is_empty() && self.backlog.is_empty() && !rung;
        let result = match timeout {
            Some(d) if wait && !d.is_zero() => {
                let time = types::Timespec::from(d);
                let args = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(1, &args)
            }
            None if wait => self.ring.submit_and_wait(1),
            _ if nothing_to_hand_over => return,
            _ => self.ring.submit(),
        };
        if let Err(error) = result {
            match error.raw_os_error() {
                // A signal, the end of the wait, or completions to take first.
                Some(libc::EINTR | libc::ETIME | libc::EBUSY) => {}
                _ => {
                    // Out of memory for a moment: nothing is lost, the queue stays.
                    tracing::warn!(%error, "io_uring_enter failed; trying again");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        self.collect(done);
    }

    /// Whether completions are there, or will be after a word with the kernel.
    pub(super) fn has_news(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    fn fill(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: the entry points to iovecs, memory and descriptors of the operation table,
            // which keeps them until the completion has been seen; memory of callers stays valid
            // because dropping their future waits for the completion.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                self.backlog.push_front(entry);
                if self.ring.submit().is_err() {
                    break;
                }
                // SAFETY: as above.
                let full = unsafe { self.ring.submission().push(&self.backlog[0]) }.is_err();
                if full {
                    break;
                }
                self.backlog.pop_front();
            }
        }
    }

    /// Takes completions; whether another thread has rung.
    fn collect(&mut self, done: &mut Vec<Completion>) -> bool {
        let mut rung = false;
        for cqe in self.ring.completion() {
            match cqe.user_data() {
                IGNORED => {}
                WAKE => {
                    self.wake_armed = false;
                    rung = true;
                    // Emptied so that the next poll sleeps; who rang is in the queue of wakes.
                    let _ = drain_eventfd(self.remote.event());
                }
                key => {
                    if let Ok(key) = usize::try_from(key) {
                        done.push((key, cqe.result()));
                    }
                }
            }
        }
        rung
    }
}

fn build() -> io::Result<IoUring> {
    // One thread submits and completions need not interrupt it: cheaper where the kernel knows it.
    let tuned = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(ENTRIES * 4)
        .dontfork()
        .build(ENTRIES);
    tuned.or_else(|_| {
        IoUring::builder()
            .setup_cqsize(ENTRIES * 4)
            .dontfork()
            .build(ENTRIES)
    })
}

/// The submission of an operation. Lengths are below 2 GiB: storage splits larger transfers.
fn entry(op: &Op) -> squeue::Entry {
    match &op.kind {
        OpKind::Read {
            file,
            offset,
            pieces,
        } => {
            let fd = types::Fd(file.as_raw_fd());
            match pieces.as_slice() {
                [one] => opcode::Read::new(fd, one.as_mut_ptr(), one.len() as u32)
                    .offset(*offset)
                    .build(),
                many => opcode::Readv::new(fd, many.as_ptr().cast(), many.len() as u32)
                    .offset(*offset)
                    .build(),
            }
        }
        OpKind::Write {
            file,
            offset,
            pieces,
        } => {
            let fd = types::Fd(file.as_raw_fd());
            match pieces.as_slice() {
                [one] => opcode::Write::new(fd, one.as_mut_ptr(), one.len() as u32)
                    .offset(*offset)
                    .build(),
                many => opcode::Writev::new(fd, many.as_ptr().cast(), many.len() as u32)
                    .offset(*offset)
                    .build(),
            }
        }
        OpKind::Sync { file } => opcode::Fsync::new(types::Fd(file.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        OpKind::Fallocate {
            file,
            mode,
            offset,
            len,
        } => opcode::Fallocate::new(types::Fd(file.as_raw_fd()), *len)
            .offset(*offset)
            .mode(*mode)
            .build(),
        OpKind::Poll { fd, wanted } => {
            opcode::PollAdd::new(types::Fd(*fd), wanted.events() as u32).build()
        }
    }
}
