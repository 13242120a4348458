//! Workers run what they are given, and end.

use super::*;
use std::sync::mpsc::channel;

#[test]
fn tasks_run_on_the_worker_and_end_with_it() {
    let worker = Worker::start("test-worker", Engine::Threads).unwrap();
    let (sender, receiver) = channel();
    let home = std::thread::current().id();
    worker.run(move || {
        Box::pin(async move {
            sender.send(std::thread::current().id()).unwrap();
            // Keeps the sender for ever: dropped with the worker.
            std::future::pending::<()>().await;
            drop(sender);
        })
    });
    assert_ne!(receiver.recv().unwrap(), home);
    drop(worker);
    assert!(receiver.recv().is_err(), "the task was dropped");
}
