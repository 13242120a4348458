//! Limits of a disk: how long a request has to wait before it is handed to the image.
//!
//! Each limit is a bucket that leaks: what is let through fills it, at its average rate it empties, and
//! while it is fuller than it should be nothing is let through. A request is let through as a whole, also
//! one that is larger than the bucket; the ones behind it wait the longer. A burst has a second bucket
//! that empties at the burst's rate.
//!
//! ```text
//! taken from the ring -> held, oldest first -> let through -> merged, submitted
//!                             |
//!                             +-- the queue is paused or stopped: parked, as after an I/O error
//! ```
//!
//! A held request is not submitted yet, so nothing is lost when it is parked: its head is in saved state
//! with the other parked ones, and after a resume or on another host it waits its time again. What the
//! buckets hold is no state: they begin empty.
//!
//! Reads and writes wait each for their own limits, in order; a flush waits for none.

use super::merge::Job;
use super::request::Operation;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_api::spec::{IoLimits, Rate, Rates};

/// Of a limit without a burst so much of a second may come at once.
const AT_ONCE: f64 = 0.1;

/// A bucket that leaks.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// What leaks in a second; 0: nothing is limited.
    rate: f64,
    /// How full it may be before something waits.
    room: f64,
    level: f64,
}

impl Bucket {
    fn leak(&mut self, seconds: f64) {
        self.level = (self.level - self.rate * seconds).max(0.0);
    }

    /// Seconds until something may be let through.
    fn wait(&self) -> f64 {
        match self.rate > 0.0 && self.level > self.room {
            true => (self.level - self.room) / self.rate,
            false => 0.0,
        }
    }
}

/// Which requests a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// The buckets of one limit: on average, and in a burst.
fn buckets(rate: Rate) -> [Bucket; 2] {
    let (average, burst) = (rate.average as f64, rate.burst as f64);
    let bucket = |rate: f64, room: f64| Bucket {
        rate,
        room,
        level: 0.0,
    };
    match rate.burst {
        0 => [bucket(average, average * AT_ONCE), Bucket::default()],
        _ => {
            let room = burst * rate.seconds.max(1) as f64;
            [bucket(average, room), bucket(burst, burst * AT_ONCE)]
        }
    }
}

/// All buckets of a disk, under a clock that somebody else reads.
#[derive(Debug, Default)]
struct Limiter {
    /// Of reads and of writes: `[total, one way]` of bytes, then of requests.
    total: [[Bucket; 2]; 2],
    ways: [[[Bucket; 2]; 2]; 2],
    request_size: u64,
    now: Duration,
}

impl Limiter {
    fn new(limits: &IoLimits, now: Duration) -> Self {
        let both = |pick: fn(&Rates) -> Rate| {
            [
                buckets(pick(&limits.bytes)),
                buckets(pick(&limits.requests)),
            ]
        };
        Self {
            total: both(|rates| rates.total),
            ways: [both(|rates| rates.read), both(|rates| rates.write)],
            request_size: limits.request_size,
            now,
        }
    }

    fn advance(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.now).as_secs_f64();
        self.now = self.now.max(now);
        let ways = self.ways.iter_mut().flatten();
        let all = self.total.iter_mut().chain(ways).flatten();
        all.for_each(|bucket| bucket.leak(seconds));
    }

    /// The buckets that such a request fills, with 0 for those of bytes and 1 for those of requests.
    fn concerned(&mut self, way: Way) -> impl Iterator<Item = (usize, &mut Bucket)> {
        let [read, write] = &mut self.ways;
        let own = match way {
            Way::Read => read,
            Way::Write => write,
        };
        let both = self.total.iter_mut().enumerate();
        both.chain(own.iter_mut().enumerate())
            .flat_map(|(unit, buckets)| buckets.iter_mut().map(move |bucket| (unit, bucket)))
    }

    /// Lets a request of so many bytes through, or says how long it has to wait.
    fn take(&mut self, way: Way, bytes: u64, now: Duration) -> Result<(), Duration> {
        self.advance(now);
        let waits = self.concerned(way).map(|(_, bucket)| bucket.wait());
        let wait = waits.fold(0.0, f64::max);
        if wait > 0.0 {
            // A clock's tick more, so that nobody comes a moment too early.
            return Err(Duration::try_from_secs_f64(wait).map_or(Duration::MAX, |wait| wait + TICK));
        }
        let requests = match self.request_size {
            0 => 1,
            size => bytes.div_ceil(size).max(1),
        };
        for (unit, bucket) in self.concerned(way) {
            bucket.level += match unit {
                0 => bytes as f64,
                _ => requests as f64,
            };
        }
        Ok(())
    }
}

/// Added to a wait.
const TICK: Duration = Duration::from_micros(1);

/// The limits of a disk, for all of its queues.
#[derive(Debug)]
pub(super) struct Throttle {
    on: AtomicBool,
    start: Instant,
    limiter: Mutex<Limiter>,
}

