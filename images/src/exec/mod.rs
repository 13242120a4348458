//! One thread, one ring, one small executor.
//!
//! An [`Executor`] belongs to the thread that made it. It runs tasks and turns their file
//! operations into io_uring submissions, or into jobs of a thread pool where io_uring is
//! forbidden. It must never free or reuse memory that the kernel may still write to:
//!
//! - an operation that is in flight keeps its descriptor and its iovecs in the executor's table;
//! - dropping the future of an operation that moves bytes cancels it *and waits* until the kernel
//!   has let go of the memory (a blocking wait: dropping requests early is rare);
//! - dropping the executor first drops its tasks, then waits for everything still in flight.
//!
//! A turn of [`Executor::block_on`]:
//!
//! ```text
//!      +--> run ready tasks --> submit what they queued --> anything ready? --yes--+
//!      |                                                        |no               |
//!      |              completion / eventfd / timer  <-- sleep in the kernel       |
//!      +------------------------------+-------------------------------------------+
//! ```
//!
//! Wakers may be used from any thread: a foreign wake is queued and rings the executor's eventfd.
mod busy;
mod op;
mod ring;
mod task;
mod threads;
mod timer;
mod window;
mod workers;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use busy::{Watch, Watched};
pub(crate) use op::{Op, OpKind, Pieces};
use op::{OpFuture, OpTable, Readiness};
use ring::Ring;
use task::{MAIN, Remote, Tasks};
use threads::Pool;
pub(crate) use window::Window;
pub(crate) use workers::Workers;

/// How file operations reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// io_uring if the kernel allows it, threads otherwise.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// A pool of threads that block in system calls.
    Threads,
}

/// Where operations go and completions come from.
enum Driver {
    Ring(Box<Ring>),
    Threads(Pool),
}

impl Driver {
    /// Whether a completion is there to be taken. Threads tell by a wake.
    fn has_news(&mut self) -> bool {
        match self {
            Driver::Ring(ring) => ring.has_news(),
            Driver::Threads(_) => false,
        }
    }
}

/// A finished operation: its key in the table, and the result as the kernel gives it
/// (a count, or a negative errno).
type Completion = (usize, i32);

/// Everything an executor owns; tasks reach it through the thread.
pub(crate) struct Inner {
    remote: std::sync::Arc<Remote>,
    tasks: RefCell<Tasks>,
    ops: RefCell<OpTable>,
    driver: RefCell<Driver>,
    timers: RefCell<timer::Timers>,
    completions: RefCell<Vec<Completion>>,
    busy: RefCell<busy::Busy>,
    engine: Engine,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// The executor of this thread. Not `Send`: it stays where it was made.
///
/// Dropping it drops its tasks and waits until the kernel has finished every operation.
pub struct Executor {
    inner: Rc<Inner>,
}

/// Puts the thread's previous executor back, also when a task panics.
struct Entered {
    previous: Option<Rc<Inner>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // An executor that is itself in thread-local storage outlives this key: nothing to do then.
        let _ = CURRENT.try_with(|c| c.replace(self.previous.take()));
    }
}

impl Executor {
    /// Makes an executor for this thread.
    ///
    /// # Errors
    /// `IoUring` fails with the kernel's errno where io_uring is missing or forbidden; every
    /// engine fails when no descriptor is left.
    pub fn new(engine: Engine) -> io::Result<Executor> {
        let remote = Remote::new()?;
        let (driver, engine) = match engine {
            Engine::Threads => (Driver::Threads(Pool::new(&remote)), Engine::Threads),
            Engine::IoUring => (Driver::Ring(Box::new(Ring::new(&remote)?)), Engine::IoUring),
            Engine::Auto => match Ring::new(&remote) {
                Ok(ring) => (Driver::Ring(Box::new(ring)), Engine::IoUring),
                Err(error) => {
                    tracing::debug!(%error, "io_uring is not available, using threads");
                    (Driver::Threads(Pool::new(&remote)), Engine::Threads)
                }
            },
        };
        let inner = Rc::new(Inner {
            tasks: RefCell::new(Tasks::new(&remote)),
            remote,
            ops: RefCell::default(),
            driver: RefCell::new(driver),
            timers: RefCell::default(),
            completions: RefCell::default(),
            busy: RefCell::default(),
            engine,
        });
        Ok(Executor { inner })
    }

    /// The engine in use: `IoUring` or `Threads`.
    pub fn engine(&self) -> Engine {
        self.inner.engine
    }

