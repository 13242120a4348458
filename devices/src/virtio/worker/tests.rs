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

#[test]
fn a_worker_of_a_pinned_thread_runs_where_the_process_does() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let process = sched_getaffinity(Some(rustix::process::getpid())).expect("its processors");
    let starter = std::thread::spawn(move || {
        let first = (0..CpuSet::MAX_CPU).find(|number| process.is_set(*number));
        let mut one = CpuSet::new();
        one.set(first.expect("a processor"));
        sched_setaffinity(None, &one).expect("a pin");
        Worker::start("pinned", Engine::Threads).expect("a worker")
    });
    let worker = starter.join().expect("no panic");
    let (tell, told) = std::sync::mpsc::channel();
    worker.run(move || {
        Box::pin(async move {
            let own = sched_getaffinity(None).expect("its processors");
            tell.send(own == process).expect("somebody waits");
        })
    });
    assert!(told.recv().expect("an answer"));
}
