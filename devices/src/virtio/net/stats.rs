//! Counters of one card, from the host's point of view as in libvirt: `rx` is what the guest gets.

use crate::virtio::histogram::Histogram;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters of one direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    frames: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
    bursts: AtomicU64,
    nanoseconds: AtomicU64,
    latencies: Histogram,
}

impl Direction {
    /// Frames of `bytes` bytes together, headers apart, went through.
    pub(super) fn passed(&self, frames: usize, bytes: usize) {
        self.frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Frames were refused by the kernel, or were none.
    pub(super) fn failed(&self, frames: usize) {
        self.errors.fetch_add(frames as u64, Ordering::Relaxed);
    }

    /// Frames were thrown away.
    pub(super) fn dropped(&self, frames: usize) {
        self.dropped.fetch_add(frames as u64, Ordering::Relaxed);
    }

    /// A burst of frames took this long, from the first that was taken to the moment when the
    /// driver was shown all of them.
    pub(super) fn burst(&self, time: Duration) {
        self.bursts.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.latencies.add(time);
    }

    fn value(&self) -> Value {
        json!({
            "packets": self.frames.load(Ordering::Relaxed),
            "bytes": self.bytes.load(Ordering::Relaxed),
            "errors": self.errors.load(Ordering::Relaxed),
            "dropped": self.dropped.load(Ordering::Relaxed),
            "bursts": self.bursts.load(Ordering::Relaxed),
            "total_ns": self.nanoseconds.load(Ordering::Relaxed),
            "latency_log2_us": self.latencies.value(),
        })
    }
}

/// All counters of a card.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) rx: Direction,
    pub(super) tx: Direction,
}

impl Stats {
    /// Everything, by name.
    pub(super) fn value(&self) -> Value {
        json!({ "rx": self.rx.value(), "tx": self.tx.value() })
    }
}