impl Throttle {
    pub(super) fn new(limits: &IoLimits) -> Self {
        Self {
            on: AtomicBool::new(!limits.is_none()),
            start: Instant::now(),
            limiter: Mutex::new(Limiter::new(limits, Duration::ZERO)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other limits from now on. Whoever holds requests is to be woken then.
    pub(super) fn set(&self, limits: &IoLimits) {
        *self.lock() = Limiter::new(limits, self.start.elapsed());
        self.on.store(!limits.is_none(), Ordering::Release);
    }

    /// Of what is held and then of `jobs`, what may go on now. The rest is held; how long the first of it
    /// has to wait.
    pub(super) fn let_through(
        &self,
        held: &mut VecDeque<Job>,
        mut jobs: Vec<Job>,
    ) -> (Vec<Job>, Option<Duration>) {
        if !self.on.load(Ordering::Acquire) {
            if !held.is_empty() {
                jobs.splice(0..0, held.drain(..));
            }
            return (jobs, None);
        }
        let mut limiter = self.lock();
        let now = self.start.elapsed();
        held.extend(jobs);
        // How long reads and writes wait: whatever comes behind one that waits does too.
        let mut waits: [Option<Duration>; 2] = [None; 2];
        let mut through = Vec::new();
        for job in std::mem::take(held) {
            let Some((way, bytes)) = cost(&job.operation) else {
                through.push(job);
                continue;
            };
            let [reads, writes] = &mut waits;
            let wait = match way {
                Way::Read => reads,
                Way::Write => writes,
            };
            if wait.is_none() {
                *wait = limiter.take(way, bytes, now).err();
            }
            match wait {
                None => through.push(job),
                Some(_) => held.push_back(job),
            }
        }
        (through, waits.into_iter().flatten().min())
    }
}

/// What a request costs; `None` for those that are not limited. What only changes metadata costs a
/// request and no bytes.
fn cost(operation: &Operation) -> Option<(Way, u64)> {
    Some(match operation {
        Operation::Read { len, .. } => (Way::Read, *len),
        Operation::Write { len, .. } => (Way::Write, *len),
        Operation::Discard(_) | Operation::WriteZeroes(_) => (Way::Write, 0),
        Operation::Flush | Operation::GetId => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(numbers: &[(&str, u64)]) -> IoLimits {
        let mut limits = IoLimits::default();
        for (name, value) in numbers {
            *limits.number(name).expect("a name") = *value;
        }
        limits.check().expect("sense");
        limits
    }

    /// How many requests of so many bytes get through in so many seconds, for a guest that always wants
    /// more. The clock is ours.
    fn run(limiter: &mut Limiter, way: Way, bytes: u64, seconds: u64) -> u64 {
        let end = limiter.now + Duration::from_secs(seconds);
        let (mut now, mut through) = (limiter.now, 0);
        loop {
            match limiter.take(way, bytes, now) {
                Ok(()) => through += 1,
                Err(wait) => now += wait,
            }
            if now >= end {
                limiter.advance(end);
                return through;
            }
        }
    }

    #[test]
    fn what_is_limited_comes_at_its_rate() {
        for (numbers, way, bytes, rate) in [
            (&[("total_iops_sec", 100)][..], Way::Read, 4096, 100),
            (&[("total_bytes_sec", 4_096_000)], Way::Write, 4096, 1000),
            (&[("write_bytes_sec", 1 << 20)], Way::Write, 1 << 18, 4),
            // The narrower one counts.
            (
                &[("read_iops_sec", 50), ("total_bytes_sec", 1 << 30)],
                Way::Read,
                4096,
                50,
            ),
            // A large request counts as several.
            (
                &[("total_iops_sec", 100), ("size_iops_sec", 4096)],
                Way::Read,
                8192,
                50,
            ),
        ] {
            let mut limiter = Limiter::new(&limits(numbers), Duration::ZERO);
            let through = run(&mut limiter, way, bytes, 20);
            let (least, most) = (rate * 20, rate * 20 + rate / 5 + 2);
            assert!((least..=most).contains(&through), "{numbers:?}: {through}");
        }
        let numbers = [("write_bytes_sec", 4096), ("write_iops_sec", 1)];
        let mut other = Limiter::new(&limits(&numbers), Duration::ZERO);
        for _ in 0..10_000 {
            assert_eq!(other.take(Way::Read, 1 << 20, Duration::ZERO), Ok(()));
        }
    }

    #[test]
    fn a_burst_lasts_as_long_as_it_may_and_comes_back_after_a_rest() {
        let numbers = [
            ("total_iops_sec", 100),
            ("total_iops_sec_max", 500),
            ("total_iops_sec_max_length", 4),
        ];
        let mut limiter = Limiter::new(&limits(&numbers), Duration::ZERO);
        // The bucket of 2000 fills by 400 a second for five seconds.
        for second in 0..4 {
            let through = run(&mut limiter, Way::Read, 512, 1);
            assert!((495..=560).contains(&through), "{second}: {through}");
        }
        run(&mut limiter, Way::Read, 512, 2);
        let through = run(&mut limiter, Way::Read, 512, 10);
        assert!((990..=1010).contains(&through), "{through}");
        // Without load it empties.
        let rested = limiter.now + Duration::from_secs(60);
        limiter.advance(rested);
        assert!(run(&mut limiter, Way::Read, 512, 1) > 490);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let mut limiter = Limiter::new(&limits(&[("total_iops_sec", 10)]), Duration::ZERO);
        let at = Duration::from_secs(5);
        while limiter.take(Way::Write, 1, at).is_ok() {}
        assert!(limiter.take(Way::Write, 1, Duration::ZERO).is_err());
        assert!(limiter.take(Way::Write, 1, at).is_err());
    }
}
