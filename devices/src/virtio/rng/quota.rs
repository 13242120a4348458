//! A rate: so many bytes in each period, then none until the next one.

use std::time::{Duration, Instant};

/// Bytes per period.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    bytes: u64,
    period: Duration,
    /// The running period and what it has given; none runs while nothing is asked.
    running: Option<(Instant, u64)>,
}

impl Quota {
    /// `bytes` (at least 1) in each `period`.
    pub(super) fn new(bytes: u64, period: Duration) -> Self {
        Self {
            bytes: bytes.max(1),
            period,
            running: None,
        }
    }

    /// How many bytes may be given at `now`, at least 1; or how long to wait for some.
    pub(super) fn allowed(&mut self, now: Instant) -> Result<u64, Duration> {
        let (start, given) = *self.running.get_or_insert((now, 0));
        let age = now.saturating_duration_since(start);
        if age >= self.period {
            self.running = Some((now, 0));
            return Ok(self.bytes);
        }
        match self.bytes.saturating_sub(given) {
            0 => Err(self.period - age),
            left => Ok(left),
        }
    }

    /// Notes that bytes were given.
    pub(super) fn give(&mut self, bytes: u64) {
        if let Some((_, given)) = &mut self.running {
            *given = given.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_period_gives_its_bytes_and_then_waits() {
        let start = Instant::now();
        let mut quota = Quota::new(10, Duration::from_secs(1));
        assert_eq!(quota.allowed(start), Ok(10));
        quota.give(7);
        let later = start + Duration::from_millis(400);
        assert_eq!(quota.allowed(later), Ok(3));
        quota.give(3);
        assert_eq!(quota.allowed(later), Err(Duration::from_millis(600)));
        assert_eq!(quota.allowed(start + Duration::from_secs(1)), Ok(10));
    }

    proptest! {
        #[test]
        fn no_period_gives_more_than_its_bytes(
            steps in prop::collection::vec((0_u64..3000, 0_u64..50), 1..100)
        ) {
            let start = Instant::now();
            let mut quota = Quota::new(20, Duration::from_millis(1000));
            // The first question starts the first period.
            let first = steps.first().map_or(0, |(pause, _)| *pause);
            let (mut now, mut window, mut given) = (start, start + Duration::from_millis(first), 0);
            for (pause, wish) in steps {
                now += Duration::from_millis(pause);
                match quota.allowed(now) {
                    Ok(allowed) => {
                        prop_assert!(allowed >= 1);
                        if now - window >= Duration::from_millis(1000) {
                            (window, given) = (now, 0);
                        }
                        let take = wish.min(allowed);
                        quota.give(take);
                        given += take;
                        prop_assert!(given <= 20);
                    }
                    Err(wait) => prop_assert!(wait <= Duration::from_millis(1000) && given == 20),
                }
            }
        }
    }
}
