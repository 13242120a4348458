//! The door of an image: counts requests, keeps them out while the image is inactive or while an
//! operation needs it to itself.
//!
//! ```text
//! Inactive <--activate/inactivate--> Active <--freeze: waits until no request is inside--> Frozen
//! ```
//!
//! Requests are counted in epochs. Space that a request has unmapped may be used again only when
//! every request that began before is over, since it may still be reading or writing there.
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Waiters, lock, wake_all};

#[derive(Default)]
struct State {
    active: bool,
    frozen: bool,
    /// Requests inside, by the epoch in which they began; the last one is now.
    epochs: VecDeque<u64>,
    first_epoch: u64,
    /// Flushes inside: they touch no cluster, so they belong to no epoch.
    flushes: u64,
    waiters: Waiters,
}

impl State {
    /// True if no request that moves data is inside.
    fn idle(&self) -> bool {
        self.epochs.iter().all(|&n| n == 0)
    }

    fn empty(&self) -> bool {
        self.idle() && self.flushes == 0
    }

    fn now(&self) -> u64 {
        self.first_epoch + self.epochs.len().saturating_sub(1) as u64
    }
}

/// The door.
#[derive(Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
}

/// A request that is inside.
pub(crate) struct RequestGuard<'a> {
    requests: &'a Requests,
    /// None for a flush.
    epoch: Option<u64>,
}

/// Keeps requests out.
pub(crate) struct FreezeGuard<'a> {
    requests: &'a Requests,
}

impl Requests {
    /// Lets a request that moves data in; waits while the image is frozen.
    pub(crate) async fn enter(&self) -> Result<RequestGuard<'_>> {
        self.enter_as(false).await
    }

    /// Lets a flush in; waits while the image is frozen.
    pub(crate) async fn enter_flush(&self) -> Result<RequestGuard<'_>> {
        self.enter_as(true).await
    }

    async fn enter_as(&self, flush: bool) -> Result<RequestGuard<'_>> {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.frozen {
                state.waiters.add(cx.waker());
                return Poll::Pending;
            }
            if !state.active {
                return Poll::Ready(Err(Error::new(
                    ErrorKind::Inactive,
                    "the image is not active: it can be used again after it has been activated",
                )));
            }
            if flush {
                state.flushes += 1;
                return Poll::Ready(Ok(RequestGuard {
                    requests: self,
                    epoch: None,
                }));
            }
            if state.epochs.is_empty() {
                state.epochs.push_back(0);
            }
            if let Some(count) = state.epochs.back_mut() {
                *count += 1;
            }
            Poll::Ready(Ok(RequestGuard {
                requests: self,
                epoch: Some(state.now()),
            }))
        })
        .await
    }

    /// Waits until the image is nobody else's and no request is inside.
    pub(crate) async fn freeze(&self) -> FreezeGuard<'_> {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.frozen {
                state.waiters.add(cx.waker());
                return Poll::Pending;
            }
            state.frozen = true;
            Poll::Ready(())
        })
        .await;
        // From here on a dropped future thaws again.
        let guard = FreezeGuard { requests: self };
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.empty() {
                return Poll::Ready(());
            }
            state.waiters.add(cx.waker());
            Poll::Pending
        })
        .await;
        guard
    }

    pub(crate) fn is_active(&self) -> bool {
        lock(&self.state).active
    }

    pub(crate) fn set_active(&self, active: bool) {
        lock(&self.state).active = active;
    }

    /// Ends the epoch: what began before is told from what begins now. Its number.
    pub(crate) fn end_epoch(&self) -> u64 {
        let mut state = lock(&self.state);
        let ended = state.now();
        if state.epochs.is_empty() {
            state.first_epoch += 1;
        } else if state.idle() {
            state.first_epoch += state.epochs.len() as u64;
            state.epochs.clear();
        } else {
            state.epochs.push_back(0);
        }
        ended
    }

    /// True if every request of `epoch` and earlier is over.
    pub(crate) fn is_over(&self, epoch: u64) -> bool {
        let state = lock(&self.state);
        state.idle() || state.first_epoch > epoch
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.requests.state);
            match self.epoch {
                None => state.flushes -= 1,
                Some(epoch) => {
                    let at = epoch.saturating_sub(state.first_epoch) as usize;
                    if let Some(count) = state.epochs.get_mut(at) {
                        *count -= 1;
                    }
                }
            }
            while state.epochs.len() > 1 && state.epochs.front() == Some(&0) {
                state.epochs.pop_front();
                state.first_epoch += 1;
            }
            if state.frozen && state.empty() {
                state.waiters.take()
            } else {
                VecDeque::new()
            }
        };
        wake_all(wakers);
    }
}

impl Drop for FreezeGuard<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.requests.state);
            state.frozen = false;
            state.waiters.take()
        };
        wake_all(wakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Engine, Executor};

    #[test]
    fn epochs_end_when_their_requests_do() {
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            let r = Requests::default();
            assert!(r.enter().await.is_err());
            r.set_active(true);
            let a = r.enter().await.unwrap();
            let e1 = r.end_epoch();
            let b = r.enter().await.unwrap();
            let e2 = r.end_epoch();
            assert!(!r.is_over(e1));
            drop(b);
            assert!(!r.is_over(e1));
            assert!(!r.is_over(e2));
            let c = r.enter().await.unwrap();
            drop(a);
            assert!(r.is_over(e1) && r.is_over(e2));
            let e3 = r.end_epoch();
            assert!(!r.is_over(e3));
            drop(c);
            assert!(r.is_over(e3));
            drop(r.freeze().await);
        });
    }
}
