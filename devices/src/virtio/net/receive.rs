//! Frames from the tap to the guest.

use super::device::Card;
use crate::backend::tap::{Batch, HEADER, Tap};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::exec::{readable, sleep, yield_now};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The largest frame that a tap gives: 64 KiB of IP with its Ethernet and virtio headers.
const LARGEST: usize = 65_536 + 18 + HEADER;
/// Offset of the number of buffers in the header.
const BUFFERS: std::ops::Range<usize> = 10..12;
/// Frames that are delivered before other queues have their turn.
const BURST: usize = 64;
/// How long a tap that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// Frames that are read from the tap in one call at most. Each has room of its own, which takes
/// memory once such a frame has come.
const AHEAD: usize = 16;

/// Frames that were read and wait for buffers.
struct Frames {
    batch: Batch,
    rooms: Vec<Box<[u8]>>,
    /// Room and length of those that wait, oldest first.
    waiting: VecDeque<(usize, usize)>,
    /// How many to ask for: a call for a frame that is not there is not free.
    next: usize,
}

/// How reading frames went.
enum Got {
    Frames,
    Nothing,
    Failure,
}

impl Frames {
    fn new() -> Self {
        Self {
            batch: Batch::default(),
            rooms: Vec::new(),
            waiting: VecDeque::new(),
            next: 1,
        }
    }

    /// Reads frames; none may wait.
    fn read(&mut self, tap: &Tap) -> Got {
        while self.rooms.len() < self.next {
            self.rooms.push(vec![0; LARGEST].into());
        }
        let rooms = self.rooms.get_mut(..self.next).unwrap_or_default();
        let mut failed = false;
        for (room, result) in self.batch.receive(tap, rooms).iter().enumerate() {
            match usize::try_from(*result) {
                Ok(length) if length > HEADER => self.waiting.push_back((room, length)),
                Err(_) if *result == -libc::EAGAIN => {}
                _ => failed = true,
            }
        }
        let all = self.waiting.len() == self.next;
        self.next = if all { (self.next * 2).min(AHEAD) } else { 1 };
        match (self.waiting.is_empty(), failed) {
            (false, _) => Got::Frames,
            (true, true) => Got::Failure,
            (true, false) => Got::Nothing,
        }
    }
}

/// Serves one receive queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, card: Arc<Card>, pair: usize, mergeable: bool) {
    let Some(tap) = card.tap(pair) else {
        return;
    };
    let mut frames = Frames::new();
    loop {
        if frames.waiting.is_empty() {
            // The doorbell also rings for a stop.
            match race(queue.kicked(), readable(tap.fd())).await {
                First::A(false) => return,
                First::A(true) => continue,
                First::B(_) => {}
            }
        }
        match burst(&queue, &card, tap, &mut frames, mergeable) {
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

/// The driver's buffers in a burst.
struct Buffers<'a> {
    queue: &'a Arc<Virtqueue>,
    /// Taken, in order, and not used.
    spare: VecDeque<Element>,
    /// With what was written to each; the driver does not see them yet.
    filled: Vec<(Element, u32)>,
}

impl Buffers<'_> {
    /// The next one; `ahead` are needed at least.
    fn take(&mut self, ahead: usize) -> Option<Element> {
        if self.spare.is_empty() {
            self.spare.extend(self.queue.next_many(ahead));
        }
        self.spare.pop_front()
    }

    /// Takes back what was taken last.
    fn untake(&mut self, elements: Vec<Element>) {
        for element in elements.into_iter().rev() {
            self.spare.push_front(element);
        }
    }
}

/// Delivers frames until something is missing. The driver hears of all of them together.
fn burst(
    queue: &Arc<Virtqueue>,
    card: &Card,
    tap: &Tap,
    frames: &mut Frames,
    mergeable: bool,
) -> Burst {
    let mut buffers = Buffers {
        queue,
        spare: VecDeque::new(),
        filled: Vec::new(),
    };
    let began = Instant::now();
    let end = fill(&mut buffers, card, tap, frames, mergeable);
    queue.give_back(buffers.spare.into());
    if !buffers.filled.is_empty() {
        queue.complete_all(buffers.filled);
        card.stats.rx.burst(began.elapsed());
    }
    end
}

/// Copies frames into buffers until something is missing.
fn fill(
    buffers: &mut Buffers<'_>,
    card: &Card,
    tap: &Tap,
    frames: &mut Frames,
    mergeable: bool,
) -> Burst {
    let (mut handled, mut delivered, mut bytes) = (0, 0, 0);
    let end = loop {
        if frames.waiting.is_empty() {
            if handled >= BURST {
                break Burst::More;
            }
            match frames.read(tap) {
                Got::Frames => {}
                Got::Nothing => break Burst::Drained,
                Got::Failure => break Burst::Failed,
            }
        }
        let ahead = frames.waiting.len();
        let Some(&(room, length)) = frames.waiting.front() else {
            break Burst::Drained;
        };
        let frame = frames.rooms.get_mut(room).and_then(|r| r.get_mut(..length));
        let outcome = match frame {
            Some(frame) if card.link => deliver(buffers, frame, ahead, mergeable),
            _ => Delivery::Dropped,
        };
        match outcome {
            Delivery::Done => {
                delivered += 1;
                bytes += length - HEADER;
            }
            Delivery::Dropped => card.stats.rx.dropped(1),
            Delivery::TooFew => break Burst::Full,
        }
        frames.waiting.pop_front();
        handled += 1;
    };
    card.stats.rx.passed(delivered, bytes);
    end
}

/// What became of a frame.
enum Delivery {
    Done,
    Dropped,
    /// The driver offers too few buffers now: it waits.
    TooFew,
}

/// Copies a frame into buffers of the driver. `ahead` frames wait, this one among them.
fn deliver(buffers: &mut Buffers<'_>, frame: &mut [u8], ahead: usize, mergeable: bool) -> Delivery {
    let mut taken: Vec<Element> = Vec::with_capacity(1);
    let mut room = 0;
    while room < frame.len() as u64 {
        if !mergeable && !taken.is_empty() {
            // One buffer is all that a frame may have, and this one is too small.
            buffers.untake(taken);
            return Delivery::Dropped;
        }
        let Some(element) = buffers.take(ahead) else {
            buffers.untake(taken);
            return Delivery::TooFew;
        };
        room += element.writable_len();
        taken.push(element);
    }
    // virtio 1.3 §5.1.6.4: 1 also without mergeable buffers.
    let count = u16::try_from(taken.len()).unwrap_or(u16::MAX);
    if let Some(place) = frame.get_mut(BUFFERS) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let mut rest: &[u8] = frame;
    for element in taken {
        let written = element.write_at(0, rest);
        rest = rest.get(written..).unwrap_or_default();
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        buffers.filled.push((element, written));
    }
    Delivery::Done
}
