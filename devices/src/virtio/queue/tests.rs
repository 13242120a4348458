//! A queue with a hostile driver on one side and a pausing machine on the other.

use super::*;
use crate::testing::FakeMachine;
use crate::virtio::testing::{Desc, NEXT, Ring, WRITE, peek, poke};
use std::sync::atomic::AtomicU32;

const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x8_0000;

#[derive(Default)]
struct Witness {
    signals: AtomicU32,
    broken: Mutex<Vec<String>>,
    drained: AtomicU32,
}

impl QueueOwner for Witness {
    fn signal(&self, _queue: u16) {
        self.signals.fetch_add(1, Ordering::SeqCst);
    }
    fn broken(&self, _queue: u16, reason: &QueueError) {
        self.broken.lock().unwrap().push(reason.to_string());
    }
    fn drained(&self) {
        self.drained.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    machine: FakeMachine,
    ring: Ring,
    witness: Arc<Witness>,
    queue: Arc<Virtqueue>,
}

fn setup(ring: &Ring, event_idx: bool) -> QueueSetup {
    QueueSetup {
        size: ring.size,
        descriptors: ring.descriptors,
        available: ring.available,
        used: ring.used,
        event_idx,
        indirect: true,
        ..QueueSetup::default()
    }
}

fn bench(size: u16, event_idx: bool) -> Bench {
    let machine = FakeMachine::new(0x20_0000);
    let ring = Ring::new(&machine, 0, size, RINGS);
    let witness = Arc::new(Witness::default());
    let queue = Virtqueue::new(
        &setup(&ring, event_idx),
        machine.memory.clone(),
        witness.clone(),
    )
    .unwrap();
    Bench {
        machine,
        ring,
        witness,
        queue,
    }
}

impl Bench {
    fn offer(&mut self) -> u16 {
        self.ring.chain(&self.machine, &[(DATA, 8, true)])
    }

    fn signals(&self) -> u32 {
        self.witness.signals.load(Ordering::SeqCst)
    }

