//! Copying the content of one image into another, sparse and if wanted compressed.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::exec::{self, Workers};
use crate::format::qcow2::compress::pack;
use crate::format::qcow2::header::Compression;
use crate::image::Image;
use crate::node::Kind;
use crate::ops::map::{MapEntry, status};
use crate::storage::{IoBuf, lend, slice};

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct ConvertOptions {
    /// Compress the target's clusters; only for qcow2.
    pub compress: bool,
    /// Requests in flight.
    pub depth: usize,
    /// Threads that compress; 0 means one per processor.
    pub threads: usize,
    /// Zeroes of at least so many bytes become holes; 0 writes them.
    pub sparse: u64,
    /// The target reads as zeroes: it is new.
    pub target_is_zero: bool,
    /// What cannot be read of the source becomes zero, instead of ending the copy.
    pub salvage: bool,
    /// The copy begins so many bytes into the source.
    pub skip: u64,
    /// Bytes that are copied at most.
    pub limit: u64,
    /// Bytes per second that are written at most; 0 means no limit.
    pub rate: u64,
    /// The copy begins so many bytes into the target.
    pub at: u64,
    /// Lets the kernel copy from file to file, where what is copied is one: between layers without
    /// compression and raw images. Zeroes that the source has as data stay data.
    pub offload: bool,
    /// Shares space between raw images where the file system can. What is shared is not looked at: no
    /// zeroes are found in it, and nothing is salvaged.
    pub share: bool,
}

impl Default for ConvertOptions {
    fn default() -> ConvertOptions {
        ConvertOptions {
            compress: false,
            depth: 8,
            threads: 0,
            sparse: 4096,
            target_is_zero: true,
            salvage: false,
            skip: 0,
            limit: u64::MAX,
            rate: 0,
            at: 0,
            offload: false,
            share: true,
        }
    }
}

/// Bytes of one step without compression. Small enough that what was read is still in the
/// processor's cache when it is written.
const STEP: u64 = 256 << 10;

impl ConvertOptions {
    /// Bytes that are copied of a source.
    fn total(&self, source: &Image) -> u64 {
        let rest = source.virtual_size().saturating_sub(self.skip);
        rest.min(self.limit)
    }
}

/// The unit in which a damaged source is read.
const SECTOR: u64 = 512;

/// What the streams of requests share.
struct Copy {
    source: Arc<Image>,
    target: Arc<Image>,
    options: ConvertOptions,
    unit: u64,
    next: Cell<u64>,
    done: Cell<u64>,
    running: Cell<usize>,
    error: RefCell<Option<Error>>,
    waiter: RefCell<Option<Waker>>,
    packers: Option<Packers>,
    begin: Instant,
    /// Bytes that were counted against the rate.
    paced: Cell<u64>,
    /// The file systems did not refuse to share space so far.
    may_share: Cell<bool>,
}

/// Copies an active image into an active, writable one that is at least as large. `progress` gets
/// bytes done and in total.
///
/// # Errors
/// A target that is too small, a failed read or write.
pub async fn convert(
    source: &Arc<Image>,
    target: &Arc<Image>,
    options: &ConvertOptions,
    progress: &dyn Fn(u64, u64),
) -> Result<()> {
    let total = options.total(source);
    if target.virtual_size().saturating_sub(options.at) < total {
        return Err(Error::invalid(format!(
            "the target has {} bytes from {} on, what is copied {total}",
            target.virtual_size().saturating_sub(options.at),
            options.at
        )));
    }
    let cluster = target.cluster_size();
    let (unit, packers) = match (options.compress, cluster) {
        (false, _) => (STEP, None),
        (true, Some((cluster, kind))) => {
            if !options.at.is_multiple_of(cluster) {
                return Err(Error::invalid(format!(
                    "compressed clusters cannot begin at {}: sources that are put together end \
                     with a whole cluster ({cluster} bytes)",
                    options.at
                )));
            }
            let workers = Workers::new(options.threads)?;
            (cluster, Some(Packers { kind, workers }))
        }
        (true, None) => {
            return Err(Error::unsupported(
                "compression of raw images",
                "a raw image has no compressed clusters",
            ));
        }
    };
    let copy = Rc::new(Copy {
        source: source.clone(),
        target: target.clone(),
        options: *options,
        unit,
        next: Cell::new(0),
        done: Cell::new(0),
        running: Cell::new(0),
        error: RefCell::default(),
        waiter: RefCell::default(),
        packers,
        begin: Instant::now(),
        paced: Cell::new(0),
        may_share: Cell::new(options.share && !options.compress && options.rate == 0),
    });
    source.unpack_on_threads();
    for _ in 0..options.depth.clamp(1, 256) {
        copy.running.set(copy.running.get() + 1);
        let copy = copy.clone();
        exec::spawn_local(async move {
            if let Err(e) = copy.stream().await {
                copy.error.borrow_mut().get_or_insert(e);
            }
            copy.running.set(copy.running.get() - 1);
            copy.wake();
        })
        .map_err(|e| Error::new(ErrorKind::NoExecutor, e.to_string()))?;
    }
    std::future::poll_fn(|cx| {
        progress(copy.done.get(), total);
        if copy.running.get() == 0 {
            return std::task::Poll::Ready(());
        }
        *copy.waiter.borrow_mut() = Some(cx.waker().clone());
        std::task::Poll::Pending
    })
    .await;
    let error = copy.error.borrow_mut().take();
    match error {
        Some(e) => Err(e),
        None => target.flush().await,
    }
}

