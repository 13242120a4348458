//! What the owner of a job and the job tell each other.
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::exec;
use crate::sync::{Waiters, lock, wake_all};

/// Sleeps are cut into pieces of this length, so that a job notices what its owner wants.
const NAP: Duration = Duration::from_millis(50);

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It copies.
    #[default]
    Running,
    /// Both sides are the same and stay so; it waits for [`Control::complete`] or
    /// [`Control::cancel`].
    Ready,
    /// It is over.
    Ended,
}

/// How a job ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was for.
    Done,
    /// It was cancelled: the image is as it would be without it.
    Cancelled,
}

#[derive(Default)]
struct State {
    phase: Phase,
    waiters: Waiters,
}

/// The owner's handle of a job; used from any thread.
#[derive(Default)]
pub struct Control {
    cancelled: AtomicBool,
    completed: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    speed: AtomicU64,
    state: Mutex<State>,
    /// When the next bytes may be copied.
    next: Mutex<Option<Instant>>,
}

impl Control {
    /// Without a limit of speed.
    pub fn new() -> Control {
        Control::default()
    }

    /// Ends the job as if it had not been. A job that is past the point of no return ends normally.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake();
    }

    /// Lets a job that is ready finish (pivot); may be said before it is ready.
    pub fn complete(&self) {
        self.completed.store(true, Ordering::Release);
        self.wake();
    }

    /// Copies at most so many bytes per second from now on; 0 means as many as it can.
    pub fn set_speed(&self, bytes_per_second: u64) {
        self.speed.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes that are done, and bytes in total; the total may grow.
    pub fn progress(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed).min(total), total)
    }

    /// Where the job is.
    pub fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    fn wake(&self) {
        let wakers = lock(&self.state).waiters.take();
        wake_all(wakers);
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        lock(&self.state).phase = phase;
    }

    pub(super) fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Waits as long as the speed limit wants after `bytes` were copied.
    pub(super) async fn pace(&self, bytes: u64) {
        let speed = self.speed.load(Ordering::Relaxed);
        if speed == 0 {
            *lock(&self.next) = None;
            return exec::yield_now().await;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / speed as f64);
        let until = {
            let mut next = lock(&self.next);
            let until = next.unwrap_or_else(Instant::now).max(Instant::now()) + takes;
            *next = Some(until);
            until
        };
        while !self.is_cancelled() && self.speed.load(Ordering::Relaxed) == speed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            exec::sleep(left.min(NAP)).await;
        }
    }

    /// Waits, ready, until the owner decides or `broken` says that it is no use: true to finish.
    pub(super) async fn decision(&self, broken: impl Fn() -> bool) -> bool {
        self.set_phase(Phase::Ready);
        loop {
            let decided = poll_fn(|cx| {
                let mut state = lock(&self.state);
                if self.completed.load(Ordering::Acquire) || self.is_cancelled() {
                    return Poll::Ready(true);
                }
                state.waiters.add(cx.waker());
                Poll::Ready(false)
            })
            .await;
            if decided || broken() {
                return !self.is_cancelled();
            }
            // A writer that breaks the job wakes nobody: look now and then.
            exec::sleep(NAP).await;
        }
    }
}
