//! Waiting without blocking a thread: an async mutex and range locks, usable from several
//! executors at once. Their own short locks are never held across an await.
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Locks, and goes on with the data of a thread that panicked: every holder leaves it whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakers of those who wait for a change.
#[derive(Default)]
pub(crate) struct Waiters(VecDeque<Waker>);

impl Waiters {
    pub(crate) fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|w| w.will_wake(waker)) {
            self.0.push_back(waker.clone());
        }
    }

    pub(crate) fn take(&mut self) -> VecDeque<Waker> {
        std::mem::take(&mut self.0)
    }
}

/// Wakes all, outside of any lock.
pub(crate) fn wake_all(wakers: VecDeque<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

#[derive(Default)]
struct TurnState {
    taken: bool,
    waiters: Waiters,
}

/// A mutex without data whose holder may await.
#[derive(Default)]
pub(crate) struct Turn {
    state: Mutex<TurnState>,
}

/// Holds a [`Turn`].
pub(crate) struct TurnGuard<'a> {
    turn: &'a Turn,
}

impl Turn {
    /// Waits until nobody else holds the turn.
    pub(crate) async fn take(&self) -> TurnGuard<'_> {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.taken {
                state.waiters.add(cx.waker());
                return Poll::Pending;
            }
            state.taken = true;
            Poll::Ready(())
        })
        .await;
        TurnGuard { turn: self }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.turn.state);
            state.taken = false;
            state.waiters.take()
        };
        wake_all(wakers);
    }
}

struct Held {
    id: u64,
    start: u64,
    end: u64,
    exclusive: bool,
}

#[derive(Default)]
struct RangeState {
    held: Vec<Held>,
    next_id: u64,
    waiters: Waiters,
}

/// Locks on ranges of numbers: shared holders overlap each other, exclusive ones nobody.
#[derive(Default)]
pub(crate) struct RangeLocks {
    state: Mutex<RangeState>,
}

/// Holds a range of a [`RangeLocks`].
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    id: u64,
}

impl RangeLocks {
    /// Takes `start..end` if nobody holds it in the way.
    #[cfg(test)]
    pub(crate) fn try_take(&self, start: u64, end: u64, exclusive: bool) -> Option<RangeGuard<'_>> {
        self.try_or_wait(start, end, exclusive, None)
    }

    fn try_or_wait(
        &self,
        start: u64,
        end: u64,
        exclusive: bool,
        waker: Option<&Waker>,
    ) -> Option<RangeGuard<'_>> {
        let mut state = lock(&self.state);
        let blocked = state
            .held
            .iter()
            .any(|h| h.start < end && start < h.end && (exclusive || h.exclusive));
        if blocked {
            if let Some(waker) = waker {
                state.waiters.add(waker);
            }
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        state.held.push(Held {
            id,
            start,
            end,
            exclusive,
        });
        Some(RangeGuard { locks: self, id })
    }

    /// Waits until `start..end` is free.
    pub(crate) async fn take(&self, start: u64, end: u64, exclusive: bool) -> RangeGuard<'_> {
        poll_fn(
            |cx| match self.try_or_wait(start, end, exclusive, Some(cx.waker())) {
                Some(guard) => Poll::Ready(guard),
                None => Poll::Pending,
            },
        )
        .await
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.locks.state);
            if let Some(at) = state.held.iter().position(|h| h.id == self.id) {
                state.held.swap_remove(at);
            }
            state.waiters.take()
        };
        wake_all(wakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_exclude_and_share() {
        let locks = RangeLocks::default();
        let a = locks.try_take(0, 10, false).unwrap();
        assert!(locks.try_take(5, 6, true).is_none());
        let b = locks.try_take(5, 6, false).unwrap();
        assert!(locks.try_take(10, 20, true).is_some());
        drop(a);
        assert!(locks.try_take(0, 6, true).is_none());
        drop(b);
        assert!(locks.try_take(0, 6, true).is_some());
    }
}
