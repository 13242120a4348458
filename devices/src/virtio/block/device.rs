//! The front-end: what the driver sees of the disk, and how serving begins.

use super::config::{self, WRITEBACK, feature};
use super::request::{Limits, SECTOR};
use super::serve::{self, Disk};
use super::state::{self, BlkState};
use super::stats::Stats;
use super::throttle::Throttle;
use crate::device::DeviceError;
use crate::registry::Context;
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice, read_config};
use crate::virtio::iothreads::Iothreads;
use crate::virtio::queue::Virtqueue;
use crate::virtio::worker::Worker;
use images::Image;
use images::exec::{Engine, Executor};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vmm_api::spec::{BlkSpec, DetectZeroes, DiscardMode, IoEngine, IoLimits};

/// A disk.
pub(super) struct Block {
    info: DeviceInfo,
    spec: BlkSpec,
    capacity: u64,
    disk: Arc<Disk>,
    iothreads: Arc<Iothreads>,
    /// Started with the first queue; queue N belongs to number N of them, over and over.
    workers: Mutex<Vec<Arc<Worker>>>,
    /// What is served, to be told of other limits.
    queues: Mutex<Vec<Weak<Virtqueue>>>,
}

impl Block {
    /// A disk on an image that is opened and not active yet.
    pub(super) fn new(id: &str, spec: &BlkSpec, image: Image, context: &Context) -> Self {
        let capacity = capacity(&image);
        let limits = Limits {
            capacity,
            read_only: spec.read_only,
            discard: spec.discard == DiscardMode::Unmap,
        };
        Self {
            info: DeviceInfo {
                device_id: 2,
                class: 0x01_0000,
                features: config::features(spec),
                queue_sizes: vec![spec.queue_size; usize::from(spec.queues)],
            },
            capacity,
            disk: Arc::new(Disk {
                id: id.into(),
                path: spec.image.path.clone(),
                image,
                limits,
                serial: spec.serial.clone().unwrap_or_default(),
                error_policy: spec.error_policy,
                rerror_policy: spec.rerror_policy,
                merge_writes: spec.detect_zeroes == DetectZeroes::Off,
                write_through: !config::writeback(spec.cache),
                writeback: AtomicBool::new(config::writeback(spec.cache)),
                requests: Arc::clone(&context.requests),
                stats: Stats::default(),
                throttle: Throttle::new(&spec.limits),
            }),
            spec: spec.clone(),
            iothreads: Arc::clone(&context.iothreads),
            workers: Mutex::default(),
            queues: Mutex::default(),
        }
    }

    /// Takes what the guest chose before it was saved.
    pub(super) fn restore(&self, state: &BlkState) {
        self.disk.set_writeback(state.writeback);
    }

    /// Starts the iothreads that the spec names: they are there before the guest runs, for whoever
    /// pins them. A thread of the disk alone waits until the guest turns a queue on.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub(super) fn start_iothreads(&self) -> io::Result<()> {
        if !self.spec.iothreads.is_empty() {
            let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            *workers = self.start_workers()?;
        }
        Ok(())
    }

    /// The iothreads that the spec names, else a thread for this disk alone.
    fn start_workers(&self) -> io::Result<Vec<Arc<Worker>>> {
        let engine = self.engine();
        if self.spec.iothreads.is_empty() {
            return Ok(vec![Arc::new(Worker::start(&self.disk.id, engine)?)]);
        }
        let ids = self.spec.iothreads.iter();
        ids.map(|id| self.iothreads.get(*id, engine)).collect()
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Weak<Virtqueue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine(&self) -> Engine {
        match self.spec.io {
            IoEngine::Auto => Engine::Auto,
            IoEngine::IoUring => Engine::IoUring,
            IoEngine::Threads => Engine::Threads,
        }
    }
}

/// Bytes that the guest can use of an image.
pub(super) fn capacity(image: &Image) -> u64 {
    image.virtual_size() / SECTOR * SECTOR
}

impl VirtioDevice for Block {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let bytes = config::structure(&self.spec, self.capacity, self.disk.writeback());
        read_config(bytes, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        if self.info.features & feature::CONFIG_WCE != 0
            && let (WRITEBACK, [value]) = (offset, data)
        {
            self.disk.set_writeback(*value != 0);
        }
    }

    fn start(&self, features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if workers.is_empty() {
            *workers = self.start_workers()?;
        }
        let mut served = self.queues();
        served.retain(|queue| queue.strong_count() > 0);
        served.extend(queues.iter().map(Arc::downgrade));
        drop(served);
        for queue in queues {
            let number = usize::from(queue.index()) % workers.len().max(1);
            let Some(worker) = workers.get(number) else {
                continue;
            };
            let (queue, disk) = (Arc::clone(queue), Arc::clone(&self.disk));
            worker.run(move || Box::pin(serve::serve(queue, disk, features)));
        }
        Ok(())
    }

    fn reset(&self) {
        self.disk.set_writeback(config::writeback(self.spec.cache));
    }

    fn save(&self) -> Result<Option<Section>, StateError> {
        let state = BlkState {
            capacity: self.capacity,
            writeback: self.disk.writeback(),
        };
        state::section(&self.disk.id, &state).map(Some)
    }

    fn limit(&self, limits: &IoLimits) -> bool {
        self.disk.throttle.set(limits);
        for queue in self.queues().iter().filter_map(Weak::upgrade) {
            queue.kick();
        }
        true
    }

    fn stats(&self) -> serde_json::Value {
        self.disk.stats.value()
    }

    /// Uses an executor of its own for the moment: the worker may not exist yet, and threads make
    /// no ring.
    fn set_active(&self, active: bool) -> Result<(), DeviceError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DeviceError {
            id: self.disk.id.clone(),
            what: if active {
                "taking possession of its image"
            } else {
                "giving its image up"
            }
            .into(),
            source,
        };
        let executor = Executor::new(Engine::Threads).map_err(|error| failed(error.into()))?;
        let image = &self.disk.image;
        let result = if active {
            executor.block_on(image.activate())
        } else {
            executor.block_on(image.inactivate())
        };
        result.map_err(|error| failed(error.into()))
    }
}
