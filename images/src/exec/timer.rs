//! Timers of one executor, ordered by their deadline.
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Inner;

/// Deadlines and who waits for them.
#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
}

impl Timers {
    /// Wakes everybody whose deadline has passed.
    pub(super) fn fire(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
        }
    }

    /// How long until the next deadline.
    pub(super) fn next(&self) -> Option<Duration> {
        let (deadline, _) = self.waiting.keys().next()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

/// Waits for a deadline.
pub(super) struct Sleep {
    inner: Rc<Inner>,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Sleep {
    pub(super) fn new(inner: Rc<Inner>, d: Duration) -> Sleep {
        let now = Instant::now();
        // A duration beyond the clock's range sleeps for a century.
        let century = Duration::from_secs(100 * 365 * 86400);
        let deadline = now.checked_add(d.min(century)).unwrap_or(now);
        Sleep {
            inner,
            deadline,
            key: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let inner = self.inner.clone();
        let mut timers = inner.timers.borrow_mut();
        let key = match self.key {
            Some(key) => key,
            None => {
                timers.next_id += 1;
                (self.deadline, timers.next_id)
            }
        };
        self.key = Some(key);
        timers.waiting.insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.timers.borrow_mut().waiting.remove(&key);
        }
    }
}
