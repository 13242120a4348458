//! Tasks, their wakers, and the queue of those that are ready.
//!
//! ```text
//! Idle --wake--> Queued --begin--> Running --Pending--> Idle
//!                                     |  (a wake meanwhile queues it again)
//!                                     +-----Ready-----> gone
//! ```
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::op;

/// The future given to `block_on`.
pub(super) const MAIN: usize = usize::MAX;

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    /// Ready tasks of the executors of this thread: (executor, task).
    static READY: RefCell<VecDeque<(usize, usize)>> = const { RefCell::new(VecDeque::new()) };
}

/// The part of an executor that other threads may touch: they queue a task here and ring.
pub(super) struct Remote {
    woken: Mutex<Vec<usize>>,
    /// True while the executor may be asleep: only then a wake needs the eventfd.
    sleeping: AtomicBool,
    has_woken: AtomicBool,
    event: OwnedFd,
    home: std::thread::ThreadId,
}

impl Remote {
    pub(super) fn new() -> io::Result<Arc<Remote>> {
        Ok(Arc::new(Remote {
            woken: Mutex::default(),
            sleeping: AtomicBool::new(false),
            has_woken: AtomicBool::new(false),
            event: op::eventfd()?,
            home: std::thread::current().id(),
        }))
    }

    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// What the executor waits on besides its operations.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Wakes the executor without a task: something finished on another thread.
    pub(super) fn ring(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            op::signal_eventfd(self.event.as_fd());
        }
    }

    pub(super) fn push_local(&self, id: usize) {
        // At the end of a thread the queue may be gone: nothing will run any more.
        let _ = READY.try_with(|r| r.borrow_mut().push_back((self.identity(), id)));
    }

    fn push(&self, id: usize) {
        if std::thread::current().id() == self.home {
            self.push_local(id);
            return;
        }
        self.woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id);
        self.has_woken.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Takes what is ready now, from this thread and from others.
    pub(super) fn take_ready(&self) -> Vec<usize> {
        let me = self.identity();
        let mut ready = Vec::new();
        let _ = READY.try_with(|r| {
            r.borrow_mut().retain(|&(executor, id)| {
                if executor == me {
                    ready.push(id);
                }
                executor != me
            });
        });
        if self.has_woken.swap(false, Ordering::SeqCst) {
            ready.append(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        }
        ready
    }

    /// True if the executor may sleep. From here on a foreign wake rings the eventfd.
    pub(super) fn prepare_sleep(&self) -> bool {
        let me = self.identity();
        let any = |r: &RefCell<VecDeque<(usize, usize)>>| r.borrow().iter().any(|&(e, _)| e == me);
        if READY.try_with(any).unwrap_or(false) {
            return false;
        }
        self.sleeping();
        !self.has_woken.load(Ordering::SeqCst)
    }

    /// Whether another thread has woken a task.
    pub(super) fn has_woken(&self) -> bool {
        self.has_woken.load(Ordering::SeqCst)
    }

    /// From here on a completion or a wake on another thread rings the eventfd.
    pub(super) fn sleeping(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

struct TaskWaker {
    remote: Arc<Remote>,
    id: usize,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.remote.push(self.id);
        }
    }
}

struct Task {
    /// None while it runs.
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

/// The tasks of one executor.
pub(super) struct Tasks {
    remote: Arc<Remote>,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    main: Arc<TaskWaker>,
}

impl Tasks {
    pub(super) fn new(remote: &Arc<Remote>) -> Tasks {
        let main = TaskWaker {
            remote: remote.clone(),
            id: MAIN,
            queued: AtomicBool::new(false),
        };
        Tasks {
            remote: remote.clone(),
            tasks: Vec::new(),
            free: Vec::new(),
            main: Arc::new(main),
        }
    }

    pub(super) fn main_waker(&self) -> Waker {
        self.main.clone().into()
    }

    /// The main future is about to be polled: a wake from now on queues it again.
    pub(super) fn main_polled(&self) {
        self.main.queued.store(false, Ordering::Release);
    }

    /// Adds a task and queues it.
    pub(super) fn insert(&mut self, future: TaskFuture) {
        let id = self.free.pop().unwrap_or_else(|| {
            self.tasks.push(None);
            self.tasks.len() - 1
        });
        let waker = Arc::new(TaskWaker {
            remote: self.remote.clone(),
            id,
            queued: AtomicBool::new(true),
        });
        self.tasks[id] = Some(Task {
            future: Some(future),
            waker,
        });
        self.remote.push_local(id);
    }

    /// Takes a task out to run it. None for a late wake of a task that is gone.
    pub(super) fn begin(&mut self, id: usize) -> Option<(TaskFuture, Waker)> {
        let task = self.tasks.get_mut(id)?.as_mut()?;
        let future = task.future.take()?;
        task.waker.queued.store(false, Ordering::Release);
        Some((future, task.waker.clone().into()))
    }

    pub(super) fn put_back(&mut self, id: usize, future: TaskFuture) {
        if let Some(Some(task)) = self.tasks.get_mut(id) {
            task.future = Some(future);
        }
    }

    pub(super) fn remove(&mut self, id: usize) {
        if let Some(slot) = self.tasks.get_mut(id)
            && slot.take().is_some()
        {
            self.free.push(id);
        }
    }

    pub(super) fn take_all(&mut self) -> Vec<TaskFuture> {
        self.free.clear();
        self.tasks
            .drain(..)
            .flatten()
            .filter_map(|t| t.future)
            .collect()
    }
}
