//! Frames between a card of the test guest and a tap, counted on both sides, on this machine's KVM.

use std::time::{Duration, Instant};
use tests::machine::Builder;
use tests::tap::{self, Counters, Sender};
use tests::{have_kvm, skip_unless};

/// Fewer than a tap's queue holds, so that none is lost.
const INCOMING: usize = 500;
const OUTGOING: u64 = 5000;

/// Runs `work` with a tap, where that may be made.
fn with_tap(work: impl FnOnce() + Send) {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    if let Err(error) = tap::in_own_network(work) {
        eprintln!("skipped: no network with a tap can be made: {error}");
    }
}

fn sends(bytes: u64) {
    let cmdline = format!("test=net-tx bytes={bytes} count={OUTGOING}");
    let mut machine = Builder::guest(&cmdline)
        .tap(tap::NAME)
        .start()
        .expect("start");
    machine.expect("done kicks=");
    machine.expect_pass();
}

#[test]
fn every_frame_that_the_guest_sends_comes_out_of_the_tap() {
    with_tap(|| {
        let mut before = Counters::default();
        for bytes in [60, 64, 1500] {
            sends(bytes);
            let after = tap::counters().expect("counters");
            assert_eq!(after.received - before.received, OUTGOING);
            let size = after.received_bytes - before.received_bytes;
            assert_eq!(size, OUTGOING * bytes);
            before = after;
        }
    });
}

#[test]
fn every_frame_that_the_tap_takes_comes_to_the_guest_in_its_order() {
    with_tap(|| {
        for bytes in [64, 1500] {
            let cmdline = format!("test=net-rx bytes={bytes} count={INCOMING}");
            let mut machine = Builder::guest(&cmdline)
                .tap(tap::NAME)
                .start()
                .expect("start");
            machine.expect("ready");
            let mut sender = Sender::new(bytes).expect("a packet socket");
            let mut sent = 0;
            let deadline = Instant::now() + Duration::from_secs(60);
            while sent < INCOMING {
                sent += sender.send(INCOMING - sent).expect("sent");
                assert!(Instant::now() < deadline, "{sent} frames");
            }
            machine.expect("lost=0");
            machine.expect_pass();
        }
        let counted = tap::counters().expect("counters");
        assert_eq!((counted.sent, counted.sent_dropped), (1000, 0));
    });
}

#[test]
fn a_driver_of_two_queue_pairs_sends_on_both() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let work = || {
        let cmdline = format!("test=net-pairs count={OUTGOING}");
        let mut machine = Builder::guest(&cmdline)
            .tap_queues(tap::NAME, 2)
            .start()
            .expect("start");
        machine.expect(&format!("queue 1: {OUTGOING} frames"));
        machine.expect(&format!("queue 3: {OUTGOING} frames"));
        machine.expect_pass();
        let counted = tap::counters().expect("counters");
        assert_eq!(counted.received, 2 * OUTGOING);
    };
    if let Err(error) = tap::in_own_network_of_queues(work) {
        eprintln!("skipped: no network with a tap can be made: {error}");
    }
}
