//! virtio-net (virtio 1.3, 5.1): frames out as fast as the device takes them, and frames in, counted.
//!
//! Frames have the EtherType for local experiments and a sequence number, so that nobody else's count
//! and every loss shows. No offload is agreed on, and a frame is one descriptor with its header.

use crate::boot::Boot;
use crate::memory::{self, load, store};
use crate::say;
use crate::virtio::{Device, EVENT_INDEX_FEATURE, Part, Queue};

/// Device type of a network card.
pub const NETWORK: u16 = 1;
/// Its queues.
const RECEIVE: u16 = 0;
pub const TRANSMIT: u16 = 1;
/// A control queue, and several queue pairs.
const PAIRS_FEATURES: u64 = 1 << 17 | 1 << 22;
/// Class 4, command 0 of the control queue.
const SET_PAIRS: u32 = 4;
/// Bytes of virtio's header before each frame.
const HEADER: u64 = 12;
/// Room for a frame with its header.
const BUFFER: u64 = 2048;
/// Offsets in a frame: its EtherType, and the sequence number (little-endian) behind it.
const TYPE: u64 = 12;
const NUMBER: u64 = 14;
/// 0x88b5 as it is read from the wire by a little-endian processor.
const EXPERIMENT: u16 = 0xb588;
/// Frames of other senders between two of ours, at most.
const STRANGERS: u64 = 10_000;

/// One direction of a card: a queue with a buffer per request.
struct Side {
    queue: Queue,
    buffers: u64,
}

impl Side {
    fn start(index: u16) -> Self {
        let mut device = Device::find(NETWORK, 0).start(EVENT_INDEX_FEATURE, 0);
        let queue = device.single_queue(index);
        let buffers = memory::take(u64::from(queue.requests()) * BUFFER);
        Self { queue, buffers }
    }

    fn buffer(&self, slot: u16) -> u64 {
        self.buffers + u64::from(slot) * BUFFER
    }

    /// Sends a frame of 64 bytes.
    fn send_short(&mut self, slot: u16) {
        let frame = Part::to_device(self.buffer(slot), (HEADER + 64) as u32);
        self.queue.submit(slot, &[frame]);
    }

    fn finished(&mut self) -> (u16, u32) {
        memory::wait_for("the network", || self.queue.done())
    }
}

/// Test: sends `count=` frames of `bytes=`, at most `depth=` at a time. The host takes the time between
/// the lines `go` and `done`, and counts what its tap got.
pub fn transmit(boot: &Boot) {
    let bytes = boot.number("bytes", 64);
    let count = boot.number("count", 1000);
    let mut side = Side::start(TRANSMIT);
    let depth = boot.number("depth", 256);
    let depth = depth.min(u64::from(side.queue.requests())).min(count);
    assert!((60..=BUFFER - HEADER).contains(&bytes) && depth > 0);
    for slot in 0..depth as u16 {
        address(side.buffer(slot) + HEADER);
    }
    let send = |side: &mut Side, slot: u16, number: u64| {
        let buffer = side.buffer(slot);
        store(buffer + HEADER + NUMBER, number as u32);
        let frame = Part::to_device(buffer, (HEADER + bytes) as u32);
        side.queue.submit(slot, &[frame]);
    };
    say!("go");
    for slot in 0..depth {
        send(&mut side, slot as u16, slot);
    }
    let mut kicks = u64::from(side.queue.kick());
    let (mut sent, mut done) = (depth, 0);
    while done < count {
        let mut slot = Some(side.finished().0);
        // All that have gone out get a successor, and one bell tells of them.
        while let Some(gone) = slot {
            done += 1;
            if sent < count {
                send(&mut side, gone, sent);
                sent += 1;
            }
            slot = side.queue.done().map(|(slot, _)| slot);
        }
        kicks += u64::from(side.queue.kick());
    }
    say!("done kicks={kicks}");
}

