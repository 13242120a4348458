//! Threads that several disks share, by number: libvirt's iothreads; and the one of input devices.
//!
//! A thread is started with the first disk that names it, and ends with the last of its disks. A disk that drives its file by another engine than the thread's first one gets
//! a thread of the same number beside it, since a thread has one engine.

use super::worker::Worker;
use images::exec::Engine;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The iothreads of one machine.
#[derive(Debug, Default)]
pub struct Iothreads(Mutex<Vec<(u32, Engine, Weak<Worker>)>>);

/// The number of the thread of the input devices; those of a definition are lower.
const INPUT: u32 = u32::MAX;

impl Iothreads {
    /// The thread with this number, started if there is none.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn get(&self, id: u32, engine: Engine) -> io::Result<Arc<Worker>> {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|(.., worker)| worker.strong_count() > 0);
        let found = threads
            .iter()
            .find(|(other, kind, _)| (*other, *kind) == (id, engine))
            .and_then(|(.., worker)| worker.upgrade());
        if let Some(worker) = found {
            return Ok(worker);
        }
        let name = match id {
            INPUT => "input".into(),
            id => format!("iothread{id}"),
        };
        let worker = Arc::new(Worker::start(&name, engine)?);
        threads.push((id, engine, Arc::downgrade(&worker)));
        Ok(worker)
    }

    /// The thread that all input devices share.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn input(&self, engine: Engine) -> io::Result<Arc<Worker>> {
        self.get(INPUT, engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_thread_for_as_long_as_somebody_has_it() {
        let threads = Iothreads::default();
        let first = threads.get(1, Engine::Threads).expect("a thread");
        let again = threads.get(1, Engine::Threads).expect("a thread");
        let other = threads.get(2, Engine::Threads).expect("a thread");
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
        let weak = Arc::downgrade(&first);
        drop((first, again));
        assert!(weak.upgrade().is_none());
        assert_eq!(threads.0.lock().expect("the list").len(), 2);
        threads.get(1, Engine::Threads).expect("a new thread");
        assert!(threads.0.lock().expect("the list").len() <= 2);
    }
}
