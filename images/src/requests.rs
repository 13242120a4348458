//! The door of an image: counts requests, keeps them out while the image is inactive or while an
//! operation needs it to itself.
//!
//! ```text
//! Inactive <--activate/inactivate--> Active <--freeze: waits until no request is inside--> Frozen
//! ```
//!
//! The door is fair: who waited while it was shut comes in before it is shut again, and those who shut it
//! have their turns in the order in which they came. So jobs that freeze again and again slow requests
//! down, and stop neither them nor each other.
//!
//! Who waits at a door that was opened again has a place: the door is not shut before that one has come in.
//! So a pending `enter()` is polled until it is done, or dropped, which gives the place up. One that is
//! kept and not polled keeps everybody from freezing, for good. In particular, nobody who holds one
//! awaits a `freeze()` of the same image; and nobody who is inside, or holds it frozen, enters or freezes
//! it again before that is over. What a task waits for besides (a race, a job's pause) must drop its
//! `enter()` when it stops polling it.
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
    /// Requests that wait since the image was frozen.
    waiting: u64,
    /// Requests that waited when it was thawed and have not come in since; all of them do before it is
    /// frozen again.
    owed: u64,
    /// How often it was thawed: tells the two apart.
    thaws: u64,
    /// Who wants to freeze, in their order.
    freezers: VecDeque<u64>,
    next_freezer: u64,
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

/// A request that waits, from the thaw that came last; given up when it is dropped.
struct Waiting<'a> {
    requests: &'a Requests,
    since: u64,
}

impl<'a> Waiting<'a> {
    fn new(requests: &'a Requests, state: &mut State) -> Waiting<'a> {
        state.waiting += 1;
        let since = state.thaws;
        Waiting { requests, since }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.requests.state);
            if state.thaws == self.since {
                state.waiting -= 1;
            } else {
                state.owed -= 1;
            }
            match state.owed {
                0 => state.waiters.take(),
                _ => VecDeque::new(),
            }
        };
        wake_all(wakers);
    }
}

/// A place in the row of those who want to freeze; given up when it is dropped.
struct Queued<'a> {
    requests: &'a Requests,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.requests.state);
            state.freezers.retain(|number| *number != self.number);
            state.waiters.take()
        };
        wake_all(wakers);
    }
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
        let mut waiting = None;
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.frozen {
                state.waiters.add(cx.waker());
                waiting.get_or_insert_with(|| Waiting::new(self, &mut state));
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

    fn queue(&self) -> Queued<'_> {
        let mut state = lock(&self.state);
        let number = state.next_freezer;
        state.next_freezer += 1;
        state.freezers.push_back(number);
        Queued {
            requests: self,
            number,
        }
    }

    /// Waits until the image is nobody else's and no request is inside.
    pub(crate) async fn freeze(&self) -> FreezeGuard<'_> {
        let queued = self.queue();
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            let first = state.freezers.front() == Some(&queued.number);
            if state.frozen || state.owed > 0 || !first {
                state.waiters.add(cx.waker());
                return Poll::Pending;
            }
            state.frozen = true;
            Poll::Ready(())
        })
        .await;
        // From here on a dropped future thaws again.
        let guard = FreezeGuard { requests: self };
        drop(queued);
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
            state.thaws += 1;
            state.owed += std::mem::take(&mut state.waiting);
            state.waiters.take()
        };
        wake_all(wakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Engine, Executor, spawn_local, yield_now};
    use std::cell::Cell;
    use std::rc::Rc;

    /// Freezes again and again until `done`; how often.
    async fn freeze_until(door: &Requests, done: &Cell<bool>) -> u32 {
        let mut times = 0;
        // Bounded, so that an unfair door fails the test and does not hang it.
        while !done.get() && times < 1000 {
            let frozen = door.freeze().await;
            times += 1;
            // Whoever wants to come in finds the door shut.
            yield_now().await;
            drop(frozen);
        }
        times
    }

    #[test]
    fn who_waits_comes_in_before_the_door_is_shut_again() {
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            let door = Rc::new(Requests::default());
            door.set_active(true);
            for flush in [false, true] {
                let done = Rc::new(Cell::new(false));
                let (theirs, all) = (door.clone(), done.clone());
                spawn_local(async move {
                    for _ in 0..5 {
                        let inside = theirs.enter_as(flush).await.unwrap();
                        yield_now().await;
                        drop(inside);
                    }
                    all.set(true);
                })
                .unwrap();
                let times = freeze_until(&door, &done).await;
                assert!(times < 20, "{times} times for five requests");
            }
        });
    }

    #[test]
    fn who_wants_to_freeze_has_a_turn() {
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            let door = Rc::new(Requests::default());
            let done = Rc::new(Cell::new(false));
            let (theirs, all) = (door.clone(), done.clone());
            spawn_local(async move {
                for _ in 0..5 {
                    drop(theirs.freeze().await);
                }
                all.set(true);
            })
            .unwrap();
            let times = freeze_until(&door, &done).await;
            assert!(times < 20, "{times} times against five");
        });
    }

    #[test]
    fn who_gives_up_waiting_keeps_nobody_out() {
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            let door = Requests::default();
            door.set_active(true);
            for thawed in [false, true] {
                let frozen = door.freeze().await;
                let mut enter = Box::pin(door.enter());
                let mut freeze = Box::pin(door.freeze());
                let pending = poll_fn(|cx| {
                    let waits = enter.as_mut().poll(cx).is_pending();
                    Poll::Ready(waits && freeze.as_mut().poll(cx).is_pending())
                });
                assert!(pending.await);
                if thawed {
                    drop(frozen);
                    drop((enter, freeze));
                } else {
                    drop((enter, freeze));
                    drop(frozen);
                }
                drop(door.freeze().await);
                drop(door.enter().await.unwrap());
                let state = lock(&door.state);
                assert_eq!((state.waiting, state.owed, state.freezers.len()), (0, 0, 0));
            }
        });
    }

    #[test]
    fn who_has_a_place_and_does_not_come_in_is_waited_for() {
        let ex = Executor::new(Engine::Auto).unwrap();
        ex.block_on(async {
            let door = Requests::default();
            door.set_active(true);
            for comes_in in [false, true] {
                let frozen = door.freeze().await;
                let mut enter = Box::pin(door.enter());
                assert!(poll_fn(|cx| Poll::Ready(enter.as_mut().poll(cx).is_pending())).await);
                drop(frozen);
                // Not polled: nobody else gets the image for itself.
                let mut freeze = Box::pin(door.freeze());
                for _ in 0..3 {
                    let pending = poll_fn(|cx| Poll::Ready(freeze.as_mut().poll(cx).is_pending()));
                    assert!(pending.await);
                    yield_now().await;
                }
                match comes_in {
                    true => drop(enter.await.unwrap()),
                    false => drop(enter),
                }
                drop(freeze.await);
            }
        });
    }

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
