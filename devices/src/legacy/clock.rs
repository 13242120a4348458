//! Machine time: nanoseconds that stand still while the machine does.
//!
//! Counters that the guest may compare with each other or with its own idea of time (PIT, ACPI PM
//! timer) run on this, so that a pause or a save and restore is no jump for them. The RTC does not:
//! it shows the host's time of day.

use std::time::{Duration, Instant};

/// Nanoseconds per second.
pub(super) const SECOND: u64 = 1_000_000_000;

/// A clock that can be stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Nanoseconds that had passed when it was started last.
    elapsed: u64,
    running_since: Option<Instant>,
}

impl Clock {
    /// A clock that shows `elapsed` nanoseconds and runs.
    pub(super) fn running(elapsed: u64) -> Self {
        Self {
            elapsed,
            running_since: Some(Instant::now()),
        }
    }

    /// A clock that shows `elapsed` nanoseconds and stands.
    pub(super) fn stopped(elapsed: u64) -> Self {
        Self {
            elapsed,
            running_since: None,
        }
    }

    /// Nanoseconds since it was new, pauses left out.
    pub(super) fn now(&self) -> u64 {
        let since = self.running_since.map_or(Duration::ZERO, |since| {
            Instant::now().saturating_duration_since(since)
        });
        self.elapsed
            .saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// When it will show `at`; `None` while it stands.
    pub(super) fn when(&self, at: u64) -> Option<Instant> {
        let since = self.running_since?;
        since.checked_add(Duration::from_nanos(at.saturating_sub(self.elapsed)))
    }

    pub(super) fn stop(&mut self) {
        *self = Self::stopped(self.now());
    }

    pub(super) fn start(&mut self) {
        if self.running_since.is_none() {
            *self = Self::running(self.elapsed);
        }
    }
}

/// `ns` nanoseconds in ticks of `hertz`, rounded down.
pub(super) fn ticks(ns: u64, hertz: u64) -> u64 {
    let ticks = u128::from(ns) * u128::from(hertz) / u128::from(SECOND);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// The first nanosecond at which `ticks` ticks of `hertz` (not 0) have passed.
pub(super) fn nanoseconds(ticks: u64, hertz: u64) -> u64 {
    let ns = (u128::from(ticks) * u128::from(SECOND)).div_ceil(u128::from(hertz.max(1)));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_stands_and_goes_on_where_it_stood() {
        let mut clock = Clock::stopped(5);
        assert_eq!((clock.now(), clock.when(7)), (5, None));
        clock.start();
        assert!(clock.now() >= 5 && clock.when(7).is_some());
        clock.stop();
        let at = clock.now();
        assert_eq!(clock.now(), at);
    }

    #[test]
    fn ticks_and_nanoseconds_agree() {
        for hertz in [1_193_182, 3_579_545, 32_768] {
            for count in [0, 1, 2, 65_535, 65_536, u64::from(u32::MAX)] {
                let ns = nanoseconds(count, hertz);
                assert_eq!(ticks(ns, hertz), count);
                assert!(ns == 0 || ticks(ns - 1, hertz) < count);
            }
        }
        assert_eq!(ticks(u64::MAX, u64::MAX), u64::MAX);
    }
}
