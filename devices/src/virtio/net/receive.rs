//! Frames from the tap to the guest.

use super::device::Card;
use crate::backend::tap::{HEADER, Tap};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::exec::{readable, sleep, yield_now};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// The largest frame that a tap gives: 64 KiB of IP with its Ethernet and virtio headers.
const LARGEST: usize = 65_536 + 18 + HEADER;
/// Offset of the number of buffers in the header.
const BUFFERS: std::ops::Range<usize> = 10..12;
/// Frames that are delivered before other queues have their turn.
const BURST: usize = 64;
/// How long a tap that failed is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// A frame that waits for buffers.
struct Frame {
    bytes: Box<[u8]>,
    /// 0 when there is none.
    length: usize,
}

/// How reading a frame went.
enum Got {
    Frame,
    Nothing,
    Failure,
}

impl Frame {
    fn new() -> Self {
        Self {
            bytes: vec![0; LARGEST].into(),
            length: 0,
        }
    }

    fn read(&mut self, tap: &Tap) -> Got {
        match tap.receive(&mut self.bytes) {
            Ok(length) if length > HEADER => {
                self.length = length;
                Got::Frame
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Got::Nothing,
            _ => Got::Failure,
        }
    }
}

/// Serves one receive queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, card: Arc<Card>, pair: usize, mergeable: bool) {
    let Some(tap) = card.taps.get(pair) else {
        return;
    };
    let mut frame = Frame::new();
    loop {
        if frame.length == 0 {
            // The doorbell also rings for a stop.
            match race(queue.kicked(), readable(tap.fd())).await {
                First::A(false) => return,
                First::A(true) => continue,
                First::B(_) => {}
            }
        }
        match burst(&queue, &card, tap, &mut frame, mergeable) {
            Burst::Drained => {}
            Burst::More => yield_now().await,
            Burst::Full if queue.kicked().await => {}
            Burst::Full => return,
            Burst::Failed => {
                card.stats.rx.failed();
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

/// Buffers with what was written to each, which the driver does not see yet.
type Filled = Vec<(Element, u32)>;

/// Delivers frames until something is missing. The driver hears of all of them together.
fn burst(
    queue: &Arc<Virtqueue>,
    card: &Card,
    tap: &Tap,
    frame: &mut Frame,
    mergeable: bool,
) -> Burst {
    let mut filled = Filled::new();
    let end = fill((queue, &mut filled), card, tap, frame, mergeable);
    if !filled.is_empty() {
        queue.complete_all(filled);
    }
    end
}

/// Copies frames into buffers until something is missing.
fn fill(
    (queue, filled): (&Arc<Virtqueue>, &mut Filled),
    card: &Card,
    tap: &Tap,
    frame: &mut Frame,
    mergeable: bool,
) -> Burst {
    for _ in 0..BURST {
        if frame.length == 0 {
            match frame.read(tap) {
                Got::Frame => {}
                Got::Nothing => return Burst::Drained,
                Got::Failure => return Burst::Failed,
            }
        }
        if !card.link {
            card.stats.rx.dropped();
        } else if !deliver((queue, &mut *filled), card, frame, mergeable) {
            return Burst::Full;
        }
        frame.length = 0;
    }
    Burst::More
}

/// Copies a frame into buffers of the driver; false when it offers too few now.
fn deliver(
    (queue, filled): (&Arc<Virtqueue>, &mut Filled),
    card: &Card,
    frame: &mut Frame,
    mergeable: bool,
) -> bool {
    let mut taken: Vec<Element> = Vec::new();
    let mut room = 0;
    while room < frame.length as u64 {
        if !mergeable && !taken.is_empty() {
            // One buffer is all that a frame may have, and this one is too small.
            queue.give_back(taken);
            card.stats.rx.dropped();
            return true;
        }
        let Some(element) = queue.next() else {
            queue.give_back(taken);
            return false;
        };
        room += element.writable_len();
        taken.push(element);
    }
    // virtio 1.3 §5.1.6.4: 1 also without mergeable buffers.
    let count = u16::try_from(taken.len()).unwrap_or(u16::MAX);
    if let Some(place) = frame.bytes.get_mut(BUFFERS) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let mut rest = frame.bytes.get(..frame.length).unwrap_or_default();
    for element in taken {
        let written = element.write_at(0, rest);
        rest = rest.get(written..).unwrap_or_default();
        filled.push((element, u32::try_from(written).unwrap_or(u32::MAX)));
    }
    card.stats.rx.passed(frame.length - HEADER);
    true
}
