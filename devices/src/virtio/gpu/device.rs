//! The front-end: what the driver sees of the card, and how serving begins.

use super::card::Card;
use super::serve;
use super::state::{self, GpuState};
use crate::backend::display::Screen;
use crate::memory::GuestMemoryHandle;
use crate::registry::Context;
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::queue::Virtqueue;
use crate::virtio::worker::Worker;
use images::exec::Engine;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_api::spec::GpuSpec;

/// Feature bits (virtio 1.3 §5.7.3).
pub(super) mod feature {
    pub(in super::super) const EDID: u64 = 1 << 1;
}

/// Entries of the control queue and of the cursor queue.
pub(super) const SIZES: [u16; 2] = [256, 16];
/// Offset of `events_clear` in the configuration space (virtio 1.3 §5.7.4).
const EVENTS_CLEAR: u64 = 4;
/// Outputs.
const SCANOUTS: u32 = 1;

/// What the queues' tasks and the registers share.
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) memory: GuestMemoryHandle,
    card: Mutex<Card>,
}

impl Shared {
    /// The card. The lock is never held while a queue is called.
    pub(super) fn card(&self) -> MutexGuard<'_, Card> {
        self.card.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A graphics card.
pub(super) struct Gpu {
    info: DeviceInfo,
    shared: Arc<Shared>,
    /// The control queue, by which the driver is told of changes.
    control: Mutex<Option<Arc<Virtqueue>>>,
    /// Started with the first queue.
    worker: Mutex<Option<Worker>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    pub(super) fn new(id: &str, spec: &GpuSpec, context: &Context) -> Self {
        Self {
            info: DeviceInfo {
                device_id: 16,
                class: 0x03_8000,
                features: feature::EDID,
                queue_sizes: SIZES.into(),
            },
            shared: Arc::new(Shared {
                id: id.into(),
                memory: context.memory.clone(),
                card: Mutex::new(Card::new(spec, &context.display)),
            }),
            control: Mutex::new(None),
            worker: Mutex::new(None),
        }
    }

    pub(super) fn restore(&self, saved: GpuState) -> Result<(), String> {
        self.shared.card().restore(saved)
    }
}

impl Screen for Gpu {
    fn wish(&self, width: u32, height: u32) {
        let changed = self.shared.card().wish(width, height);
        let control = lock(&self.control).clone();
        if let Some(control) = control.filter(|_| changed) {
            control.config_changed();
        }
    }
}

impl VirtioDevice for Gpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let events = self.shared.card().events;
        // Events, the register that clears them, outputs, capability sets.
        let numbers = [events, 0, SCANOUTS, 0];
        let bytes = numbers.into_iter().flat_map(u32::to_le_bytes);
        read_config(bytes, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (EVENTS_CLEAR, Some(bytes)) = (offset, data.first_chunk()) {
            self.shared.card().events &= !u32::from_le_bytes(*bytes);
        }
    }

    fn start(&self, _features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut worker = lock(&self.worker);
        let worker = match &mut *worker {
            Some(worker) => worker,
            // Threads: it only waits for doorbells, so no thread is started and no ring made.
            slot => slot.insert(Worker::start(&self.shared.id, Engine::Threads)?),
        };
        for queue in queues {
            let (queue, shared) = (Arc::clone(queue), Arc::clone(&self.shared));
            if queue.index() == 0 {
                *lock(&self.control) = Some(Arc::clone(&queue));
            }
            worker.run(move || Box::pin(serve::serve(queue, shared)));
        }
        Ok(())
    }

    fn reset(&self) {
        *lock(&self.control) = None;
        self.shared.card().reset();
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        let state = self.shared.card().state();
        state::section(&self.shared.id, &state).map(Some)
    }

    fn stats(&self) -> serde_json::Value {
        let card = self.shared.card();
        serde_json::json!({ "bytes": card.used(), "failures": card.failures })
    }
}
