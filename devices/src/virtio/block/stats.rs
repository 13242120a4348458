//! Counters of one disk, kept by its worker and read by anybody.

use crate::virtio::histogram::Histogram;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which counters a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// Counters of one kind of request.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    latencies: Histogram,
}

/// All counters of a disk.
#[derive(Debug, Default)]
pub(super) struct Stats {
    read: Counters,
    write: Counters,
    flush: Counters,
    discard: Counters,
    write_zeroes: Counters,
    /// Requests that made no sense.
    malformed: AtomicU64,
    /// Requests that were parked.
    parked: AtomicU64,
    /// Requests that were done together with the one before.
    merged: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Counters {
    fn value(&self) -> Value {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "requests": get(&self.requests),
            "bytes": get(&self.bytes),
            "errors": get(&self.errors),
            "total_ns": get(&self.nanoseconds),
            "latency_log2_us": self.latencies.value(),
        })
    }
}

impl Stats {
    fn counters(&self, kind: Kind) -> &Counters {
        match kind {
            Kind::Read => &self.read,
            Kind::Write => &self.write,
            Kind::Flush => &self.flush,
            Kind::Discard => &self.discard,
            Kind::WriteZeroes => &self.write_zeroes,
        }
    }

    /// A request that was carried out.
    pub(super) fn done(&self, kind: Kind, bytes: u64, latency: Duration) {
        let counters = self.counters(kind);
        add(&counters.requests, 1);
        add(&counters.bytes, bytes);
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        add(&counters.nanoseconds, nanoseconds);
        counters.latencies.add(latency);
    }

    /// A request whose error the guest was told.
    pub(super) fn failed(&self, kind: Kind) {
        add(&self.counters(kind).errors, 1);
    }

    /// A request that made no sense.
    pub(super) fn malformed(&self) {
        add(&self.malformed, 1);
    }

    /// A request that waits for a resume.
    pub(super) fn parked(&self) {
        add(&self.parked, 1);
    }

    /// So many requests went along with another.
    pub(super) fn merged(&self, count: usize) {
        add(&self.merged, count as u64);
    }

    /// Everything, by name.
    pub(super) fn value(&self) -> Value {
        json!({
            "read": self.read.value(),
            "write": self.write.value(),
            "flush": self.flush.value(),
            "discard": self.discard.value(),
            "write_zeroes": self.write_zeroes.value(),
            "malformed": self.malformed.load(Ordering::Relaxed),
            "parked": self.parked.load(Ordering::Relaxed),
            "merged": self.merged.load(Ordering::Relaxed),
        })
    }
}
