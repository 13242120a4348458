//! Measuring an image: a number of equal requests, many in flight, as `qemu-img bench` does it.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::exec;
use crate::image::Image;
use crate::storage::IoBuf;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct BenchOptions {
    /// Write instead of read.
    pub write: bool,
    /// Requests in total.
    pub count: u64,
    /// Requests in flight.
    pub depth: u64,
    /// Bytes of a request.
    pub size: u64,
    /// Distance from one request to the next; 0 means `size`.
    pub step: u64,
    /// Where the first request is.
    pub offset: u64,
    /// Flush after so many requests; 0 means never.
    pub flush_interval: u64,
    /// The byte that is written.
    pub pattern: u8,
}

impl Default for BenchOptions {
    fn default() -> BenchOptions {
        BenchOptions {
            write: false,
            count: 75000,
            depth: 64,
            size: 4096,
            step: 0,
            offset: 0,
            flush_interval: 0,
            pattern: 0,
        }
    }
}

/// What the requests share.
struct Run {
    image: Arc<Image>,
    options: BenchOptions,
    /// The number of the next request; queues on other threads take from it too.
    next: Arc<AtomicU64>,
    running: Cell<u64>,
    error: RefCell<Option<Error>>,
}

/// Sends the requests to an active image; how long it took.
///
/// # Errors
/// The first request that failed; a request that is larger than the image.
pub async fn bench(image: &Arc<Image>, options: &BenchOptions) -> Result<Duration> {
    bench_queue(image, options, &Arc::default()).await
}

/// As [`bench`], for one of several queues on the same image, each on a thread and an executor of its
/// own: they share the requests by the number of the `next` one, and each has `depth` in flight.
///
/// # Errors
/// As [`bench`].
pub async fn bench_queue(
    image: &Arc<Image>,
    options: &BenchOptions,
    next: &Arc<AtomicU64>,
) -> Result<Duration> {
    if options.size == 0 || options.size > image.virtual_size() {
        return Err(Error::invalid(
            "the requests are empty, or larger than the image",
        ));
    }
    let run = Rc::new(Run {
        image: image.clone(),
        options: *options,
        next: next.clone(),
        running: Cell::new(0),
        error: RefCell::new(None),
    });
    let begin = Instant::now();
    let waiter: Rc<RefCell<Option<std::task::Waker>>> = Rc::default();
    for _ in 0..options.depth.clamp(1, 1024) {
        run.running.set(run.running.get() + 1);
        let (run, waiter) = (run.clone(), waiter.clone());
        exec::spawn_local(async move {
            let buf = IoBuf::from(vec![run.options.pattern; run.options.size as usize].as_slice());
            if let Err(e) = run.work(buf).await {
                run.error.borrow_mut().get_or_insert(e);
            }
            run.running.set(run.running.get() - 1);
            if let Some(waker) = waiter.borrow_mut().take() {
                waker.wake();
            }
        })
        .map_err(|e| Error::io("bench", &e))?;
    }
    std::future::poll_fn(|cx| {
        if run.running.get() == 0 {
            return std::task::Poll::Ready(());
        }
        *waiter.borrow_mut() = Some(cx.waker().clone());
        std::task::Poll::Pending
    })
    .await;
    match run.error.borrow_mut().take() {
        Some(e) => Err(e),
        None => Ok(begin.elapsed()),
    }
}

impl Run {
    /// One of the `depth` streams of requests.
    async fn work(&self, mut buf: IoBuf) -> Result<()> {
        let o = &self.options;
        let step = if o.step == 0 { o.size } else { o.step };
        // As qemu-img counts, so that both visit the same places.
        let room = (self.image.virtual_size() - o.size).max(1);
        while self.error.borrow().is_none() {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= o.count {
                break;
            }
            let at = o.offset.saturating_add(n.wrapping_mul(step)) % room;
            buf = if o.write {
                self.image.write_again(at, buf).await?
            } else {
                self.image.read_again(at, buf).await?
            };
            if o.flush_interval > 0 && (n + 1).is_multiple_of(o.flush_interval) {
                self.image.flush().await?;
            }
        }
        Ok(())
    }
}
