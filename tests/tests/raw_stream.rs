//! Frames between a card of the test guest and a peer on a stream, as passt is one, on this machine's
//! KVM.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tests::machine::Builder;
use tests::{have_kvm, skip_unless};

const COUNT: usize = 5000;
/// EtherType for local experiments, as the test guest expects it.
const EXPERIMENT: u16 = 0x88b5;

/// The two ends of a card's connection.
fn pair() -> (UnixStream, UnixStream) {
    let (theirs, ours) = UnixStream::pair().expect("sockets");
    // A test that waits for what never comes shall fail, not hang.
    ours.set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a socket");
    (theirs, ours)
}

#[test]
fn every_frame_that_the_guest_sends_reaches_the_peer_in_its_order() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    for bytes in [60, 1500] {
        let (theirs, ours) = pair();
        let cmdline = format!("test=net-tx bytes={bytes} count={COUNT}");
        let mut machine = Builder::guest(&cmdline)
            .stream(theirs)
            .start()
            .expect("start");
        let mut peer = BufReader::new(ours);
        for number in 0..COUNT {
            let mut length = [0; 4];
            peer.read_exact(&mut length).expect("a length");
            assert_eq!(u32::from_be_bytes(length) as usize, bytes);
            let mut frame = vec![0; bytes];
            peer.read_exact(&mut frame).expect("a frame");
            assert_eq!(frame[12..14], EXPERIMENT.to_be_bytes());
            assert_eq!(frame[14..18], (number as u32).to_le_bytes());
        }
        machine.expect("done kicks=");
        machine.expect_pass();
    }
}

#[test]
fn every_frame_of_the_peer_comes_to_the_guest_in_its_order() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    for bytes in [64, 1500] {
        let (theirs, mut ours) = pair();
        let cmdline = format!("test=net-rx bytes={bytes} count={COUNT}");
        let mut machine = Builder::guest(&cmdline)
            .stream(theirs)
            .start()
            .expect("start");
        machine.expect("ready");
        let mut frame = vec![0; 4 + bytes];
        frame[..4].copy_from_slice(&(bytes as u32).to_be_bytes());
        frame[4..10].fill(0xff);
        frame[10..16].copy_from_slice(&[0x02, 0, 0, 0, 0, 2]);
        frame[16..18].copy_from_slice(&EXPERIMENT.to_be_bytes());
        // No more than the guest takes: nothing is lost, however many there are.
        for number in 0..COUNT as u32 {
            frame[18..22].copy_from_slice(&number.to_le_bytes());
            ours.write_all(&frame).expect("written");
        }
        machine.expect("lost=0");
        machine.expect_pass();
    }
}

#[test]
fn a_guest_outlives_its_peer() {
    skip_unless!(have_kvm(), "/dev/kvm cannot be opened");
    let (theirs, mut ours) = pair();
    let cmdline = format!("test=net-tx bytes=1500 count={COUNT}");
    let mut machine = Builder::guest(&cmdline)
        .stream(theirs)
        .start()
        .expect("start");
    ours.read_exact(&mut [0; 4]).expect("the first frame");
    // Far more was to come than the connection holds.
    drop(ours);
    machine.expect("done kicks=");
    machine.expect_pass();
}
