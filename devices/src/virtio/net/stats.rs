//! Counters of one card, from the host's point of view as in libvirt: `rx` is what the guest gets.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    frames: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
}

impl Direction {
    /// A frame of `bytes` bytes, header apart, went through.
    pub(super) fn passed(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A frame was refused by the kernel, or was none.
    pub(super) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame was thrown away.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> Value {
        json!({
            "packets": self.frames.load(Ordering::Relaxed),
            "bytes": self.bytes.load(Ordering::Relaxed),
            "errors": self.errors.load(Ordering::Relaxed),
            "dropped": self.dropped.load(Ordering::Relaxed),
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
