//! From a chain to its status byte: hops two to six of a request's life.

use super::config::feature;
use super::policy::{self, Action};
use super::request::{self, HEADER, ID_LENGTH, Limits, Operation, Shape, status};
use super::stats::{Kind, Stats};
use crate::host::MachineRequests;
use crate::virtio::queue::{Element, Virtqueue};
use images::Image;
use images::error::Result;
use images::exec::{Watch, Watched, spawn_local};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vmm_api::spec::ErrorPolicy;

/// What outlives the driver: the image, what may be done with it, and counters.
pub(super) struct Disk {
    pub(super) id: String,
    pub(super) path: String,
    pub(super) image: Image,
    pub(super) limits: Limits,
    pub(super) serial: String,
    pub(super) error_policy: ErrorPolicy,
    pub(super) rerror_policy: ErrorPolicy,
    /// The cache mode flushes every write below us.
    pub(super) write_through: bool,
    /// What the guest chose: writes may stay in a cache until flushed.
    pub(super) writeback: AtomicBool,
    pub(super) requests: Arc<dyn MachineRequests>,
    pub(super) stats: Stats,
}

/// How a request ended.
struct Answer {
    status: u8,
    /// Bytes of the guest's that were filled, the status byte apart.
    filled: u64,
}

impl Answer {
    fn ok(filled: u64) -> Self {
        Self {
            status: status::OK,
            filled,
        }
    }

    fn error(status: u8) -> Self {
        Self { status, filled: 0 }
    }
}

/// Serves one queue until it is stopped. Each request is a task of its own.
pub(super) async fn serve(queue: Arc<Virtqueue>, disk: Arc<Disk>, features: u64) {
    let mut watch = Watch::new(Arc::clone(&queue) as Arc<dyn Watched>);
    loop {
        while let Some(element) = queue.next_now() {
            let task = handle(element, Arc::clone(&disk), features);
            if let Err(error) = spawn_local(task) {
                tracing::error!(id = disk.id, %error, "a request was parked");
            }
        }
        if !queue.wait(&mut watch).await {
            return;
        }
    }
}

/// One request from parsing to its used entry.
async fn handle(element: Element, disk: Arc<Disk>, features: u64) {
    let shape = Shape {
        readable: element.readable_len(),
        writable: element.writable_len(),
    };
    let Some(status_at) = shape.writable.checked_sub(1) else {
        // There is no place to complain in.
        disk.stats.malformed();
        return element.complete(0);
    };
    let answer = match parse(&element, shape, disk.limits) {
        Ok(operation) => match disk.carry_out(&element, &operation, features).await {
            Some(answer) => answer,
            None => return element.park(),
        },
        Err(refusal) => {
            disk.stats.malformed();
            Answer::error(refusal.status())
        }
    };
    element.write_at(status_at, &[answer.status]);
    // What was filled is contiguous from the start; the status byte counts when nothing lies
    // between (virtio 1.3 §2.7.8).
    let written = if answer.filled == status_at {
        shape.writable
    } else {
        answer.filled
    };
    element.complete(u32::try_from(written).unwrap_or(u32::MAX));
}

/// Reads header and ranges, and parses them.
fn parse(
    element: &Element,
    shape: Shape,
    limits: Limits,
) -> std::result::Result<Operation, request::Refusal> {
    let mut bytes = [0; HEADER + request::MAX_SEGMENTS * request::SEGMENT];
    let wanted = HEADER + request::segment_bytes(shape);
    let got = bytes
        .get_mut(..wanted)
        .map_or(0, |bytes| element.read_at(0, bytes));
    request::parse(bytes.get(..got).unwrap_or_default(), shape, limits)
}

/// The counters of an operation and the bytes it moves; `None` for what the image never sees.
fn class(operation: &Operation) -> Option<(Kind, u64)> {
    let total = |ranges: &[request::Range]| ranges.iter().map(|range| range.len).sum();
    Some(match operation {
        Operation::Read { len, .. } => (Kind::Read, *len),
        Operation::Write { len, .. } => (Kind::Write, *len),
        Operation::Flush => (Kind::Flush, 0),
        Operation::GetId => return None,
        Operation::Discard(ranges) => (Kind::Discard, total(ranges)),
        Operation::WriteZeroes(ranges) => (Kind::WriteZeroes, total(ranges)),
    })
}

impl Disk {
    pub(super) fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Acquire)
    }

    pub(super) fn set_writeback(&self, writeback: bool) {
        self.writeback.store(writeback, Ordering::Release);
    }

    /// Does it; `None` when the request has to wait for a resume.
    async fn carry_out(
        &self,
        element: &Element,
        operation: &Operation,
        features: u64,
    ) -> Option<Answer> {
        let Some((kind, bytes)) = class(operation) else {
            return Some(Answer::ok(self.write_id(element)));
        };
        let started = Instant::now();
        let result = self.perform(element, operation, features).await;
        let filled = if kind == Kind::Read { bytes } else { 0 };
        let Err(error) = result else {
            self.stats.done(kind, bytes, started.elapsed());
            return Some(Answer::ok(filled));
        };
        let policy = match kind {
            Kind::Read => self.rerror_policy,
            _ => self.error_policy,
        };
        match policy::action(policy, error.kind()) {
            Action::Pause => {
                self.stats.parked();
                let detail = format!("{}: {error}", self.path);
                self.requests.io_error(&self.id, &detail);
                None
            }
            Action::Report => {
                self.stats.failed(kind);
                Some(Answer::error(status::IOERR))
            }
            Action::Ignore => {
                self.stats.failed(kind);
                Some(Answer::ok(filled))
            }
        }
    }

    /// Hands it to the image.
    async fn perform(&self, element: &Element, operation: &Operation, features: u64) -> Result<()> {
        let image = &self.image;
        match operation {
            Operation::Read { offset, len } => {
                return element
                    .with_writable(0, *len, async |bytes| image.read(*offset, bytes).await)
                    .await;
            }
            Operation::Write { offset, len } => {
                element
                    .with_readable(HEADER as u64, *len, async |bytes| {
                        image.write(*offset, bytes).await
                    })
                    .await?;
            }
            Operation::Discard(ranges) => {
                for range in ranges {
                    image.discard(range.offset, range.len).await?;
                }
            }
            Operation::WriteZeroes(ranges) => {
                for range in ranges {
                    image
                        .write_zeroes(range.offset, range.len, range.unmap)
                        .await?;
                }
            }
            Operation::Flush => return image.flush().await,
            Operation::GetId => return Ok(()),
        }
        // virtio 1.3 §5.2.6.2: without a negotiated flush, or when the driver chose so, a change
        // is durable before it is reported.
        let durable = features & feature::FLUSH == 0 || !self.writeback();
        if durable && !self.write_through {
            image.flush().await?;
        }
        Ok(())
    }

    /// Writes the serial, padded with zeroes; how many bytes.
    fn write_id(&self, element: &Element) -> u64 {
        let mut id = [0; ID_LENGTH];
        for (target, byte) in id.iter_mut().zip(self.serial.bytes()) {
            *target = byte;
        }
        let room = element.writable_len().saturating_sub(1);
        let take = usize::try_from(room).unwrap_or(ID_LENGTH).min(ID_LENGTH);
        element.write_at(0, id.get(..take).unwrap_or_default()) as u64
    }
}
