//! The guest's figures (virtio 1.3 §5.5.6.3): parsing, how old they are, and when to ask for newer ones.

use crate::virtio::worker::{Signal, race};
use images::exec::sleep;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Names of the figures by their tag, as libvirt has them where it has one.
const NAMES: [&str; 16] = [
    "swap_in",
    "swap_out",
    "major_fault",
    "minor_fault",
    "unused",
    "available",
    "usable",
    "disk_caches",
    "hugetlb_pgalloc",
    "hugetlb_pgfail",
    "oom_kill",
    "alloc_stall",
    "async_scan",
    "direct_scan",
    "async_reclaim",
    "direct_reclaim",
];
/// Bytes of a figure: a tag of two and a value of eight.
const ENTRY: usize = 10;
/// Bytes of a buffer that are looked at: all tags, and room for some that are not known yet.
pub(super) const LONGEST: usize = 64 * ENTRY;
/// Whoever asks more often than this gets the same figures again.
const OFTEN: Duration = Duration::from_secs(1);

/// A set of figures: one per tag, those that the guest gave.
type Figures = [Option<u64>; NAMES.len()];

/// The figures in a buffer; the last of a tag counts, tags that are not known are skipped.
fn parse(bytes: &[u8]) -> Figures {
    let mut figures = Figures::default();
    for [t0, t1, value @ ..] in bytes.as_chunks::<ENTRY>().0 {
        let tag = usize::from(u16::from_le_bytes([*t0, *t1]));
        if let Some(figure) = figures.get_mut(tag) {
            *figure = Some(u64::from_le_bytes(*value));
        }
    }
    figures
}

#[derive(Default)]
struct Known {
    /// The last set, and when it came: seconds since the Unix epoch.
    last: Option<(Figures, u64)>,
    /// The driver's next buffer is a new set, and not the one that we know.
    expected: bool,
    asked: Option<Instant>,
}

/// What is known of the guest.
#[derive(Default)]
pub(super) struct Statistics {
    known: Mutex<Known>,
    /// Seconds from one set to the next; 0 for none by itself.
    period: AtomicU32,
    /// Somebody wants newer figures, or the period has changed.
    wanted: Signal,
}

impl Statistics {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn period(&self) -> u32 {
        self.period.load(Ordering::Relaxed)
    }

    /// Changes the period, and asks at once.
    pub(super) fn set_period(&self, seconds: u32) {
        self.period.store(seconds, Ordering::Relaxed);
        self.wanted.ring();
    }

    /// A driver begins: its first buffer holds figures.
    pub(super) fn begin(&self) {
        *self.lock() = Known {
            expected: true,
            ..Known::default()
        };
    }

    /// A driver goes on after a restore: nobody knows how old the figures in its buffer are.
    pub(super) fn go_on(&self) {
        self.lock().expected = false;
    }

    /// Whether the driver's buffer holds something new.
    pub(super) fn is_expected(&self) -> bool {
        self.lock().expected
    }

    /// Takes the contents of the driver's buffer.
    pub(super) fn take(&self, bytes: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut known = self.lock();
        known.expected = false;
        known.last = Some((parse(bytes), now.unwrap_or_default().as_secs()));
    }

    /// The buffer was used: it will come back with new figures.
    pub(super) fn asked(&self) {
        self.lock().expected = true;
    }

    /// Waits until newer figures are wanted.
    pub(super) async fn wanted(&self) {
        match self.period() {
            0 => self.wanted.heard().await,
            seconds => {
                let period = Duration::from_secs(seconds.into());
                race(self.wanted.heard(), sleep(period)).await;
            }
        }
    }

    /// What is known; asks for newer ones, so that who asks again soon gets them.
    pub(super) fn value(&self) -> Value {
        let mut known = self.lock();
        let now = Instant::now();
        if known.asked.is_none_or(|asked| now - asked >= OFTEN) {
            known.asked = Some(now);
            self.wanted.ring();
        }
        let Some((figures, at)) = &known.last else {
            return json!({ "period": self.period() });
        };
        let given = NAMES.iter().zip(figures);
        let given = given.filter_map(|(name, figure)| Some(((*name).into(), (*figure)?.into())));
        json!({
            "period": self.period(),
            "last_update": at,
            "figures": given.collect::<Map<String, Value>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn figures_are_found_by_their_tags() {
        let bytes = [
            entry(4, 1 << 30),
            entry(0x8000, 9),
            entry(0, 1),
            entry(0, u64::MAX),
            vec![5, 0, 1],
        ]
        .concat();
        let figures = parse(&bytes);
        assert_eq!(figures.iter().flatten().count(), 2);
        assert_eq!((figures[0], figures[4]), (Some(u64::MAX), Some(1 << 30)));
        assert_eq!(parse(&[]), Figures::default());
    }

    #[test]
    fn what_was_never_told_is_not_a_zero() {
        let statistics = Statistics::default();
        assert_eq!(statistics.value(), json!({"period": 0}));
        statistics.take(&entry(5, 77));
        let value = statistics.value();
        assert_eq!(value["figures"], json!({"available": 77}));
        assert!(value["last_update"].as_u64() > Some(1_500_000_000));
    }
}