impl Copy {
    fn wake(&self) {
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }

    async fn stream(&self) -> Result<()> {
        let total = self.options.total(&self.source);
        let mut buf = IoBuf::zeroed(self.unit as usize);
        while self.error.borrow().is_none() {
            let at = self.next.get();
            if at >= total {
                break;
            }
            let len = self.unit.min(total - at);
            self.next.set(at + len);
            buf = self.step(at, len, buf).await?;
            self.done.set(self.done.get() + len);
            self.wake();
        }
        Ok(())
    }

    /// Copies one step: what the source's metadata calls zero is not read.
    async fn step(&self, from: u64, len: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let end = from + len;
        if self.packers.is_some() {
            return self.step_packed(from, len, buf).await;
        }
        let mut at = from;
        while at < end {
            let entry = status(&self.source.chain(), self.options.skip + at, end - at).await?;
            let n = entry.length.clamp(1, end - at);
            if entry.zero {
                self.zeroes(at, n).await?;
            } else if let moved @ 1.. = self.without_reading(&entry, at, n).await? {
                at += moved;
                continue;
            } else {
                buf = self.read(at, n, buf).await?;
                buf = self.data(at, n, buf).await?;
            }
            at += n;
        }
        Ok(buf)
    }

    /// Gets data into a raw target without reading it: by sharing its space, or in the kernel. How
    /// much; 0 where that is not possible.
    async fn without_reading(&self, entry: &MapEntry, at: u64, len: u64) -> Result<u64> {
        if !self.may_share.get() && !self.options.offload {
            return Ok(0);
        }
        let (source, target) = (self.source.chain(), self.target.chain());
        let from = match (source.get(entry.depth).map(|node| &node.kind), entry.offset) {
            (Some(Kind::Raw(raw)), Some(at)) => (&raw.storage, at),
            (Some(Kind::Qcow2(image)), Some(at)) => (image.data_storage(), at),
            _ => return Ok(0),
        };
        let Some(Kind::Raw(to)) = target.first().map(|node| &node.kind) else {
            return Ok(0);
        };
        let _inside = self.target.requests().enter().await?;
        let at = self.options.at + at;
        if self.may_share.get() {
            let shared = to.storage.take_range(at, from, len, false);
            if shared > 0 {
                return Ok(shared);
            }
            self.may_share.set(false);
        }
        if !self.options.offload {
            return Ok(0);
        }
        self.pace(len).await;
        Ok(to.storage.take_range(at, from, len, true))
    }

    /// Reads into the beginning of a buffer. With `salvage`, what cannot be read is zero.
    async fn read(&self, at: u64, len: u64, buf: IoBuf) -> Result<IoBuf> {
        let from = self.options.skip + at;
        let piece = async |bufs: &[_]| self.source.read(from, &slice(bufs, 0, len)).await;
        match lend(buf, piece).await {
            Err(error) if self.options.salvage => {
                tracing::warn!(%error, at, len, "what cannot be read becomes zero");
                self.salvage(at, len).await
            }
            result => result,
        }
    }

    /// Reads sector by sector what can be read.
    async fn salvage(&self, at: u64, len: u64) -> Result<IoBuf> {
        let mut whole = IoBuf::zeroed(self.unit as usize);
        let from = self.options.skip + at;
        let mut done = 0;
        while done < len {
            let n = SECTOR.min(len - done);
            if let Ok(bytes) = self.source.read_bytes(from + done, n as usize).await
                && let Some(target) = whole.get_mut(done as usize..(done + n) as usize)
            {
                target.copy_from_slice(&bytes);
            }
            done += n;
        }
        Ok(whole)
    }

