//! Looking instead of sleeping, for a moment: what a task waits for may come within microseconds, and
//! to sleep and be woken costs more than that, on both sides.
//!
//! ```text
//! nothing to do --> look for up to `budget` --nothing--> arm: from here on descriptors tell --> sleep
//!                         |something                       |something after all
//!                         +--------------> go on <---------+
//! ```
//!
//! The budget follows what sleeps turn out to be: it grows while they are short, and a long one takes
//! it away, so that an idle thread costs nothing. Must never look while something is left to hand over
//! to the kernel, and never sleep unarmed.
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::op::{OpFuture, Readiness, drain_eventfd};
use super::{Inner, Op, OpKind, current};

/// Longest look. A transfer of a fast disk takes about as long.
const MOST: Duration = Duration::from_micros(32);
/// First look after a short sleep.
const LEAST: Duration = Duration::from_micros(4);

/// Something that shows in memory, and rings an eventfd when it was asked to.
pub trait Watched {
    /// Whether there is something to do. Cheap: it is asked again and again.
    fn is_ready(&self) -> bool;
    /// Asks for the eventfd to be rung; true when there is something to do after all.
    fn arm(&self) -> bool;
    /// The eventfd.
    fn bell(&self) -> BorrowedFd<'_>;
}

struct Entry {
    watched: Arc<dyn Watched>,
    waker: Waker,
}

/// What this executor's tasks wait for in this way.
#[derive(Default)]
pub(super) struct Busy {
    entries: Vec<Option<Entry>>,
    waiting: usize,
    budget: Duration,
}

impl Busy {
    /// Whether anybody waits.
    pub(super) fn is_used(&self) -> bool {
        self.waiting > 0
    }

    /// How long to look before the next sleep.
    pub(super) fn budget(&self) -> Duration {
        self.budget
    }

    /// Learns from a wait, looking and sleeping together.
    pub(super) fn waited(&mut self, time: Duration) {
        self.budget = if time > 4 * MOST {
            Duration::ZERO
        } else if time > self.budget {
            (self.budget * 2).clamp(LEAST, MOST)
        } else {
            self.budget
        };
    }

    /// Those for whom `test` says yes.
    pub(super) fn find(&self, test: impl Fn(&dyn Watched) -> bool) -> Vec<Waker> {
        let entries = self.entries.iter().flatten();
        entries
            .filter(|entry| test(&*entry.watched))
            .map(|entry| entry.waker.clone())
            .collect()
    }

    /// Whether anybody has something to do.
    pub(super) fn any_ready(&self) -> bool {
        self.entries
            .iter()
            .flatten()
            .any(|entry| entry.watched.is_ready())
    }

    fn insert(&mut self, entry: Entry) -> usize {
        self.waiting += 1;
        match self.entries.iter().position(Option::is_none) {
            Some(key) => {
                self.entries[key] = Some(entry);
                key
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        }
    }

    fn remove(&mut self, key: usize) {
        if self.entries.get_mut(key).and_then(Option::take).is_some() {
            self.waiting -= 1;
        }
    }
}

/// Waits for one thing that is watched, again and again.
pub struct Watch {
    watched: Arc<dyn Watched>,
    /// The wait for the eventfd goes on from one call to the next.
    poll: Option<OpFuture>,
    /// Where it is remembered.
    entry: Option<(Rc<Inner>, usize)>,
}

impl Watch {
    /// Of something that is watched.
    pub fn new(watched: Arc<dyn Watched>) -> Watch {
        Watch {
            watched,
            poll: None,
            entry: None,
        }
    }

    /// Waits until it is ready or its eventfd was rung; either may be without cause.
    ///
    /// # Errors
    /// The kernel's errno for a descriptor that cannot be waited for, or no executor.
    pub async fn ready(&mut self) -> io::Result<()> {
        let inner = current()?;
        poll_fn(|context| {
            self.forget();
            if self.watched.is_ready() {
                return Poll::Ready(Ok(()));
            }
            let fd = self.watched.bell().as_raw_fd();
            let kind = OpKind::Poll {
                fd,
                wanted: Readiness::Read,
            };
            let poll = self
                .poll
                .get_or_insert_with(|| OpFuture::new(inner.clone(), Op::new(kind)));
            if let Poll::Ready(result) = Pin::new(poll).poll(context) {
                self.poll = None;
                let drained = result.and_then(|_| drain_eventfd(self.watched.bell()));
                return Poll::Ready(drained.map(|_| ()));
            }
            let entry = Entry {
                watched: Arc::clone(&self.watched),
                waker: context.waker().clone(),
            };
            let key = inner.busy.borrow_mut().insert(entry);
            self.entry = Some((inner.clone(), key));
            Poll::Pending
        })
        .await
    }

