//! The front-end: what the driver sees of the balloon, and what an operator may change.

use super::serve;
use super::state::{self, BalloonState};
use super::statistics::Statistics;
use crate::backend::ram::{PAGE, Ram};
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::queue::Virtqueue;
use crate::virtio::worker::Worker;
use images::exec::Engine;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vmm_api::spec::BalloonSpec;
use vmm_api::state::Adjustment;

/// Feature bits (virtio 1.3 §5.5.3).
pub(super) mod feature {
    pub(in super::super) const STATISTICS: u64 = 1 << 1;
    pub(in super::super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub(in super::super) const POISON: u64 = 1 << 4;
    pub(in super::super) const REPORTING: u64 = 1 << 5;
}

/// Entries of each queue. Linux reports 32 ranges at a time, and wants room for them.
const QUEUE_SIZE: u16 = 128;
/// Inflate, deflate, statistics, free page hints (never served), reporting.
const QUEUES: usize = 5;

/// What outlives the driver.
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) ram: Ram,
    /// Pages of RAM.
    pages: u32,
    /// Pages that the driver shall give up, and that it says it has.
    target: AtomicU32,
    actual: AtomicU32,
    /// What it fills free pages with, and whether that was agreed on.
    poison: AtomicU32,
    poison_agreed: AtomicBool,
    pub(super) statistics: Statistics,
    pub(super) counters: Counters,
}

/// What happened, since the start of the process.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Pages that the driver gave up, and took back.
    pub(super) inflated: AtomicU64,
    pub(super) deflated: AtomicU64,
    /// Bytes that it reported as free.
    pub(super) reported: AtomicU64,
    /// Bytes that the host got back, of both.
    pub(super) returned: AtomicU64,
    /// Ranges that are no RAM, and that the host would not take.
    pub(super) outside: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// A balloon.
pub(super) struct Balloon {
    info: DeviceInfo,
    shared: Arc<Shared>,
    /// A queue of the driver that is there, to reach the transport by.
    queue: Mutex<Weak<Virtqueue>>,
    /// Started with the first queue.
    worker: Mutex<Option<Worker>>,
}

impl Balloon {
    /// A balloon for `ram`.
    pub(super) fn new(id: &str, spec: &BalloonSpec, ram: Ram) -> Self {
        let mut features = feature::STATISTICS | feature::POISON;
        if spec.autodeflate {
            features |= feature::DEFLATE_ON_OOM;
        }
        if spec.free_page_reporting {
            features |= feature::REPORTING;
        }
        let pages = u32::try_from(ram.size() / PAGE).unwrap_or(u32::MAX);
        let this = Self {
            info: DeviceInfo {
                device_id: 5,
                class: 0xff_0000,
                features,
                queue_sizes: vec![QUEUE_SIZE; QUEUES],
            },
            shared: Arc::new(Shared {
                id: id.into(),
                ram,
                pages,
                target: AtomicU32::new(0),
                actual: AtomicU32::new(0),
                poison: AtomicU32::new(0),
                poison_agreed: AtomicBool::new(false),
                statistics: Statistics::default(),
                counters: Counters::default(),
            }),
            queue: Mutex::default(),
            worker: Mutex::default(),
        };
        let shared = &this.shared;
        shared.statistics.set_period(spec.stats_period);
        shared.statistics.begin();
        let target = spec.target.map_or(0, |bytes| shared.to_give_up(bytes));
        shared.target.store(target, Ordering::Relaxed);
        this
    }

    /// Pages of RAM.
    pub(super) fn pages(&self) -> u32 {
        self.shared.pages
    }

    /// Takes what was saved.
    pub(super) fn restore(&self, state: &BalloonState) {
        let shared = &self.shared;
        shared.target.store(state.target, Ordering::Relaxed);
        shared.actual.store(state.actual, Ordering::Relaxed);
        shared.poison.store(state.poison, Ordering::Relaxed);
        shared.statistics.set_period(state.period);
        shared.statistics.go_on();
    }

