//! Operations that the kernel carries out, the table of those in flight, and their futures.
//!
//! ```text
//! InFlight --completion--> Done --taken by the future--> gone
//!    |                                        ^
//!    +--future dropped, moves bytes: cancel and wait for the completion
//!    +--future dropped, a poll: Abandoned --completion--> gone
//! ```
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::Inner;
use crate::storage::{Buffer, sys};

/// Memory of a transfer: one piece without an allocation, or several.
#[derive(Clone)]
pub(crate) enum Pieces {
    One(Buffer),
    Many(Box<[Buffer]>),
}

impl Pieces {
    pub(crate) fn new(bufs: &[Buffer]) -> Pieces {
        match bufs {
            [one] => Pieces::One(*one),
            many => Pieces::Many(many.into()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[Buffer] {
        match self {
            Pieces::One(one) => std::slice::from_ref(one),
            Pieces::Many(many) => many,
        }
    }
}

/// What the kernel shall do.
#[derive(Clone)]
pub(crate) enum OpKind {
    /// Read at an offset in bytes.
    Read {
        file: Arc<File>,
        offset: u64,
        pieces: Pieces,
    },
    /// Write at an offset in bytes.
    Write {
        file: Arc<File>,
        offset: u64,
        pieces: Pieces,
    },
    /// fdatasync.
    Sync { file: Arc<File> },
    /// fallocate with a mode of fallocate(2).
    Fallocate {
        file: Arc<File>,
        mode: i32,
        offset: u64,
        len: u64,
    },
    /// Wait until a descriptor is readable, writable or hung up.
    Poll { fd: RawFd, wanted: Readiness },
}

/// What a descriptor is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Read,
    Write,
    /// For the other side to leave; whoever waits for the others hears of it too.
    HangUp,
}

impl Readiness {
    /// The bits of poll(2).
    pub(crate) fn events(self) -> libc::c_short {
        match self {
            Readiness::Read => libc::POLLIN,
            Readiness::Write => libc::POLLOUT,
            Readiness::HangUp => 0,
        }
    }
}

/// One operation.
pub(crate) struct Op {
    pub(crate) kind: OpKind,
}

impl Op {
    pub(crate) fn new(kind: OpKind) -> Op {
        Op { kind }
    }

    /// True if the kernel touches memory of the caller.
    fn moves_bytes(&self) -> bool {
        matches!(self.kind, OpKind::Read { .. } | OpKind::Write { .. })
    }
}

enum State {
    InFlight {
        op: Op,
        waker: Option<Waker>,
        abandoned: bool,
    },
    Done(i32),
}

/// The operations of one executor, by key.
#[derive(Default)]
pub(super) struct OpTable {
    slots: Vec<Option<State>>,
    free: Vec<usize>,
    in_flight: usize,
}

impl OpTable {
    pub(super) fn insert(&mut self, op: Op) -> usize {
        self.in_flight += 1;
        let state = Some(State::InFlight {
            op,
            waker: None,
            abandoned: false,
        });
        match self.free.pop() {
            Some(key) => {
                self.slots[key] = state;
                key
            }
            None => {
                self.slots.push(state);
                self.slots.len() - 1
            }
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn get(&self, key: usize) -> Option<&Op> {
        match self.slots.get(key)? {
            Some(State::InFlight { op, .. }) => Some(op),
            _ => None,
        }
    }

    /// Descriptors that are waited for, for engines that poll by themselves.
    pub(super) fn polls(&self) -> impl Iterator<Item = (usize, RawFd, Readiness)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(key, state)| match state {
                Some(State::InFlight {
                    op:
                        Op {
                            kind: OpKind::Poll { fd, wanted },
                        },
                    ..
                }) => Some((key, *fd, *wanted)),
                _ => None,
            })
    }

    /// Records a completion; who waits for it.
    pub(super) fn complete(&mut self, key: usize, result: i32) -> Option<Waker> {
        let slot = self.slots.get_mut(key)?;
        let Some(State::InFlight {
            waker, abandoned, ..
        }) = slot
        else {
            return None;
        };
        self.in_flight -= 1;
        let waker = waker.take();
        if *abandoned {
            *slot = None;
            self.free.push(key);
            return None;
        }
        *slot = Some(State::Done(result));
        waker
    }

    /// The result if it is there; else remembers whom to wake.
    fn poll(&mut self, key: usize, cx: &Context<'_>) -> Poll<i32> {
        match self.slots.get_mut(key) {
            Some(Some(State::InFlight { waker, .. })) => {
                match waker {
                    Some(w) if w.will_wake(cx.waker()) => {}
                    _ => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Some(slot @ Some(State::Done(_))) => {
                let Some(State::Done(result)) = slot.take() else {
                    return Poll::Ready(-libc::EIO);
                };
                self.free.push(key);
                Poll::Ready(result)
            }
            _ => Poll::Ready(-libc::EIO),
        }
    }

    fn is_in_flight(&self, key: usize) -> bool {
        matches!(self.slots.get(key), Some(Some(State::InFlight { .. })))
    }

    fn abandon(&mut self, key: usize) {
        match self.slots.get_mut(key) {
            Some(Some(State::InFlight { abandoned, .. })) => *abandoned = true,
            Some(slot @ Some(State::Done(_))) => {
                *slot = None;
                self.free.push(key);
            }
            _ => {}
        }
    }
}

/// Waits for one operation.
pub(super) struct OpFuture {
    inner: Rc<Inner>,
    state: Stage,
}

enum Stage {
    New(Option<Op>),
    Started { key: usize, moves_bytes: bool },
    Finished,
}

impl OpFuture {
    pub(super) fn new(inner: Rc<Inner>, op: Op) -> OpFuture {
        OpFuture {
            inner,
            state: Stage::New(Some(op)),
        }
    }
}

impl Future for OpFuture {
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New(op) = &mut self.state {
            let Some(op) = op.take() else {
                return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EIO)));
            };
            let moves_bytes = op.moves_bytes();
            let key = self.inner.start(op);
            self.state = Stage::Started { key, moves_bytes };
        }
        let Stage::Started { key, .. } = self.state else {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EIO)));
        };
        let polled = self.inner.ops.borrow_mut().poll(key, cx);
        let Poll::Ready(result) = polled else {
            return Poll::Pending;
        };
        self.state = Stage::Finished;
        Poll::Ready(match u32::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(result.wrapping_neg())),
        })
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        let Stage::Started { key, moves_bytes } = self.state else {
            return;
        };
        let in_flight = self.inner.ops.borrow().is_in_flight(key);
        if in_flight {
            self.inner.cancel(key);
        }
        if moves_bytes {
            // The kernel may still write to the caller's memory: it is the caller's again only
            // when the completion has come.
            loop {
                let waiting = self.inner.ops.borrow().is_in_flight(key);
                if !waiting {
                    break;
                }
                self.inner.reap(true);
            }
        }
        self.inner.ops.borrow_mut().abandon(key);
    }
}

/// A non-blocking eventfd, closed on exec.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    sys::eventfd()
}

/// Adds one to an eventfd; a full counter is as good as a signal.
pub(super) fn signal_eventfd(fd: BorrowedFd<'_>) {
    sys::eventfd_write(fd);
}

/// Reads and clears an eventfd; None when the counter is zero.
pub(super) fn drain_eventfd(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    sys::eventfd_read(fd)
}