    fn forget(&mut self) {
        if let Some((inner, key)) = self.entry.take() {
            inner.busy.borrow_mut().remove(key);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Inner {
    /// Looks for something to do, and arms the descriptors when there is nothing; whether the thread
    /// may sleep.
    pub(super) fn may_sleep(&self) -> bool {
        if !self.busy.borrow().is_used() {
            return true;
        }
        let budget = self.busy.borrow().budget();
        if !budget.is_zero() {
            // Whatever waits to be handed over would wait for the end of the look.
            self.reap(false);
            if !self.remote.prepare_sleep() || self.look(budget) {
                return false;
            }
        }
        let woken = self.busy.borrow().find(|watched| watched.arm());
        woken.iter().for_each(Waker::wake_by_ref);
        woken.is_empty()
    }

    /// Looks for up to `budget`; whether there is something to do.
    fn look(&self, budget: Duration) -> bool {
        let until = Instant::now() + budget;
        loop {
            if self.busy.borrow().any_ready() {
                let woken = self.busy.borrow().find(|watched| watched.is_ready());
                woken.iter().for_each(Waker::wake_by_ref);
                return true;
            }
            if self.driver.borrow_mut().has_news() || self.remote.has_woken() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Engine, Executor};
    use super::*;
    use crate::exec::op::{eventfd, signal_eventfd};
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A counter as a queue is one: who adds to it rings if it was asked to.
    struct Counter {
        there: AtomicUsize,
        armed: AtomicBool,
        rings: AtomicUsize,
        bell: OwnedFd,
    }

    impl Counter {
        fn add(&self) {
            self.there.fetch_add(1, Ordering::SeqCst);
            if self.armed.swap(false, Ordering::SeqCst) {
                self.rings.fetch_add(1, Ordering::SeqCst);
                signal_eventfd(self.bell.as_fd());
            }
        }

        fn take(&self) -> usize {
            self.there.swap(0, Ordering::SeqCst)
        }
    }

    impl Watched for Counter {
        fn is_ready(&self) -> bool {
            self.there.load(Ordering::SeqCst) > 0
        }

        fn arm(&self) -> bool {
            self.armed.store(true, Ordering::SeqCst);
            self.is_ready()
        }

        fn bell(&self) -> BorrowedFd<'_> {
            self.bell.as_fd()
        }
    }

    /// Another thread adds `count`, with a pause of up to `pause` between; all of them arrive.
    fn carry(engine: Engine, count: usize, pause: Duration) -> usize {
        let executor = Executor::new(engine).expect("an engine");
        let counter = Arc::new(Counter {
            there: AtomicUsize::new(0),
            armed: AtomicBool::new(false),
            rings: AtomicUsize::new(0),
            bell: eventfd().expect("an eventfd"),
        });
        let theirs = Arc::clone(&counter);
        let adder = std::thread::spawn(move || {
            for number in 0..count {
                theirs.add();
                let until = Instant::now() + pause * (number % 7) as u32 / 6;
                while Instant::now() < until {
                    std::thread::yield_now();
                }
            }
        });
        let mut watch = Watch::new(Arc::clone(&counter) as Arc<dyn Watched>);
        executor.block_on(async {
            let mut arrived = 0;
            while arrived < count {
                arrived += counter.take();
                if arrived < count {
                    watch.ready().await.expect("a wait");
                }
            }
        });
        adder.join().expect("an end");
        counter.rings.load(Ordering::SeqCst)
    }

    #[test]
    fn nothing_is_missed_between_looking_and_sleeping() {
        for engine in [Engine::Threads, Engine::Auto] {
            for pause in [0, 10, 60, 300] {
                let rings = carry(engine, 2000, Duration::from_micros(pause));
                assert!(rings <= 2000);
            }
        }
    }

    #[test]
    fn the_budget_grows_with_short_waits_and_is_gone_after_a_long_one() {
        let mut busy = Busy::default();
        assert!(busy.budget().is_zero(), "an idle thread does not look");
        for _ in 0..8 {
            busy.waited(MOST);
        }
        assert_eq!(busy.budget(), MOST);
        busy.waited(Duration::from_micros(1));
        assert_eq!(busy.budget(), MOST, "a look that sufficed changes nothing");
        busy.waited(MOST * 8);
        assert!(busy.budget().is_zero());
    }
}
