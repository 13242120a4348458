//! Serving entropy.

use super::quota::Quota;
use crate::state::{Section, StateError};
use crate::virtio::device::{DeviceInfo, VirtioDevice};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, Worker, race};
use images::exec::{Engine, readable, sleep, yield_now};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that one request gets at most.
pub(super) const CHUNK: usize = 4096;
/// How long a source that failed or ended is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// What outlives the driver: the source, its rate, counters.
struct Source {
    id: String,
    file: File,
    quota: Mutex<Option<Quota>>,
    bytes: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
}

/// An entropy device.
pub(super) struct Rng {
    info: DeviceInfo,
    source: Arc<Source>,
    /// Started with the first queue.
    worker: Mutex<Option<Worker>>,
}

impl Rng {
    /// An entropy device that reads from the non-blocking `file`.
    pub(super) fn new(id: &str, file: File, quota: Option<Quota>) -> Self {
        Self {
            info: DeviceInfo {
                device_id: 4,
                class: 0x10_0000,
                features: 0,
                queue_sizes: vec![64],
            },
            source: Arc::new(Source {
                id: id.into(),
                file,
                quota: Mutex::new(quota),
                bytes: AtomicU64::new(0),
                requests: AtomicU64::new(0),
                failures: AtomicU64::new(0),
            }),
            worker: Mutex::new(None),
        }
    }
}

impl VirtioDevice for Rng {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    fn start(&self, _features: u64, queues: &[Arc<Virtqueue>]) -> io::Result<()> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = match &mut *worker {
            Some(worker) => worker,
            // Threads: it only waits for descriptors, so no thread is started and no ring made.
            slot => slot.insert(Worker::start(&self.source.id, Engine::Threads)?),
        };
        for queue in queues {
            let (queue, source) = (Arc::clone(queue), Arc::clone(&self.source));
            worker.run(move || Box::pin(serve(queue, source)));
        }
        Ok(())
    }

    fn reset(&self) {}

    fn save(&self) -> Result<Option<Section>, StateError> {
        Ok(None)
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::json!({
            "bytes": self.source.bytes.load(Ordering::Relaxed),
            "requests": self.source.requests.load(Ordering::Relaxed),
            "failures": self.source.failures.load(Ordering::Relaxed),
        })
    }
}

/// Serves one queue until it is stopped.
async fn serve(queue: Arc<Virtqueue>, source: Arc<Source>) {
    loop {
        if queue.has_next() {
            // A dry source is waited for together with the doorbell, which also rings for a stop.
            let allowed = match race(queue.kicked(), source.ready()).await {
                First::A(true) => continue,
                First::A(false) => return,
                First::B(allowed) => allowed,
            };
            if let Some(element) = queue.next()
                && !source.fill(element, allowed)
            {
                source.failed("it has ended or cannot be read").await;
            }
            // A guest that asks without end shares the thread with whoever else is on it.
            yield_now().await;
        } else if !queue.kicked().await {
            return;
        }
    }
}

impl Source {
    /// Waits until bytes may be given; how many.
    async fn ready(&self) -> u64 {
        loop {
            let allowed = match &mut *self.quota.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(quota) => quota.allowed(Instant::now()),
                None => Ok(u64::MAX),
            };
            match allowed {
                Err(wait) => sleep(wait).await,
                Ok(allowed) => match readable(self.file.as_fd()).await {
                    Ok(()) => return allowed,
                    // Some sources cannot be polled and never block.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => return allowed,
                    Err(error) => self.failed(&error.to_string()).await,
                },
            }
        }
    }

    /// Fills a request; false when the source gave nothing.
    fn fill(&self, element: Element, allowed: u64) -> bool {
        let wanted = element.writable_len().min(allowed).min(CHUNK as u64);
        let mut bytes = [0; CHUNK];
        let bytes = bytes.get_mut(..wanted as usize).unwrap_or_default();
        let got = self.read(bytes);
        let written = element.write_at(0, bytes.get(..got).unwrap_or_default());
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(written as u64, Ordering::Relaxed);
        if let Some(quota) = &mut *self.quota.lock().unwrap_or_else(PoisonError::into_inner) {
            quota.give(written as u64);
        }
        element.complete(u32::try_from(written).unwrap_or(0));
        got > 0 || wanted == 0
    }

    /// Reads what there is now.
    fn read(&self, bytes: &mut [u8]) -> usize {
        loop {
            match (&self.file).read(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return 0,
                Ok(got) => return got,
            }
        }
    }

    /// Says once that the source failed, and leaves it alone for a while.
    async fn failed(&self, what: &str) {
        if self.failures.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(id = self.id, what, "the entropy source fails");
        }
        sleep(RETRY).await;
    }
}
