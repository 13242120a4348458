//! Frames from the tap to the guest.
//!
//! The kernel writes frames right into the driver's buffers, several in one call, one buffer for each.
//! What a buffer does not hold comes into a room of ours behind it, and goes on into more buffers, if
//! the driver takes frames in several; if not, the frame is dropped.
//!
//! ```text
//! none waits --taken: buffers--> read --> each fits, or is continued: used together
//!     ^                            |too few buffers to go on
//!     +-- waiting frames copied <--+ it and those behind it are copied out, and wait
//! ```
//!
//! Must never show the driver a frame out of order, nor hold a buffer while it sleeps: a pause waits
//! for all of them.

use super::device::Card;
use super::scratch::{Scratch, Waiting};
use crate::backend::tap::{HEADER, MOST, MOST_PIECES, Tap};
use crate::virtio::chain::{Chain, lend_all_writable};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::exec::{readable, sleep, yield_now};
use std::collections::VecDeque;
use std::iter::zip;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Offset of the number of buffers in the header.
const BUFFERS: u64 = 10;
/// Frames that are delivered before other queues have their turn.
const BURST: usize = MOST;
/// How long a tap that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// What a receive queue has beside its buffers.
struct Intake<'a> {
    waiting: Waiting<'a>,
    /// How many to ask for: a call for a frame that is not there is not free.
    next: usize,
}

impl Intake<'_> {
    /// Reads a frame into each of the elements, as far as there are some: how many bytes each got, and
    /// whether anything failed.
    fn read(&mut self, tap: &Tap, scratch: &mut Scratch, elements: &[Taken]) -> (Vec<usize>, bool) {
        let chains: Vec<&Chain> = elements.iter().map(|taken| &*taken.element).collect();
        let (batch, rooms) = scratch.parts(chains.len());
        let (mut failed, mut lengths) = (false, Vec::new());
        lend_all_writable(&chains, rooms, MOST_PIECES, |rooms| {
            let results = batch.receive(tap, rooms);
            for (chain, result) in zip(&chains, results) {
                if *result == -libc::EFAULT {
                    chain.touch();
                }
                let length = usize::try_from(*result).unwrap_or(0);
                let is_frame = length > HEADER;
                failed |= !is_frame && *result != -libc::EAGAIN;
                lengths.push(if is_frame { length } else { 0 });
            }
            results.iter().map(|result| touched(*result)).collect()
        });
        let came = lengths.iter().filter(|length| **length > 0).count();
        self.next = match came == lengths.len() {
            true => (self.next * 2).min(BURST),
            false => came.max(1),
        };
        (lengths, failed)
    }
}

/// How many bytes of its memory a read with this result may have written.
fn touched(result: i32) -> usize {
    match usize::try_from(result) {
        Ok(length) => length,
        // There was no frame.
        Err(_) if result == -libc::EAGAIN => 0,
        // A frame was on its way when something went wrong.
        Err(_) => usize::MAX,
    }
}

/// Serves one receive queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, card: Arc<Card>, pair: usize, mergeable: bool) {
    let Some(tap) = card.tap(pair) else {
        return;
    };
    let mut intake = Intake {
        waiting: Waiting::new(&card),
        next: 1,
    };
    loop {
        if intake.waiting.is_empty() {
            // The doorbell also rings for a stop.
            match race(queue.kicked(), readable(tap.fd())).await {
                First::A(false) => return,
                First::A(true) => continue,
                First::B(_) => {}
            }
        }
        match burst(&queue, &card, tap, &mut intake, mergeable) {
            Burst::Drained => {}
            Burst::More => yield_now().await,
            Burst::Full if queue.kicked().await => {}
            Burst::Full => return,
            Burst::Failed => {
                card.stats.rx.failed(1);
                // A tap that was taken down or away: not worth a busy loop.
                if race(queue.kicked(), sleep(RETRY)).await == First::A(false) {
                    return;
                }
            }
        }
    }
}

/// How a burst ended.
enum Burst {
    /// The tap has no more frames.
    Drained,
    /// There may be more: others come first.
    More,
    /// The driver offers too few buffers.
    Full,
    /// The tap cannot be read.
    Failed,
}

/// A buffer of the driver.
struct Taken {
    element: Element,
    /// Its place among those of the burst.
    place: usize,
}

