use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::storage::{Cache, IoBuf, Storage, sys};

fn engines() -> Vec<Executor> {
    let mut all = vec![Executor::new(Engine::Threads).unwrap()];
    match Executor::new(Engine::IoUring) {
        Ok(ex) => all.push(ex),
        Err(e) => println!("skipped: io_uring is not available here: {e}"),
    }
    all
}

fn file(bytes: &[u8]) -> File {
    use std::io::Write;
    let mut f = tempfile::tempfile().unwrap();
    f.write_all(bytes).unwrap();
    f
}

#[test]
fn spawned_tasks_run_while_the_main_future_waits() {
    for ex in engines() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let out = seen.clone();
        ex.block_on(async move {
            for i in 0..3 {
                let out = out.clone();
                spawn_local(async move {
                    yield_now().await;
                    out.borrow_mut().push(i);
                })
                .unwrap();
            }
            while out.borrow().len() < 3 {
                yield_now().await;
            }
        });
        assert_eq!(*seen.borrow(), [0, 1, 2]);
    }
}

#[test]
fn spawning_without_an_executor_is_an_error() {
    assert!(spawn_local(async {}).is_err());
}

#[test]
fn a_waker_works_from_another_thread() {
    for ex in engines() {
        let (send, receive) = std::sync::mpsc::channel::<std::task::Waker>();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let set = done.clone();
        let thread = std::thread::spawn(move || {
            let waker = receive.recv().unwrap();
            set.store(true, std::sync::atomic::Ordering::SeqCst);
            waker.wake();
        });
        ex.block_on(std::future::poll_fn(|cx| {
            if done.load(std::sync::atomic::Ordering::SeqCst) {
                return Poll::Ready(());
            }
            let _ = send.send(cx.waker().clone());
            Poll::Pending
        }));
        thread.join().unwrap();
    }
}

#[test]
fn an_eventfd_is_waited_for_and_cleared() {
    for ex in engines() {
        let fd = sys::eventfd().unwrap();
        let remote = fd.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            sys::eventfd_write(remote.as_fd());
            sys::eventfd_write(remote.as_fd());
        });
        let mut count = 0;
        ex.block_on(async {
            while count < 2 {
                count += read_eventfd(fd.as_fd()).await.unwrap();
            }
        });
        thread.join().unwrap();
        assert_eq!(count, 2);
        assert_eq!(sys::eventfd_read(fd.as_fd()).unwrap(), None);
    }
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    for ex in engines() {
        let order = Rc::new(RefCell::new(Vec::new()));
        for ms in [30u64, 10, 20] {
            let order = order.clone();
            ex.spawn(async move {
                sleep(Duration::from_millis(ms)).await;
                order.borrow_mut().push(ms);
            });
        }
        let done = order.clone();
        ex.block_on(async move {
            while done.borrow().len() < 3 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        assert_eq!(*order.borrow(), [10, 20, 30]);
    }
}

#[test]
fn files_are_read_and_written_with_many_operations_in_flight() {
    for ex in engines() {
        let storage = Rc::new(Storage::file(file(&[]), Cache::Writeback).unwrap());
        let left = Rc::new(RefCell::new(1000u32));
        for i in 0..1000u32 {
            let (storage, left) = (storage.clone(), left.clone());
            ex.spawn(async move {
                let buf = IoBuf::from(&i.to_le_bytes()[..]);
                storage.write_owned(u64::from(i) * 4, buf).await.unwrap();
                *left.borrow_mut() -= 1;
            });
        }
        ex.block_on(async {
            while *left.borrow() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
            storage.sync().await.unwrap();
            let all = storage.read_owned(0, 4000).await.unwrap();
            for (i, n) in all.chunks(4).enumerate() {
                assert_eq!(n, (i as u32).to_le_bytes());
            }
        });
    }
}

#[test]
fn a_dropped_transfer_has_let_go_of_its_memory() {
    for ex in engines() {
        let storage = Storage::file(file(&[7; 1 << 20]), Cache::Writeback).unwrap();
        ex.block_on(async {
            for _ in 0..50 {
                let mut read = Box::pin(storage.read_owned(0, 1 << 20));
                let first = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
                drop(first);
                drop(read);
            }
        });
        assert_eq!(ex.inner.ops.borrow().in_flight(), 0);
    }
}

#[test]
fn dropping_the_executor_ends_waiting_tasks() {
    for ex in engines() {
        let fd = Rc::new(sys::eventfd().unwrap());
        let waiting = fd.clone();
        ex.spawn(async move {
            let _ = readable(waiting.as_fd()).await;
        });
        ex.block_on(async {
            yield_now().await;
            yield_now().await;
        });
        assert_eq!(ex.inner.ops.borrow().in_flight(), 1);
        drop(ex);
        assert_eq!(Rc::strong_count(&fd), 1);
    }
}

/// Whoever rings between the last look at the queue of wakes and the sleep must not be missed. A
/// ring that sleeps all the same never ends this test.
#[test]
fn a_ring_before_the_sleep_prevents_it() {
    let remote = super::task::Remote::new().unwrap();
    let Ok(mut ring) = super::ring::Ring::new(&remote) else {
        println!("skipped: io_uring is not available");
        return;
    };
    let mut done = Vec::new();
    // The first sleep arms the descriptor.
    ring.park(Some(Duration::from_millis(1)), &mut done);
    for _ in 0..100 {
        remote.sleeping();
        remote.ring();
        ring.park(None, &mut done);
        ring.park(Some(Duration::from_millis(1)), &mut done);
    }
    assert!(done.is_empty());
}
