//! How often one domain may make the daemon write into the host's journal: a bucket that fills
//! slowly, for changes that a guest can bring about as fast as it likes (a reset, a pause, a press of
//! the power button). Listeners hear every change; the journal, which everybody shares, must not.
//!
//! ```text
//! change --> bucket of (domain, action): not empty --> written, with the number left out before
//!                                        empty     --> counted
//! ```
//!
//! It must never hold back an end or a failure: those do not ask here.

use std::collections::HashMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Entries that one kind of change may write at once.
const BURST: u32 = 20;
/// How long it takes to earn one more.
const REFILL: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Bucket {
    entries: u32,
    filled: Instant,
    left_out: u64,
}

/// The buckets of the guests that run.
#[derive(Debug, Default)]
pub(super) struct Limits(HashMap<(Uuid, &'static str), Bucket>);

impl Limits {
    /// Asks for one entry at `now`: how many like it were left out before, or `None` when this one
    /// is to be left out too.
    pub(super) fn ask(&mut self, uuid: Uuid, action: &'static str, now: Instant) -> Option<u64> {
        let full = || Bucket {
            entries: BURST,
            filled: now,
            left_out: 0,
        };
        self.0.entry((uuid, action)).or_insert_with(full).ask(now)
    }

    /// Forgets a guest that has ended.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.0.retain(|(of, _), _| *of != uuid);
    }
}

impl Bucket {
    fn ask(&mut self, now: Instant) -> Option<u64> {
        let earned = now.saturating_duration_since(self.filled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.filled = now;
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.entries = self.entries.saturating_add(earned).min(BURST);
        }
        if self.entries == 0 {
            self.left_out += 1;
            return None;
        }
        self.entries -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_resets_in_a_loop_writes_a_burst_and_then_one_entry_each_five_seconds() {
        let (mut limits, start, guest) = (Limits::default(), Instant::now(), Uuid::from_u128(1));
        let written = |limits: &mut Limits, seconds| {
            limits.ask(guest, "reset", start + Duration::from_secs(seconds))
        };
        for _ in 0..BURST {
            assert_eq!(written(&mut limits, 0), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(written(&mut limits, 4), None);
        }
        assert_eq!(written(&mut limits, 5), Some(1000));
        assert_eq!(written(&mut limits, 9), None);

        // Another action and another guest have buckets of their own.
        assert_eq!(limits.ask(guest, "paused", start), Some(0));
        assert_eq!(limits.ask(Uuid::from_u128(2), "reset", start), Some(0));
        limits.forget(guest);
        assert_eq!(limits.0.len(), 1);
        assert_eq!(written(&mut limits, 9), Some(0));
    }
}