/// The driver's buffers in a burst.
struct Buffers<'a> {
    queue: &'a Arc<Virtqueue>,
    mergeable: bool,
    /// Taken and not used.
    spare: VecDeque<Taken>,
    /// How many were taken.
    taken: usize,
    /// The first place behind all that were used.
    used: usize,
    /// With what was written to each; the driver does not see them yet.
    filled: Vec<(Element, u32)>,
    /// Frames and their bytes that are in these.
    frames: usize,
    bytes: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Done,
    Dropped,
    /// The driver offers too few buffers now: it waits.
    TooFew,
}

impl<'a> Buffers<'a> {
    fn new(queue: &'a Arc<Virtqueue>, mergeable: bool) -> Self {
        Self {
            queue,
            mergeable,
            spare: VecDeque::new(),
            taken: 0,
            used: 0,
            filled: Vec::new(),
            frames: 0,
            bytes: 0,
        }
    }

    /// The next `count`, or fewer when there are fewer.
    fn take(&mut self, count: usize) -> Vec<Taken> {
        let more = count.saturating_sub(self.spare.len());
        if more > 0 {
            for element in self.queue.next_many(more) {
                let place = self.taken;
                self.taken += 1;
                self.spare.push_back(Taken { element, place });
            }
        }
        let count = count.min(self.spare.len());
        self.spare.drain(..count).collect()
    }

    fn untake(&mut self, several: Vec<Taken>) {
        for taken in several.into_iter().rev() {
            self.spare.push_front(taken);
        }
    }

    /// Hands out a frame of `length` bytes that is whole in its buffer.
    fn fill(&mut self, taken: Taken, length: usize) {
        // virtio 1.3 §5.1.6.4: one buffer, also where a driver could take more.
        taken.element.write_at(BUFFERS, &1_u16.to_le_bytes());
        self.push(taken, length);
        self.delivered(length);
    }

    fn push(&mut self, taken: Taken, written: usize) {
        self.used = self.used.max(taken.place + 1);
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.filled.push((taken.element, written));
    }

    fn delivered(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length.saturating_sub(HEADER);
    }

    /// Hands out a frame over as many buffers as it needs. Its first `there` bytes are in `buffer`
    /// already, and `rest` are the others.
    fn deliver(&mut self, buffer: Taken, there: usize, rest: &[u8]) -> Delivery {
        let length = there + rest.len();
        let mut buffers = vec![buffer];
        let mut room = buffers[0].element.writable_len();
        while room < length as u64 {
            if !self.mergeable {
                // One buffer is all that a frame may have, and this one is too small.
                self.untake(buffers);
                return Delivery::Dropped;
            }
            let Some(next) = self.take(1).pop() else {
                self.untake(buffers);
                return Delivery::TooFew;
            };
            room += next.element.writable_len();
            buffers.push(next);
        }
        write(&buffers, there as u64, rest);
        let count = u16::try_from(buffers.len()).unwrap_or(u16::MAX);
        write(&buffers, BUFFERS, &count.to_le_bytes());
        let mut left = length;
        for taken in buffers {
            let room = usize::try_from(taken.element.writable_len()).unwrap_or(usize::MAX);
            let written = left.min(room);
            left -= written;
            self.push(taken, written);
        }
        self.delivered(length);
        Delivery::Done
    }

    /// Ends the burst: the driver sees all frames at once, and what was not needed is offered again.
    fn end(mut self, card: &Card, began: Instant) {
        let mut spare = Vec::from(self.spare);
        spare.sort_by_key(|taken| taken.place);
        let spare = spare.into_iter().map(|mut taken| {
            if taken.place < self.used {
                taken.element.overtaken();
            }
            taken.element
        });
        self.queue.give_back(spare.collect());
        if !self.filled.is_empty() {
            self.queue.complete_all(std::mem::take(&mut self.filled));
            card.stats.rx.passed(self.frames, self.bytes);
            card.stats.rx.burst(began.elapsed());
        }
    }
}

/// Copies bytes into buffers, from byte `offset` of all of them on.
fn write(buffers: &[Taken], offset: u64, bytes: &[u8]) {
    let (mut offset, mut rest) = (offset, bytes);
    for Taken { element, .. } in buffers {
        if rest.is_empty() {
            return;
        }
        let written = element.write_at(offset, rest);
        rest = rest.get(written..).unwrap_or_default();
        offset = offset.saturating_sub(element.writable_len());
    }
}