    async fn zeroes(&self, at: u64, len: u64) -> Result<()> {
        if self.options.target_is_zero {
            return Ok(());
        }
        self.target
            .write_zeroes(self.options.at + at, len, true)
            .await
    }

    /// Writes what was read, without its longer runs of zeroes.
    async fn data(&self, at: u64, len: u64, bytes: IoBuf) -> Result<IoBuf> {
        let sparse = self.options.sparse as usize;
        let found = match sparse {
            0 => vec![(false, len as usize)],
            _ => runs(bytes.get(..len as usize).unwrap_or_default(), sparse),
        };
        let mut offset = 0u64;
        let mut buf = bytes;
        for (zero, len) in found {
            let here = at + offset;
            if zero {
                self.zeroes(here, len as u64).await?;
            } else {
                self.pace(len as u64).await;
                buf = lend(buf, async |bufs| {
                    let part = slice(bufs, offset, len as u64);
                    self.target.write(self.options.at + here, &part).await
                })
                .await?;
            }
            offset += len as u64;
        }
        Ok(buf)
    }

    async fn step_packed(&self, at: u64, len: u64, buf: IoBuf) -> Result<IoBuf> {
        let entry = status(&self.source.chain(), self.options.skip + at, len).await?;
        if entry.zero && entry.length >= len {
            self.zeroes(at, len).await?;
            return Ok(buf);
        }
        let mut whole = self.read(at, len, buf).await?;
        // The last cluster of the disk is packed as a whole.
        if let Some(rest) = whole.get_mut(len as usize..) {
            rest.fill(0);
        }
        if is_zero(&whole) {
            self.zeroes(at, len).await?;
            return Ok(whole);
        }
        let Some(packers) = &self.packers else {
            return Ok(whole);
        };
        self.pace(len).await;
        let (whole, packed) = packers.pack(whole).await?;
        match packed {
            Some(packed) => {
                self.target
                    .write_compressed(self.options.at + at, &packed)
                    .await?;
                Ok(whole)
            }
            None => {
                let to = self.options.at + at;
                let piece = async |bufs: &[_]| self.target.write(to, &slice(bufs, 0, len)).await;
                lend(whole, piece).await
            }
        }
    }

    /// Waits until so many bytes more may be written at the rate that is wanted.
    async fn pace(&self, len: u64) {
        if self.options.rate == 0 {
            return;
        }
        let paced = self.paced.get().saturating_add(len);
        self.paced.set(paced);
        let due = Duration::from_secs_f64(paced as f64 / self.options.rate as f64);
        exec::sleep(due.saturating_sub(self.begin.elapsed())).await;
    }
}

/// Runs of zeroes and of data, in pieces of `sparse` bytes: (zero, length).
fn runs(bytes: &[u8], sparse: usize) -> Vec<(bool, usize)> {
    let mut runs: Vec<(bool, usize)> = Vec::new();
    for piece in bytes.chunks(sparse) {
        let zero = is_zero(piece);
        match runs.last_mut() {
            Some((last, len)) if *last == zero => *len += piece.len(),
            _ => runs.push((zero, piece.len())),
        }
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen bytes at a time; the compiler makes more of it.
    let (head, middle) = bytes.as_chunks::<16>();
    head.iter().all(|c| u128::from_ne_bytes(*c) == 0) && middle.iter().all(|&b| b == 0)
}

thread_local! {
    /// What packing needs beside the data, used again for every cluster of the copy that the thread
    /// works for.
    static PACKER: RefCell<Option<pack::Packer>> = const { RefCell::new(None) };
}

/// Threads that compress, for one copy.
struct Packers {
    kind: Compression,
    workers: Workers,
}

impl Packers {
    /// The cluster back, and packed; None if packing does not make it smaller.
    async fn pack(&self, bytes: IoBuf) -> Result<(IoBuf, Option<Vec<u8>>)> {
        let kind = self.kind;
        let work = move || {
            let packed = PACKER.with_borrow_mut(|packer| {
                packer
                    .get_or_insert_with(|| pack::Packer::new(kind))
                    .pack(&bytes)
            });
            (bytes, packed)
        };
        self.workers.run(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_runs_are_found_in_pieces() {
        let mut bytes = vec![0u8; 20];
        bytes[9] = 1;
        assert_eq!(runs(&bytes, 4), [(true, 8), (false, 4), (true, 8)]);
        assert_eq!(runs(&bytes[..9], 4), [(true, 9)]);
        assert!(runs(&[], 4).is_empty());
    }
}
