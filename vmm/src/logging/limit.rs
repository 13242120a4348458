//! How often one place in the code may log: a bucket of lines that fills slowly.

use std::collections::HashMap;
use std::time::Duration;
use tracing::callsite::Identifier;

/// Lines that a place may log at once.
const BURST: u32 = 20;
/// How long it takes to earn one more.
const REFILL: Duration = Duration::from_secs(5);

/// What to do with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Write {
        /// Lines of the same place that were dropped since the last one.
        left_out: u64,
    },
    Drop,
}

#[derive(Debug)]
struct Bucket {
    lines: u32,
    filled: Duration,
    left_out: u64,
}

/// The buckets of all places: as many as there are places in the code.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<Identifier, Bucket>);

impl Limits {
    /// Asks for one line of `place`, `now` after the start of the log.
    pub(super) fn ask(&mut self, place: Identifier, now: Duration) -> Verdict {
        self.0
            .entry(place)
            .or_insert(Bucket {
                lines: BURST,
                filled: now,
                left_out: 0,
            })
            .ask(now)
    }
}

impl Bucket {
    fn ask(&mut self, now: Duration) -> Verdict {
        let earned = now.saturating_sub(self.filled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.filled = now;
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.lines = self.lines.saturating_add(earned).min(BURST);
        }
        if self.lines == 0 {
            self.left_out += 1;
            return Verdict::Drop;
        }
        self.lines -= 1;
        let left_out = std::mem::take(&mut self.left_out);
        Verdict::Write { left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_trickle_that_says_what_was_left_out() {
        let mut bucket = Bucket {
            lines: BURST,
            filled: Duration::ZERO,
            left_out: 0,
        };
        for _ in 0..BURST {
            assert_eq!(bucket.ask(Duration::ZERO), Verdict::Write { left_out: 0 });
        }
        for _ in 0..7 {
            assert_eq!(bucket.ask(Duration::from_secs(1)), Verdict::Drop);
        }
        assert_eq!(bucket.ask(REFILL), Verdict::Write { left_out: 7 });
        assert_eq!(bucket.ask(REFILL), Verdict::Drop);
        let much_later = Duration::from_secs(1 << 40);
        for _ in 0..BURST {
            assert!(matches!(bucket.ask(much_later), Verdict::Write { .. }));
        }
        assert_eq!(
            bucket.ask(much_later),
            Verdict::Drop,
            "never more than a burst"
        );
    }
}
