//! Threads for what takes a processor's time: packing and unpacking clusters.
//!
//! Must never be used for what waits: that is the executor's business.
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::lock;

type Job = Box<dyn FnOnce() + Send>;

/// Some threads; they end when this is gone and the last job is done.
pub(crate) struct Workers {
    jobs: Sender<Job>,
}

/// Where the answer to a job goes.
struct Answer<T> {
    value: Option<T>,
    /// No answer comes any more.
    gone: bool,
    waiter: Option<Waker>,
}

/// Tells the waiter when the job is over, also when it panicked.
struct Promise<T>(Arc<Mutex<Answer<T>>>);

impl<T> Promise<T> {
    fn keep(self, value: T) {
        lock(&self.0).value = Some(value);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let waiter = {
            let mut answer = lock(&self.0);
            answer.gone = true;
            answer.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl Workers {
    /// So many threads; 0 means one per processor.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn new(threads: usize) -> Result<Workers> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n.min(256),
        };
        for _ in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name("image-pack".to_owned())
                .spawn(move || work(&queue))
                .map_err(|e| Error::io("cannot start a thread", &e))?;
        }
        Ok(Workers { jobs })
    }

    /// Does something on one of the threads, and waits for it without blocking.
    ///
    /// # Errors
    /// The threads are gone, which only a defect of the work can cause.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::new(ErrorKind::Io(None), "a thread that does work is gone");
        let answer = Arc::new(Mutex::new(Answer {
            value: None,
            gone: false,
            waiter: None,
        }));
        let promise = Promise(answer.clone());
        let job = Box::new(move || promise.keep(work()));
        self.jobs.send(job).map_err(|_| gone())?;
        std::future::poll_fn(|cx| {
            let mut answer = lock(&answer);
            if let Some(value) = answer.value.take() {
                return Poll::Ready(Ok(value));
            }
            if answer.gone {
                return Poll::Ready(Err(gone()));
            }
            answer.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = lock(queue).recv();
        let Ok(job) = job else { return };
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{Engine, Executor};

    #[test]
    fn answers_come_back_and_a_job_that_fails_is_an_error() {
        let ex = Executor::new(Engine::Auto).unwrap();
        let workers = Workers::new(2).unwrap();
        ex.block_on(async {
            for n in 0..100u64 {
                assert_eq!(workers.run(move || n * n).await.unwrap(), n * n);
            }
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(|_| {}));
            let failed = workers.run(|| -> u8 { panic!("a defect") }).await;
            std::panic::set_hook(hook);
            assert!(failed.is_err());
            assert_eq!(workers.run(|| 7).await.unwrap(), 7, "the other thread");
        });
    }
}