    fn queue(&self) -> MutexGuard<'_, Weak<Virtqueue>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Pages to give up for so many bytes to be left.
    fn to_give_up(&self, bytes: u64) -> u32 {
        let left = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.pages.saturating_sub(left)
    }

    /// Whether pages that are free must keep what is in them: the driver relies on it (§5.5.6.5).
    pub(super) fn keeps_free_pages(&self) -> bool {
        self.poison_agreed.load(Ordering::Relaxed) && self.poison.load(Ordering::Relaxed) != 0
    }
}

impl VirtioDevice for Balloon {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let value = |of: &AtomicU32| of.load(Ordering::Relaxed);
        let shared = &self.shared;
        let words = [
            value(&shared.target),
            value(&shared.actual),
            // No free page hints are asked for.
            0,
            value(&shared.poison),
        ];
        let bytes = words.into_iter().flat_map(u32::to_le_bytes);
        read_config(bytes, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let Ok(word) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        let shared = &self.shared;
        match offset {
            // A driver that claims more than there is has given up everything.
            4 => shared
                .actual
                .store(word.min(shared.pages), Ordering::Relaxed),
            12 => shared.poison.store(word, Ordering::Relaxed),
            _ => {}
        }
    }

    fn start(&self, features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let poison = features & feature::POISON != 0;
        self.shared.poison_agreed.store(poison, Ordering::Relaxed);
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            // Threads: it only waits for descriptors, so no thread is started and no ring made.
            slot => slot.insert(Worker::start(&self.shared.id, Engine::Threads)?),
        };
        for queue in queues {
            *self.queue() = Arc::downgrade(queue);
            let (queue, shared) = (Arc::clone(queue), Arc::clone(&self.shared));
            match serve::role(features, queue.index()) {
                Some(role) => worker.run(move || Box::pin(serve::serve(role, queue, shared))),
                None => tracing::debug!(id = self.shared.id, queue = queue.index(), "not served"),
            }
        }
        Ok(())
    }

    fn reset(&self) {
        let shared = &self.shared;
        shared.actual.store(0, Ordering::Relaxed);
        shared.poison.store(0, Ordering::Relaxed);
        shared.statistics.begin();
        *self.queue() = Weak::new();
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        let shared = &self.shared;
        let state = BalloonState {
            target: shared.target.load(Ordering::Relaxed),
            actual: shared.actual.load(Ordering::Relaxed),
            poison: shared.poison.load(Ordering::Relaxed),
            period: shared.statistics.period(),
        };
        state::section(&shared.id, &state).map(Some)
    }

    fn adjust(&self, setting: Adjustment) -> bool {
        match setting {
            Adjustment::StatsPeriod { seconds } => self.shared.statistics.set_period(seconds),
            Adjustment::Memory { bytes } => {
                let target = self.shared.to_give_up(bytes);
                self.shared.target.store(target, Ordering::Relaxed);
                // The lock is free again before the transport is called, which starts and resets us.
                let queue = self.queue().upgrade();
                if let Some(queue) = queue {
                    queue.config_changed();
                }
            }
        }
        true
    }

    fn held_back(&self) -> u64 {
        u64::from(self.shared.actual.load(Ordering::Relaxed)) * PAGE
    }

    /// Bytes of memory: what the guest shall have and has, what went where; and the guest's own
    /// figures, in bytes and events.
    fn stats(&self) -> serde_json::Value {
        let shared = &self.shared;
        let left = |pages: &AtomicU32| {
            let pages = shared.pages.saturating_sub(pages.load(Ordering::Relaxed));
            u64::from(pages) * PAGE
        };
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let counters = &shared.counters;
        serde_json::json!({
            "target": left(&shared.target),
            "actual": left(&shared.actual),
            "inflated_pages": count(&counters.inflated),
            "deflated_pages": count(&counters.deflated),
            "reported_bytes": count(&counters.reported),
            "returned_bytes": count(&counters.returned),
            "outside": count(&counters.outside),
            "refused": count(&counters.refused),
            "statistics": shared.statistics.value(),
        })
    }
}