/// Delivers frames until something is missing. The driver hears of all of them together.
fn burst(
    queue: &Arc<Virtqueue>,
    card: &Card,
    tap: &Tap,
    intake: &mut Intake<'_>,
    mergeable: bool,
) -> Burst {
    let began = Instant::now();
    let mut scratch = card.shared.scratch();
    if !card.link {
        return drain(card, tap, &mut scratch);
    }
    let mut buffers = Buffers::new(queue, mergeable);
    let end = fill(&mut buffers, card, (tap, &mut scratch), intake);
    // The end of the burst may be the end of a reset.
    drop(scratch);
    buffers.end(card, began);
    end
}

/// Throws away what comes, for the cable is not plugged in.
fn drain(card: &Card, tap: &Tap, scratch: &mut Scratch) -> Burst {
    let (_, [room, ..]) = scratch.parts(1) else {
        return Burst::Failed;
    };
    for _ in 0..BURST {
        match tap.receive(room) {
            Ok(_) => card.stats.rx.dropped(1),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Burst::Drained,
            Err(_) => return Burst::Failed,
        }
    }
    Burst::More
}

/// Fills buffers with frames until something is missing.
fn fill(
    buffers: &mut Buffers<'_>,
    card: &Card,
    (tap, scratch): (&Tap, &mut Scratch),
    intake: &mut Intake<'_>,
) -> Burst {
    let mut handled = 0;
    while handled < BURST {
        // Also right after a read: those behind the first that waits have given their buffers back.
        if !hand_out_waiting(buffers, card, intake) {
            return Burst::Full;
        }
        let most = if card.shared.may_read_ahead() {
            intake.next
        } else {
            1
        };
        let elements = buffers.take(most);
        if elements.is_empty() {
            return Burst::Full;
        }
        let asked = elements.len();
        let (lengths, failed) = intake.read(tap, scratch, &elements);
        let came = lengths.iter().filter(|length| **length > 0).count();
        handled += came;
        settle(buffers, (card, scratch), intake, elements, &lengths);
        if came < asked && intake.waiting.is_empty() {
            return match failed && came == 0 {
                true => Burst::Failed,
                false => Burst::Drained,
            };
        }
    }
    Burst::More
}

/// Copies waiting frames into buffers; whether all have left.
fn hand_out_waiting(buffers: &mut Buffers<'_>, card: &Card, intake: &mut Intake<'_>) -> bool {
    while let Some(frame) = intake.waiting.front() {
        let Some(buffer) = buffers.take(1).pop() else {
            return false;
        };
        match buffers.deliver(buffer, 0, frame) {
            Delivery::TooFew => return false,
            Delivery::Dropped => card.stats.rx.dropped(1),
            Delivery::Done => {}
        }
        intake.waiting.pop();
    }
    true
}

/// Hands out what a read gave to each element.
fn settle(
    buffers: &mut Buffers<'_>,
    (card, scratch): (&Card, &Scratch),
    intake: &mut Intake<'_>,
    elements: Vec<Taken>,
    lengths: &[usize],
) {
    let mut frames = Vec::new();
    for (at, (taken, length)) in zip(elements, lengths).enumerate() {
        match length {
            0 => buffers.spare.push_back(taken),
            _ => frames.push((at, taken, *length)),
        }
    }
    for (at, taken, length) in frames {
        let there = there(&taken, length);
        let rest = scratch.room(at).get(..length - there);
        let rest = rest.unwrap_or_default();
        if !intake.waiting.is_empty() {
            // Those behind one that waits wait as well.
            intake.waiting.push(copy_out(&taken, there, rest));
            buffers.untake(vec![taken]);
        } else if rest.is_empty() {
            buffers.fill(taken, length);
        } else {
            match buffers.deliver(taken, there, rest) {
                Delivery::Done => {}
                Delivery::Dropped => card.stats.rx.dropped(1),
                // Its first buffer is in front of those at hand.
                Delivery::TooFew => {
                    let first = buffers.spare.front();
                    if let Some(first) = first {
                        intake.waiting.push(copy_out(first, there, rest));
                    }
                    // As many as there were buffers for; more are copied twice.
                    intake.next = at.max(1);
                }
            }
        }
    }
}

/// How many bytes of a frame of `length` were read into its buffer.
fn there(taken: &Taken, length: usize) -> usize {
    if taken.element.writable_count() >= MOST_PIECES {
        return 0;
    }
    usize::try_from(taken.element.writable_len()).map_or(length, |room| room.min(length))
}

/// A frame whose first `there` bytes are in a buffer.
fn copy_out(taken: &Taken, there: usize, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; there];
    let read = taken.element.read_back(&mut frame);
    frame.truncate(read);
    frame.extend_from_slice(rest);
    frame
}