    /// Runs `f` to its end, and every spawned task meanwhile. Tasks that are left when `f` ends
    /// stay and go on in the next call.
    pub fn block_on<F: Future>(&self, f: F) -> F::Output {
        let _entered = self.enter();
        let mut main = pin!(f);
        let waker = self.inner.tasks.borrow().main_waker();
        self.inner.remote.push_local(MAIN);
        loop {
            for id in self.inner.take_ready() {
                if id == MAIN {
                    self.inner.tasks.borrow().main_polled();
                    if let Poll::Ready(out) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        return out;
                    }
                } else {
                    self.inner.run_task(id);
                }
            }
            self.inner.turn();
        }
    }

    /// Adds a task; it runs while this executor is in [`Executor::block_on`].
    pub fn spawn(&self, f: impl Future<Output = ()> + 'static) {
        self.inner.tasks.borrow_mut().insert(Box::pin(f));
    }

    fn enter(&self) -> Entered {
        let previous = CURRENT.try_with(|c| c.replace(Some(self.inner.clone())));
        Entered {
            previous: previous.ok().flatten(),
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _entered = self.enter();
        // A task's destructor may spawn: go on until none is left.
        loop {
            let tasks = self.inner.tasks.borrow_mut().take_all();
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        while self.inner.ops.borrow().in_flight() > 0 {
            self.inner.reap(true);
        }
    }
}

impl Inner {
    fn take_ready(&self) -> Vec<usize> {
        self.remote.take_ready()
    }

    fn run_task(&self, id: usize) {
        let Some((mut task, waker)) = self.tasks.borrow_mut().begin(id) else {
            return;
        };
        let done = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        if done {
            // The destructor may spawn: no borrow is held here.
            drop(task);
            self.tasks.borrow_mut().remove(id);
        } else {
            self.tasks.borrow_mut().put_back(id, task);
        }
    }

    /// Submits, collects completions and fires timers; sleeps when nothing is ready.
    fn turn(&self) {
        self.timers.borrow_mut().fire();
        let waited = Instant::now();
        let idle = self.remote.prepare_sleep();
        let sleep = idle && self.may_sleep();
        self.reap(sleep);
        self.remote.awake();
        if idle {
            self.busy.borrow_mut().waited(waited.elapsed());
        }
        self.timers.borrow_mut().fire();
    }

    /// Hands over what is queued and takes what is finished, waiting for one if `wait`.
    fn reap(&self, wait: bool) {
        let mut done = self.completions.take();
        if wait {
            self.remote.sleeping();
        }
        let timeout = if wait {
            self.timers.borrow().next()
        } else {
            Some(Duration::ZERO)
        };
        match &mut *self.driver.borrow_mut() {
            Driver::Ring(ring) => ring.park(timeout, &mut done),
            Driver::Threads(pool) => pool.park(timeout, &self.ops.borrow(), &mut done),
        }
        for (key, result) in done.drain(..) {
            // The waker may run arbitrary code: not under the borrow.
            let waker = self.ops.borrow_mut().complete(key, result);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        self.completions.replace(done);
    }

    /// Starts an operation; its key.
    fn start(&self, op: Op) -> usize {
        let mut ops = self.ops.borrow_mut();
        let key = ops.insert(op);
        if let Some(op) = ops.get(key) {
            match &mut *self.driver.borrow_mut() {
                Driver::Ring(ring) => ring.push(key, op),
                Driver::Threads(pool) => pool.push(key, op),
            }
        }
        key
    }

    /// Asks for the end of an operation that nobody waits for any more.
    fn cancel(&self, key: usize) {
        match &mut *self.driver.borrow_mut() {
            Driver::Ring(ring) => ring.cancel(key),
            Driver::Threads(pool) => pool.cancel(key, &self.ops.borrow()),
        }
    }
}

fn current() -> io::Result<Rc<Inner>> {
    CURRENT
        .try_with(|c| c.borrow().clone())
        .ok()
        .flatten()
        .ok_or_else(|| io::Error::other("no executor runs on this thread"))
}

/// Adds a task to the executor that runs on this thread.
///
/// # Errors
/// Fails when the thread is not inside [`Executor::block_on`].
pub fn spawn_local(f: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let inner = current()?;
    inner.tasks.borrow_mut().insert(Box::pin(f));
    Ok(())
}

/// Waits until `fd` is readable, once.
///
/// # Errors
/// The kernel's errno for a descriptor that cannot be waited for, or no executor.
pub async fn readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll(fd, Readiness::Read).await
}

/// Waits until `fd` takes more bytes, once.
///
/// # Errors
/// As [`readable`].
pub async fn writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll(fd, Readiness::Write).await
}

/// Waits until the other side of `fd` has left, once.
///
/// # Errors
/// As [`readable`].
pub async fn hung_up(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll(fd, Readiness::HangUp).await
}

async fn poll(fd: BorrowedFd<'_>, wanted: Readiness) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&fd);
    run(Op::new(OpKind::Poll { fd, wanted })).await.map(|_| ())
}

/// Waits until the counter of an eventfd is not zero, then returns and clears it. It does not
/// matter whether the descriptor is non-blocking, as long as this is its only reader.
///
/// # Errors
/// As [`readable`], and the errno of the read.
pub async fn read_eventfd(fd: BorrowedFd<'_>) -> io::Result<u64> {
    loop {
        readable(fd).await?;
        if let Some(count) = op::drain_eventfd(fd)? {
            return Ok(count);
        }
    }
}

/// Waits for `d`. Returns at once when no executor runs on this thread.
pub async fn sleep(d: Duration) {
    if let Ok(inner) = current() {
        timer::Sleep::new(inner, d).await;
    }
}

/// Lets other tasks run before going on.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs an operation on this thread's executor; the kernel's count.
pub(crate) async fn run(op: Op) -> io::Result<u32> {
    let inner = current()?;
    OpFuture::new(inner, op).await
}

/// Runs two futures at once, to the end of both.
pub(crate) async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (first, second) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

/// A future of a part of a request.
pub(crate) type Part<'a, E> = Pin<Box<dyn Future<Output = Result<(), E>> + 'a>>;

/// Runs every future at once and returns the first error after all have ended.
///
/// All are waited for even when one fails, because a half-abandoned request would leave its
/// memory in the kernel's hands.
pub(crate) async fn join_all<E>(futures: Vec<Part<'_, E>>) -> Result<(), E> {
    let mut futures = futures;
    let mut first = None;
    std::future::poll_fn(|cx| {
        futures.retain_mut(|f| match f.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(e)) => {
                first.get_or_insert(e);
                false
            }
        });
        if futures.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    first.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
