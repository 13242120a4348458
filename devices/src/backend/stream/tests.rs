//! Frames in pieces of any size, and peers that do as they like.

use super::*;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

fn pair() -> (Stream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Stream::new(ours.into()).unwrap(), theirs)
}

fn wire(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(frame);
    }
    bytes
}

/// Everything that is whole in `frames`, each looked at twice.
fn drain(frames: &mut Frames, found: &mut Vec<Vec<u8>>) -> Result<(), TooLong> {
    loop {
        let Some(frame) = frames.front()? else {
            return Ok(());
        };
        let first = frame.to_vec();
        assert_eq!(
            frames.front()?,
            Some(&first[..]),
            "the same until it is taken"
        );
        found.push(first);
        frames.take();
    }
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces(
        lengths in prop::collection::vec(prop_oneof![0_usize..2000, Just(LONGEST), 0_usize..=LONGEST], 1..12),
        cuts in prop::collection::vec(prop_oneof![1_usize..8, 1_usize..3000, 1_usize..200_000], 1..40),
    ) {
        let frames: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(seed, length)| (0..*length).map(|at| (at * 31 + seed) as u8).collect())
            .collect();
        let bytes = wire(&frames);
        let (mut parser, mut found) = (Frames::default(), Vec::new());
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < bytes.len() {
            let room = parser.room();
            let count = room.len().min(*cuts.next().unwrap()).min(bytes.len() - at);
            prop_assert!(count > 0, "there is always room for more");
            room[..count].copy_from_slice(&bytes[at..at + count]);
            parser.filled(count);
            at += count;
            drain(&mut parser, &mut found).unwrap();
        }
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn lengths_that_no_frame_has_are_found_at_once(length in LONGEST as u32 + 1.., split in 1_usize..4) {
        let mut parser = Frames::default();
        let bytes = [&wire(&[vec![1, 2]])[..], &length.to_be_bytes()].concat();
        let (first, second) = bytes.split_at(6 + split);
        let mut found = Vec::new();
        for (part, expected) in [(first, Ok(())), (second, Err(TooLong(length)))] {
            parser.room()[..part.len()].copy_from_slice(part);
            parser.filled(part.len());
            prop_assert_eq!(drain(&mut parser, &mut found), expected);
        }
        prop_assert_eq!(found, [vec![1, 2]]);
    }
}

#[test]
fn only_connected_stream_sockets_are_taken() {
    let (datagram, _peer) = UnixDatagram::pair().unwrap();
    assert!(Stream::new(datagram.into()).is_err());
    let folder = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    assert!(Stream::new(listener.into()).is_err(), "nobody is there");
    assert!(Stream::new(tempfile::tempfile().unwrap().into()).is_err());
}

#[test]
fn a_slow_peer_gets_everything_and_what_waits_is_bounded() {
    let (stream, mut theirs) = pair();
    let (mut queued, mut blocked) = (Vec::new(), 0);
    for seed in 0.. {
        let length = 1 + (seed * 7919) % 9000;
        let frame = vec![seed as u8; length];
        if !stream.queue(length, |place| {
            place.copy_from_slice(&frame);
            length
        }) {
            break;
        }
        queued.push(frame);
        if stream.flush().unwrap() == Sent::Blocked {
            blocked += 1;
        }
    }
    assert!(blocked > 0);
    assert!(stream.outgoing().bytes.len() < OUTGOING + PREFIX + LONGEST);
    let expected = wire(&queued);
    let mut got = vec![0; expected.len()];
    let reader = std::thread::spawn(move || {
        theirs.read_exact(&mut got).unwrap();
        (got, theirs)
    });
    while stream.flush().unwrap() == Sent::Blocked {
        std::thread::yield_now();
    }
    let (got, theirs) = reader.join().unwrap();
    assert!(got == expected, "bytes were lost or changed");
    drop(theirs);
    assert!(stream.queue(1, |_| 1));
    assert!(matches!(stream.flush(), Err(Lost::Closed)));
}

#[test]
fn a_peer_that_leaves_is_noticed_after_its_last_frame() {
    let (stream, mut theirs) = pair();
    let mut frames = stream.incoming();
    assert_eq!(stream.receive(&mut frames).unwrap(), Received::Nothing);
    theirs.write_all(&wire(&[vec![7; 60]])).unwrap();
    drop(theirs);
    assert_eq!(stream.receive(&mut frames).unwrap(), Received::Some);
    let mut found = Vec::new();
    drain(&mut frames, &mut found).unwrap();
    assert_eq!(found, [vec![7; 60]]);
    assert!(matches!(stream.receive(&mut frames), Err(Lost::Closed)));
    drop(frames);
    assert!(stream.leave() && !stream.leave() && stream.is_gone());
}

#[test]
fn what_is_no_frame_is_not_queued() {
    let (stream, _theirs) = pair();
    for length in [0, LONGEST + 1, usize::MAX] {
        assert!(!stream.queue(length, |_| 0), "{length}");
    }
    assert_eq!(stream.flush().unwrap(), Sent::All);
}

#[test]
fn what_was_queued_goes_with_the_peer_also_half_sent() {
    let (stream, _theirs) = pair();
    assert!(stream.has_peer());
    assert!(stream.queue(100, |place| place.len()));
    stream.outgoing().sent = 50;
    assert!(stream.leave() && !stream.leave());
    assert!(stream.queue(10, |place| place.len()));
    assert_eq!(stream.outgoing().bytes.len(), PREFIX + 10);
    assert_eq!(stream.outgoing().sent, 0);
    assert!(!stream.has_peer());
    let (stream, theirs) = pair();
    assert!(stream.has_peer());
    drop(theirs);
    assert!(!stream.has_peer() && !stream.is_gone());
}

#[test]
fn a_host_short_of_memory_is_no_reason_to_leave() {
    for error in [Errno::NOBUFS, Errno::NOMEM] {
        assert!(refused(error).is_ok());
    }
    for error in [Errno::PIPE, Errno::CONNRESET] {
        assert!(matches!(refused(error), Err(Lost::Closed)));
    }
    assert!(matches!(refused(Errno::BADF), Err(Lost::Socket(_))));
}
