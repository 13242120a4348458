//! Threads that begin together, or not at all.

use std::io;
use std::sync::mpsc;
use std::sync::{PoisonError, RwLock};
use std::thread::{Builder, scope};

/// Gives a thread to each of `threads`, has it do `prepare`, and lets all of them do `work` as soon as the
/// last one is ready; what each of them came to. A `work` that panics is an error.
///
/// # Errors
/// A thread that the host does not start: the others end without having worked.
pub(super) fn together<S, T: Send>(
    threads: impl IntoIterator<Item = Builder>,
    prepare: impl Fn() -> S + Sync,
    work: impl Fn(S) -> T + Sync,
) -> io::Result<Vec<T>> {
    // Held by us while threads start; then says whether to work.
    let gate = RwLock::new(false);
    // Closed when every thread is ready, or has failed.
    let (tell, ready) = mpsc::channel::<()>();
    let one = |tell: mpsc::Sender<()>| {
        let prepared = prepare();
        drop(tell);
        let go = *gate.read().unwrap_or_else(PoisonError::into_inner);
        go.then(|| work(prepared))
    };
    scope(|scope| {
        let mut go = gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut started = Vec::new();
        for thread in threads {
            let tell = tell.clone();
            // An error ends the hold on the gate, and with it the threads that wait there.
            started.push(thread.spawn_scoped(scope, || one(tell))?);
        }
        drop(tell);
        let _ = ready.recv();
        *go = true;
        drop(go);
        let ended = started.into_iter().map(|thread| {
            let end = thread.join().ok().flatten();
            end.ok_or_else(|| io::Error::other("a thread failed"))
        });
        ended.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[test]
    fn all_are_ready_before_one_works() {
        let prepared = AtomicU32::new(0);
        let threads = (0..8).map(|_| Builder::new());
        let ready = || prepared.fetch_add(1, SeqCst);
        let found = together(threads, ready, |number| (number, prepared.load(SeqCst))).unwrap();
        let mut numbers: Vec<u32> = found.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(found.iter().all(|(_, all)| *all == 8), "{found:?}");
    }

    #[test]
    fn without_one_thread_nobody_works_and_nobody_waits() {
        // No host has so much room for a stack.
        let stack = |number| if number == 3 { 1 << 60 } else { 256 << 10 };
        let threads = (0..5).map(|number| Builder::new().stack_size(stack(number)));
        let worked = AtomicU32::new(0);
        let end = together(threads, || (), |()| worked.fetch_add(1, SeqCst));
        assert!(end.is_err());
        assert_eq!(worked.load(SeqCst), 0);
    }

    #[test]
    fn a_thread_that_fails_holds_up_nobody() {
        let first = AtomicU32::new(0);
        let prepare = || assert!(first.fetch_add(1, SeqCst) != 1, "on purpose");
        let worked = AtomicU32::new(0);
        let threads = (0..4).map(|_| Builder::new());
        assert!(together(threads, prepare, |()| worked.fetch_add(1, SeqCst)).is_err());
        assert_eq!(worked.load(SeqCst), 3);
    }
}
