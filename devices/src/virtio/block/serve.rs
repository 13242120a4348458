//! From a chain to its status byte: hops two to six of a request's life.

use super::config::feature;
use super::merge::{self, Job, Span, Way};
use super::policy::{self, Action};
use super::request::{self, HEADER, ID_LENGTH, Limits, Operation, Shape, status};
use super::stats::{Kind, Stats};
use super::throttle::Throttle;
use crate::host::MachineRequests;
use crate::virtio::chain::{self, Chain};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::error::Result;
use images::exec::{Watch, Watched, sleep, spawn_local};
use images::{ErrorKind, Image};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
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
    /// Neighbouring writes may become one: zeroes are not looked for in each of them.
    pub(super) merge_writes: bool,
    /// The cache mode flushes every write below us.
    pub(super) write_through: bool,
    /// What the guest chose: writes may stay in a cache until flushed.
    pub(super) writeback: AtomicBool,
    pub(super) requests: Arc<dyn MachineRequests>,
    pub(super) stats: Stats,
    pub(super) throttle: Throttle,
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

    /// Writes the status byte of `job`; how many bytes the driver is told of.
    fn write(&self, job: &Job) -> u32 {
        write_status(&job.element, job.writable, self)
    }
}

/// Writes a status byte behind what was filled; how many bytes the driver is told of. What was filled
/// is contiguous from the start; the status byte counts when nothing lies between (virtio 1.3
/// §2.7.8). There is at least one writable byte.
fn write_status(element: &Element, writable: u64, answer: &Answer) -> u32 {
    let at = writable.saturating_sub(1);
    element.write_at(at, &[answer.status]);
    let written = if answer.filled == at {
        writable
    } else {
        answer.filled
    };
    u32::try_from(written).unwrap_or(u32::MAX)
}

/// Requests that are taken together, and may be done together.
const BATCH: usize = 64;

/// The longest sleep for a request that is held back; then its limits are asked again.
const LONGEST: Duration = Duration::from_secs(3600);

/// Serves one queue until it is stopped. Each request is a task of its own, or one with its
/// neighbours. While some are held back the doorbell is heard too: it rings for new requests, for
/// other limits ([`Virtqueue::kick`]), for a pause and for the end.
pub(super) async fn serve(queue: Arc<Virtqueue>, disk: Arc<Disk>, features: u64) {
    let mut watch = Watch::new(Arc::clone(&queue) as Arc<dyn Watched>);
    let mut held = VecDeque::new();
    loop {
        let mut jobs = Vec::new();
        let mut taken = 0;
        while taken < BATCH
            && let Some(element) = queue.next_now()
        {
            taken += 1;
            jobs.extend(disk.understand(element));
        }
        let (jobs, wait) = disk.throttle.let_through(&mut held, jobs);
        for run in merge::runs(jobs, disk.merge_writes) {
            let spawned = match run.span {
                Some(span) if run.jobs.len() > 1 => spawn_local(together(
                    run.jobs,
                    span,
                    Arc::clone(&queue),
                    (Arc::clone(&disk), features),
                )),
                _ => run
                    .jobs
                    .into_iter()
                    .try_for_each(|job| spawn_local(alone(job, Arc::clone(&disk), features))),
            };
            if let Err(error) = spawned {
                tracing::error!(id = disk.id, %error, "a request was parked");
            }
        }
        let goes_on = match wait {
            Some(_) if !queue.is_running() => {
                // They are parked, and come again after a resume.
                held.clear();
                true
            }
            Some(wait) => {
                let due = sleep(wait.min(LONGEST));
                race(queue.wait(&mut watch), due).await != First::A(false)
            }
            None => taken > 0 || queue.wait(&mut watch).await,
        };
        if !goes_on {
            return;
        }
    }
}

/// One request to its used entry.
async fn alone(job: Job, disk: Arc<Disk>, features: u64) {
    match disk.carry_out(&job, features).await {
        Some(answer) => {
            let written = answer.write(&job);
            job.element.complete(written);
        }
        None => job.element.park(),
    }
}

/// Neighbours to their used entries, which the driver sees all at once.
async fn together(
    jobs: Vec<Job>,
    span: Span,
    queue: Arc<Virtqueue>,
    (disk, features): (Arc<Disk>, u64),
) {
    if disk.transfer(&jobs, span, features).await.is_err() {
        // One of them may fail for a reason that is not the others'.
        for job in jobs {
            if let Err(error) = spawn_local(alone(job, Arc::clone(&disk), features)) {
                tracing::error!(id = disk.id, %error, "a request was parked");
            }
        }
        return;
    }
    disk.stats.merged(jobs.len() - 1);
    let used = jobs.into_iter().map(|job| {
        let (_, bytes) = job.data();
        let (kind, filled) = match span.way {
            Way::Read => (Kind::Read, bytes),
            Way::Write => (Kind::Write, 0),
        };
        disk.stats.done(kind, bytes, job.taken.elapsed());
        let written = Answer::ok(filled).write(&job);
        (job.element, written)
    });
    queue.complete_all(used.collect());
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

    /// Parses a request; answers it at once when it makes no sense.
    fn understand(&self, element: Element) -> Option<Job> {
        let shape = Shape {
            readable: element.readable_len(),
            writable: element.writable_len(),
        };
        if shape.writable == 0 {
            // There is no place to complain in.
            self.stats.malformed();
            element.complete(0);
            return None;
        }
        match parse(&element, shape, self.limits) {
            Ok(operation) => Some(Job {
                element,
                operation,
                writable: shape.writable,
                taken: Instant::now(),
            }),
            Err(refusal) => {
                self.stats.malformed();
                let answer = Answer::error(refusal.status());
                let written = write_status(&element, shape.writable, &answer);
                element.complete(written);
                None
            }
        }
    }

    /// Moves the bytes of neighbours in one transfer.
    async fn transfer(&self, jobs: &[Job], span: Span, features: u64) -> Result<()> {
        let parts: Vec<(&Chain, u64, u64)> = jobs
            .iter()
            .map(|job| {
                let (offset, len) = job.data();
                (&*job.element, offset, len)
            })
            .collect();
        let image = &self.image;
        match span.way {
            Way::Read => {
                chain::with_all_writable(&parts, async |bytes| image.read(span.offset, bytes).await)
                    .await
            }
            Way::Write => {
                chain::with_all_readable(&parts, async |bytes| {
                    image.write(span.offset, bytes).await
                })
                .await?;
                self.make_durable(features).await
            }
        }
    }

    /// Does it; `None` when the request has to wait for a resume.
    async fn carry_out(&self, job: &Job, features: u64) -> Option<Answer> {
        let (element, operation) = (&job.element, &job.operation);
        let Some((kind, bytes)) = class(operation) else {
            return Some(Answer::ok(self.write_id(element)));
        };
        let result = self.perform(element, operation, features).await;
        let filled = if kind == Kind::Read { bytes } else { 0 };
        let Err(error) = result else {
            self.stats.done(kind, bytes, job.taken.elapsed());
            return Some(Answer::ok(filled));
        };
        if *error.kind() == ErrorKind::Io(Some(libc::EFAULT)) {
            // Guest memory that has gone away is no error of the disk's.
            element.touch();
        }
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
        self.make_durable(features).await
    }

    /// After a change: flushes where the driver may count on it.
    async fn make_durable(&self, features: u64) -> Result<()> {
        // virtio 1.3 §5.2.6.2: without a negotiated flush, or when the driver chose so, a change
        // is durable before it is reported.
        let durable = features & feature::FLUSH == 0 || !self.writeback();
        if durable && !self.write_through {
            self.image.flush().await?;
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
