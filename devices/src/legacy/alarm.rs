//! One thread that calls back at a time, and that is there only while a time is set.
//!
//! ```text
//! idle (no thread) --set(Some)--> armed --time comes--> calling back --next time--> armed
//!   ^                              |  ^                      |
//!   +--- nothing for LINGER -- lingering <---- no next time --+
//! ```
//!
//! Most guests use the PIT and the RTC's interrupts for a moment at boot and never again; an idle
//! thread would cost every guest its stack. The callback runs without any lock of this module, so
//! it may set the next time itself.

use super::lock;
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a thread without work waits before it ends: longer than a guest takes from one
/// one-shot timer to the next, since starting a thread costs more than waiting.
const LINGER: Duration = Duration::from_millis(100);
/// The callbacks are shallow; this is what a thread needs in debug builds with room to spare.
const STACK: usize = 128 << 10;

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    callback: Box<dyn Fn() + Send + Sync>,
    name: &'static str,
}

#[derive(Default)]
struct Inner {
    deadline: Option<Instant>,
    thread: Option<JoinHandle<()>>,
    /// The thread is about to end and will not look at `deadline` again.
    ended: bool,
    closing: bool,
}

/// A time at which to be called back. Dropping it waits for a callback under way.
pub(super) struct Alarm {
    shared: Arc<Shared>,
}

impl Alarm {
    /// An alarm without a time. `name` is the thread's, at most 15 bytes.
    pub(super) fn new(name: &'static str, callback: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::default(),
                changed: Condvar::new(),
                callback: Box::new(callback),
                name,
            }),
        }
    }

    /// Calls back at `deadline` instead of whatever was set before; never, for `None`.
    pub(super) fn set(&self, deadline: Option<Instant>) {
        let mut inner = lock(&self.shared.inner);
        if inner.deadline == deadline {
            return;
        }
        inner.deadline = deadline;
        let running = inner.thread.is_some() && !inner.ended;
        if running {
            self.shared.changed.notify_one();
        } else if deadline.is_some() && !inner.closing {
            self.spawn(&mut inner);
        }
    }

    fn spawn(&self, inner: &mut Inner) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(self.shared.name.into())
            .stack_size(STACK)
            .spawn(move || run(&shared));
        match thread {
            // A thread that has ended detaches here; it holds nothing any more.
            Ok(thread) => {
                inner.thread = Some(thread);
                inner.ended = false;
            }
            Err(error) => {
                tracing::error!(%error, timer = self.shared.name, "no thread for a timer: the guest gets no interrupts from it");
            }
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let thread = {
            let mut inner = lock(&self.shared.inner);
            inner.closing = true;
            inner.deadline = None;
            self.shared.changed.notify_one();
            inner.thread.take()
        };
        // A callback that held the last reference drops the alarm on its own thread.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic in the callback has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    // Timers of the guest should not be late by the default slack of 50 us; where it cannot be
    // set they are.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let mut inner = lock(&shared.inner);
    loop {
        if inner.closing {
            return;
        }
        let now = Instant::now();
        match inner.deadline {
            Some(deadline) if deadline <= now => {
                inner.deadline = None;
                drop(inner);
                (shared.callback)();
                inner = lock(&shared.inner);
            }
            Some(deadline) => inner = wait(shared, inner, deadline - now).0,
            None => {
                let timed_out;
                (inner, timed_out) = wait(shared, inner, LINGER);
                if timed_out && inner.deadline.is_none() {
                    inner.ended = true;
                    return;
                }
            }
        }
    }
}

fn wait<'a>(
    shared: &Shared,
    inner: std::sync::MutexGuard<'a, Inner>,
    time: Duration,
) -> (std::sync::MutexGuard<'a, Inner>, bool) {
    let (inner, result) = shared
        .changed
        .wait_timeout(inner, time)
        .unwrap_or_else(PoisonError::into_inner);
    (inner, result.timed_out())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn it_rings_once_per_time_set() {
        let (rung, bell) = mpsc::channel();
        let alarm = Alarm::new("test-alarm", move || {
            let _ = rung.send(Instant::now());
        });
        for _ in 0..3 {
            let at = Instant::now() + Duration::from_millis(2);
            alarm.set(Some(at));
            assert!(bell.recv().expect("alive") >= at);
        }
        drop(alarm);
        assert!(bell.recv().is_err(), "nothing more, and the thread is gone");
    }

    #[test]
    fn a_time_taken_back_does_not_ring() {
        let (rung, bell) = mpsc::channel();
        let alarm = Alarm::new("test-alarm", move || {
            let _ = rung.send(());
        });
        alarm.set(Some(Instant::now() + Duration::from_secs(3600)));
        alarm.set(None);
        drop(alarm);
        assert!(bell.recv().is_err());
    }

    #[test]
    fn the_thread_ends_when_idle_and_comes_back() {
        let (rung, bell) = mpsc::channel();
        let alarm = Alarm::new("test-alarm", move || {
            let _ = rung.send(());
        });
        alarm.set(Some(Instant::now()));
        bell.recv().expect("alive");
        while !lock(&alarm.shared.inner).ended {
            std::thread::yield_now();
        }
        alarm.set(Some(Instant::now()));
        bell.recv().expect("a new thread");
    }
}
