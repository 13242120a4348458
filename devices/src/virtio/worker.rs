//! One thread with one executor that serves a set of queues.
//!
//! It is started when the first queue is turned on, an iothread with its first disk, sleeps in the kernel while there is nothing to
//! do, and ends when its owner drops it. Tasks arrive from other threads as closures that make a
//! future *on* the worker, since futures of the executor never leave their thread.
//!
//! Pausing and stopping need no word with the worker: a queue that is not running gives no requests
//! out, and whoever pauses waits on the queue.

use crate::backend::eventfd;
use images::exec::{Engine, Executor, read_eventfd, spawn_local};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Stack of a worker. Requests live on the heap; the deepest path is image metadata.
const STACK_SIZE: usize = 256 << 10;

/// What a worker runs.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;
type MakeTask = Box<dyn FnOnce() -> Task + Send>;

#[derive(Default)]
struct Inbox {
    tasks: Vec<MakeTask>,
    stop: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    event: EventFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread inherits the processors of whoever starts it: a vCPU, when its guest turned a queue on,
/// whose pin is its own. Pins of the other threads are those of the process's first one.
fn run_where_the_first_thread_does() {
    let first = rustix::process::getpid();
    if let Ok(processors) = rustix::thread::sched_getaffinity(Some(first)) {
        // Then it stays where it is, and works there too.
        let _ = rustix::thread::sched_setaffinity(None, &processors);
    }
}

/// A worker thread. Dropping it drops its tasks, waits for their transfers and joins the thread.
pub struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a worker whose thread is called `name` and whose transfers go through `engine`.
    ///
    /// # Errors
    /// When there is no thread, no descriptor, or not the engine that was asked for.
    pub fn start(name: &str, engine: Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK)?,
        });
        let (ready, started) = mpsc::sync_channel(1);
        let theirs = Arc::clone(&shared);
        let thread = Builder::new()
            .name(name.into())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                run_where_the_first_thread_does();
                match Executor::new(engine) {
                    Ok(executor) => {
                        // The starter waits for this: it cannot be gone.
                        let _ = ready.send(Ok(()));
                        executor.block_on(serve(&theirs));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        let worker = Self {
            shared,
            thread: Some(thread),
        };
        started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the worker ended at once")))?;
        Ok(worker)
    }

    /// Runs the future that `make` makes, on the worker.
    pub fn run(&self, make: impl FnOnce() -> Task + Send + 'static) {
        self.shared.lock().tasks.push(Box::new(make));
        self.ring();
    }

    fn ring(&self) {
        // A full counter means that it rings already.
        let _ = self.shared.event.write(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.ring();
        let Some(thread) = self.thread.take() else {
            return;
        };
        // The last owner may go on the worker itself, which cannot wait for its own end.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
}

/// A bell inside the process: rung from any thread, heard once by the one task that waits. Ringing
/// twice before it is heard is heard once.
#[derive(Debug, Default)]
pub struct Signal(Mutex<(bool, Option<Waker>)>);

impl Signal {
    fn lock(&self) -> MutexGuard<'_, (bool, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings.
    pub fn ring(&self) {
        let waker = {
            let mut state = self.lock();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until it rings, or returns at once when it has since it was last heard.
    pub async fn heard(&self) {
        poll_fn(|context| {
            let mut state = self.lock();
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Which of two futures ended first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First<A, B> {
    /// The first, also when both did.
    A(A),
    /// The second.
    B(B),
}

/// Waits for the first of two futures and drops the other.
pub async fn race<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> First<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|context| {
        if let Poll::Ready(out) = a.as_mut().poll(context) {
            return Poll::Ready(First::A(out));
        }
        b.as_mut().poll(context).map(First::B)
    })
    .await
}

/// Takes tasks until it is told to stop.
async fn serve(shared: &Shared) {
    loop {
        let (tasks, stop) = {
            let mut inbox = shared.lock();
            (std::mem::take(&mut inbox.tasks), inbox.stop)
        };
        if stop {
            return;
        }
        for make in tasks {
            if let Err(error) = spawn_local(make()) {
                tracing::error!(%error, "a task was lost");
            }
        }
        if let Err(error) = read_eventfd(eventfd::borrow(&shared.event)).await {
            tracing::error!(%error, "a worker cannot wait for its inbox");
            return;
        }
    }
}

#[cfg(test)]
mod tests;