/// Test: takes two queue pairs into use (5.1.6.5.5), and sends `count=` frames on each at once.
pub fn pairs(boot: &Boot) {
    let count = boot.number("count", 1000);
    let mut device = Device::find(NETWORK, 0).start(PAIRS_FEATURES, PAIRS_FEATURES);
    let [_, first, _, second, mut control]: [Queue; 5] = device.queues();
    let place = memory::take(4096);
    // Class, command, the number of pairs, and the answer.
    store(place, u32::from(2u16) << 16 | SET_PAIRS);
    store(place + 4, 0xeeu8);
    let command = [Part::to_device(place, 4), Part::from_device(place + 4, 1)];
    control.submit(0, &command);
    let _told = control.kick();
    memory::wait_for("the control queue", || control.done());
    let answer: u8 = load(place + 4);
    assert!(answer == 0, "two pairs are answered with {answer}");
    let mut sides = [(1, first), (3, second)].map(|(number, queue)| {
        let buffers = memory::take(u64::from(queue.requests()) * BUFFER);
        (number, Side { queue, buffers }, [0u64; 2])
    });
    for (_, side, [sent, _]) in &mut sides {
        for slot in 0..side.queue.requests() {
            address(side.buffer(slot) + HEADER);
            side.send_short(slot);
            *sent += 1;
        }
        let _told = side.queue.kick();
    }
    while sides.iter().any(|(.., [_, done])| *done < count) {
        for (_, side, [sent, done]) in &mut sides {
            while let Some((slot, _)) = side.queue.done() {
                *done += 1;
                if *sent < count {
                    side.send_short(slot);
                    *sent += 1;
                }
            }
            let _told = side.queue.kick();
        }
    }
    for (number, _, [_, done]) in &sides {
        say!("queue {number}: {done} frames");
    }
}

/// Broadcast, from an address of this guest.
fn address(frame: u64) {
    for at in 0..6 {
        store(frame + at, 0xffu8);
    }
    for (at, byte) in (6..).zip([0x52u8, 0x54, 0, 0, 0, 1]) {
        store(frame + at, byte);
    }
    store(frame + TYPE, EXPERIMENT);
}

/// Test: says `ready`, and after `warm=` frames `go`; `count=` frames later `done`, with the frames that
/// are missing between them. Each has to be `bytes=` long and have a higher number than the last.
pub fn receive(boot: &Boot) {
    let bytes = boot.number("bytes", 64);
    let count = boot.number("count", 1000);
    let warm = boot.number("warm", 0);
    let mut side = Side::start(RECEIVE);
    for slot in 0..side.queue.requests() {
        offer(&mut side, slot);
    }
    let _told = side.queue.kick();
    say!("ready");
    let mut last = None;
    for _ in 0..warm {
        let _told = next(&mut side, bytes, &mut last);
    }
    say!("go");
    let (mut kicks, mut first) = (0, None);
    for _ in 0..count {
        kicks += u64::from(next(&mut side, bytes, &mut last));
        first = first.or(last);
    }
    let span = last.zip(first).map(|(last, first)| last - first + 1);
    let lost = u64::from(span.unwrap_or(0)).saturating_sub(count);
    say!("done kicks={kicks} lost={lost}");
}

fn offer(side: &mut Side, slot: u16) {
    let room = Part::from_device(side.buffer(slot), BUFFER as u32);
    side.queue.submit(slot, &[room]);
}

/// Takes the next frame of the test and gives its buffer back; whether the device was told of buffers,
/// which it is once no frame is left to be taken.
fn next(side: &mut Side, bytes: u64, last: &mut Option<u32>) -> bool {
    let mut told = false;
    for _ in 0..STRANGERS {
        let (slot, length) = match side.queue.done() {
            Some(taken) => taken,
            None => {
                told |= side.queue.kick();
                side.finished()
            }
        };
        let frame = side.buffer(slot) + HEADER;
        let ours = load::<u16>(frame + TYPE) == EXPERIMENT;
        let number: u32 = load(frame + NUMBER);
        offer(side, slot);
        if !ours {
            continue;
        }
        let got = u64::from(length).saturating_sub(HEADER);
        assert!(got == bytes, "a frame of {got} bytes, not {bytes}");
        assert!(
            last.is_none_or(|last| number > last),
            "frame {number} after {last:?}"
        );
        *last = Some(number);
        return told;
    }
    panic!("only frames of others")
}
