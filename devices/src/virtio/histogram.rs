//! How long things took, counted in classes. Kept by a worker and read by anybody: never a lock.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Class N counts what took less than 2^N microseconds and is in no lower class; the last one counts
/// the rest.
const CLASSES: usize = 24;

/// Counts by class.
#[derive(Debug, Default)]
pub(super) struct Histogram([AtomicU64; CLASSES]);

impl Histogram {
    /// Something took this long.
    pub(super) fn add(&self, time: Duration) {
        if let Some(count) = self.0.get(class(time)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts, lowest class first.
    pub(super) fn value(&self) -> Value {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        json!(counts.collect::<Vec<_>>())
    }
}

/// The class of a time.
fn class(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let bits = u64::BITS - micros.leading_zeros();
    usize::try_from(bits).unwrap_or(CLASSES).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_powers_of_two() {
        let micros = Duration::from_micros;
        for (time, expected) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(999), 0),
            (micros(1), 1),
            (micros(2), 2),
            (micros(3), 2),
            (micros(4), 3),
            (micros(1023), 10),
            (Duration::MAX, CLASSES - 1),
        ] {
            assert_eq!(class(time), expected, "{time:?}");
        }
    }
}