    fn broken(&self) -> Vec<String> {
        self.witness.broken.lock().unwrap().clone()
    }
}

#[test]
fn requests_come_in_order_and_may_end_in_any() {
    let mut bench = bench(8, true);
    let heads = [bench.offer(), bench.offer(), bench.offer()];
    let first = bench.queue.next().unwrap();
    let second = bench.queue.next().unwrap();
    let third = bench.queue.next().unwrap();
    assert!(bench.queue.next().is_none());
    second.complete(1);
    third.complete(2);
    first.complete(3);
    for (head, len) in [(heads[1], 1), (heads[2], 2), (heads[0], 3)] {
        let used = bench.ring.used(&bench.machine);
        assert_eq!(used, Some((u32::from(head), len)));
    }
    assert_eq!(bench.signals(), 1, "the driver asked for the first only");
}

#[test]
fn indices_wrap_around() {
    for event_idx in [false, true] {
        let mut bench = bench(2, event_idx);
        for round in 0..70_000_u32 {
            bench.offer();
            bench.queue.next().unwrap().complete(round & 7);
            let used = bench.ring.used(&bench.machine);
            assert_eq!(used.unwrap().1, round & 7);
        }
        assert_eq!(bench.signals(), 70_000);
    }
}

#[test]
fn the_drivers_wish_for_silence_is_heard() {
    let mut bench = bench(8, false);
    poke(&bench.machine, bench.ring.available, &1_u16.to_le_bytes());
    bench.offer();
    bench.queue.next().unwrap().complete(0);
    assert_eq!(bench.signals(), 0);
    poke(&bench.machine, bench.ring.available, &0_u16.to_le_bytes());
    bench.offer();
    bench.queue.next().unwrap().complete(0);
    assert_eq!(bench.signals(), 1);
}

#[test]
fn the_doorbell_is_asked_for_before_the_queue_is_called_empty() {
    let mut bench = bench(8, true);
    let event = bench.ring.used + 4 + 8 * 8;
    for expected in 0..5_u16 {
        assert!(!bench.queue.has_next());
        assert!(bench.queue.next().is_none());
        let asked = peek(&bench.machine, event, 2);
        assert_eq!(asked, expected.to_le_bytes());
        bench.offer();
        assert!(bench.queue.has_next());
        bench.queue.next().unwrap().complete(0);
    }
}

#[test]
fn parked_requests_come_first_after_a_resume_and_belong_to_the_position() {
    let mut bench = bench(8, true);
    let heads: Vec<u16> = (0..4).map(|_| bench.offer()).collect();
    let (a, b) = (bench.queue.next().unwrap(), bench.queue.next().unwrap());
    b.park();
    drop(a);
    bench.queue.pause();
    assert!(bench.queue.next().is_none(), "paused");
    let position = bench.queue.position();
    assert_eq!(position.parked, [heads[1], heads[0]]);
    assert_eq!((position.next_available, position.next_used), (2, 0));
    bench.queue.resume();
    assert_eq!(bench.queue.position(), position);
    for head in [heads[1], heads[0], heads[2], heads[3]] {
        let element = bench.queue.next().unwrap();
        assert_eq!(element.head(), head);
        element.complete(0);
    }
    assert_eq!(bench.ring.used_index(&bench.machine), 4);
}

#[test]
fn a_queue_goes_on_where_another_stood() {
    let mut bench = bench(8, true);
    let heads: Vec<u16> = (0..3).map(|_| bench.offer()).collect();
    bench.queue.next().unwrap().complete(0);
    bench.queue.next().unwrap().park();
    bench.queue.pause();
    let position = bench.queue.position();
    let mut setup = setup(&bench.ring, true);
    setup.next_available = position.next_available;
    setup.next_used = position.next_used;
    setup.parked.clone_from(&position.parked);
    setup.paused = true;
    let memory = bench.machine.memory.clone();
    let queue = Virtqueue::new(&setup, memory.clone(), bench.witness.clone()).unwrap();
    assert!(queue.next().is_none(), "made paused");
    assert_eq!(queue.position(), position);
    queue.resume();
    for head in &heads[1..] {
        let element = queue.next().unwrap();
        assert_eq!(element.head(), *head);
        element.complete(0);
    }
    assert_eq!(bench.ring.used_index(&bench.machine), 3);
    // A head cannot be parked twice, or lie outside.
    for parked in [vec![1, 1], vec![8]] {
        setup.parked = parked;
        let error = Virtqueue::new(&setup, memory.clone(), bench.witness.clone());
        assert!(matches!(error, Err(QueueError::Twice(_))));
    }
}

#[test]
fn pausing_waits_for_what_is_in_flight() {
    let mut bench = bench(8, true);
    bench.offer();
    let element = bench.queue.next().unwrap();
    std::thread::scope(|scope| {
        let paused = scope.spawn(|| {
            bench.queue.pause();
            // What was in flight has ended by now.
            bench.ring.used_index(&bench.machine)
        });
        element.complete(0);
        assert_eq!(paused.join().unwrap(), 1);
    });
}

#[test]
fn a_stopped_queue_writes_nothing_and_says_when_it_is_drained() {
    let mut bench = bench(8, true);
    bench.offer();
    bench.offer();
    let (a, b) = (bench.queue.next().unwrap(), bench.queue.next().unwrap());
    assert!(!bench.queue.stop());
    a.complete(8);
    assert!(!bench.queue.is_drained());
    assert_eq!(bench.witness.drained.load(Ordering::SeqCst), 0);
    b.park();
    assert_eq!(bench.witness.drained.load(Ordering::SeqCst), 1);
    assert!(bench.queue.is_drained());
    assert_eq!(bench.ring.used_index(&bench.machine), 0);
    assert_eq!(bench.signals(), 0);
    assert!(bench.queue.position().parked.is_empty());
    bench.queue.resume();
    assert!(bench.queue.next().is_none());
}

#[test]
fn a_head_that_is_offered_twice_breaks_the_queue_once() {
    let mut bench = bench(8, true);
    let head = bench.offer();
    bench.ring.offer(&bench.machine, head);
    let element = bench.queue.next().unwrap();
    assert!(bench.queue.next().is_none());
    assert!(bench.queue.next().is_none());
    assert_eq!(bench.broken(), ["descriptor chain 0 is offered twice"]);
    element.complete(1);
    assert_eq!(bench.ring.used_index(&bench.machine), 0, "broken");
    bench.queue.pause();
    bench.queue.resume();
    assert!(bench.queue.next().is_none(), "until it is reset");
    assert!(bench.queue.stop());
}

#[test]
fn a_head_may_be_offered_again_once_it_was_used() {
    let mut bench = bench(8, true);
    let head = bench.offer();
    for _ in 0..20 {
        bench.queue.next().unwrap().complete(0);
        bench.ring.offer(&bench.machine, head);
    }
    assert!(bench.broken().is_empty());
}

#[test]
fn an_available_index_that_runs_ahead_breaks_the_queue() {
    for ahead in [9, 0x7fff, 0xffff] {
        let bench = bench(8, true);
        bench.ring.publish(&bench.machine, ahead);
        assert!(bench.queue.next().is_none());
        assert_eq!(bench.broken().len(), 1);
    }
}

#[test]
fn malformed_chains_break_the_queue() {
    for desc in [
        Desc::new(DATA, 1, NEXT, 0),
        Desc::new(0xfee0_0000, 8, WRITE, 0),
        Desc::new(DATA, 1, NEXT, 9),
    ] {
        let mut bench = bench(8, true);
        bench.ring.set(&bench.machine, 0, desc);
        bench.ring.offer(&bench.machine, 0);
        assert!(bench.queue.has_next());
        assert!(bench.queue.next().is_none());
        assert_eq!(bench.broken().len(), 1, "{desc:?}");
        assert!(!bench.queue.has_next());
    }
    let mut bench = bench(8, true);
    bench.ring.offer(&bench.machine, 8);
    assert!(bench.queue.next().is_none());
    assert_eq!(bench.broken().len(), 1);
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let machine = FakeMachine::new(0x20_0000);
    let ring = Ring::new(&machine, 0, 8, RINGS);
    let good = setup(&ring, true);
    let refused = |change: &dyn Fn(&mut QueueSetup)| {
        let mut setup = good.clone();
        change(&mut setup);
        let owner = Arc::new(Witness::default());
        let queue = Virtqueue::new(&setup, machine.memory.clone(), owner);
        assert!(matches!(queue, Err(QueueError::Ring)), "{setup:?}");
    };
    refused(&|setup| setup.size = 0);
    refused(&|setup| setup.size = 6);
    refused(&|setup| setup.descriptors += 8);
    refused(&|setup| setup.available += 1);
    refused(&|setup| setup.used += 2);
    for far in [0xb000_0000, 0x1f_fff0, !0xf, (1 << 32) + (1 << 20) - 16] {
        refused(&|setup| setup.descriptors = far);
        refused(&|setup| setup.available = far);
        refused(&|setup| setup.used = far);
    }
}

#[test]
fn an_interrupt_is_due_exactly_when_the_entry_waited_for_is_among_the_new_ones() {
    for before in [0, 1, 0x7ffe, 0x7fff, 0x8000, 0xfff0, 0xffff_u16] {
        for count in [0, 1, 2, 3, 15, 16, 255, 1024, 0x8000_u16] {
            let mut new = vec![false; 1 << 16];
            for step in 0..count {
                new[usize::from(before.wrapping_add(step))] = true;
            }
            let after = before.wrapping_add(count);
            for wish in 0..=u16::MAX {
                let due = passes(before, after, wish);
                assert_eq!(due, new[usize::from(wish)], "{before} {count} {wish}");
            }
        }
    }
}

#[test]
fn every_available_index_is_taken_up_to_the_ring_or_breaks_the_queue() {
    let machine = FakeMachine::new(0x20_0000);
    let ring = Ring::new(&machine, 0, 16, RINGS);
    ring.set(&machine, 0, Desc::new(DATA, 8, WRITE, 0));
    for start in [0, 5, 0x7fff, 0xfff8_u16] {
        for index in 0..=u16::MAX {
            let ahead = index.wrapping_sub(start);
            // All that are not near the ring's size behave as one of them.
            if ahead > 40 && ahead < 0xffd0 && !ahead.is_multiple_of(61) {
                continue;
            }
            ring.publish(&machine, index);
            let setup = QueueSetup {
                next_available: start,
                next_used: start,
                ..setup(&ring, false)
            };
            let witness = Arc::new(Witness::default());
            let queue = Virtqueue::new(&setup, machine.memory.clone(), witness.clone()).unwrap();
            let taken = queue.next();
            assert_eq!(
                taken.is_some(),
                (1..=16).contains(&ahead),
                "{start} {index}"
            );
            assert_eq!(queue.is_broken(), ahead > 16, "{start} {index}");
            assert_eq!(
                witness.broken.lock().unwrap().len(),
                usize::from(ahead > 16)
            );
        }
    }
}
