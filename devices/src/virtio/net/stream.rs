//! Both lives of frames on a stream socket.
//!
//! What the guest sends is copied into the connection's queue and done with; while that is full the
//! guest's buffers wait, and nothing of them is held. What comes waits in the connection when the
//! guest offers no buffers, and then in the socket. So neither side makes this one take memory.
//!
//! When the peer leaves the guest sees its link go down, and what it sends is dropped, until another one
//! is there in its place: so whoever has waited asks anew whom to serve.

use super::device::Card;
use crate::backend::stream::{LONGEST, Lost, Received, Sent, Stream};
use crate::backend::tap::HEADER;
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::exec::{hung_up, readable, sleep, writable, yield_now};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_api::control::Event;

/// Frames of one burst, before other queues have their turn.
const BURST: usize = 64;
/// How long a socket is left alone that the host has no memory for.
const STARVED: Duration = Duration::from_millis(10);

/// The peer is gone: said once, to the log, to the guest and to whoever may bring another one.
fn lost(queue: &Virtqueue, card: &Card, stream: &Stream, why: &Lost) {
    if stream.leave() {
        tracing::warn!(id = card.id, %why, "the card has no network any more: its link is down");
        queue.config_changed();
        card.requests.event(Event::CardLost {
            device: card.id.clone(),
        });
    }
}

/// Waits a moment, or for the doorbell; false when the queue was stopped.
async fn rest(queue: &Virtqueue) -> bool {
    match race(queue.kicked(), sleep(STARVED)).await {
        First::A(goes_on) => goes_on,
        First::B(()) => true,
    }
}

/// Serves the receive queue until it is stopped.
pub(super) async fn receive(queue: Arc<Virtqueue>, card: Arc<Card>, mergeable: bool) {
    while let Some(stream) = card.stream() {
        let goes_on = match to_guest(&queue, &card, &stream, mergeable) {
            // The doorbell also rings for a stop.
            Burst::Drained => match race(queue.kicked(), readable(stream.fd())).await {
                First::A(goes_on) => goes_on,
                First::B(Ok(())) => true,
                First::B(Err(error)) => {
                    lost(&queue, &card, &stream, &Lost::Socket(error));
                    true
                }
            },
            Burst::More => {
                yield_now().await;
                true
            }
            Burst::Starved => rest(&queue).await,
            // What waits for buffers is lost with its peer: the guest had better know at once.
            Burst::Full => match race(queue.kicked(), hung_up(stream.fd())).await {
                First::A(goes_on) => goes_on,
                First::B(left) => {
                    let why = left.map_or_else(Lost::Socket, |()| Lost::Closed);
                    lost(&queue, &card, &stream, &why);
                    true
                }
            },
            Burst::Lost(why) => {
                lost(&queue, &card, &stream, &why);
                queue.kicked().await
            }
            Burst::Gone => queue.kicked().await,
        };
        if !goes_on {
            return;
        }
    }
}

/// How a burst to the guest ended.
enum Burst {
    /// Nothing more has come.
    Drained,
    /// There may be more: others come first.
    More,
    /// The driver offers too few buffers.
    Full,
    /// The host has no memory now.
    Starved,
    /// The peer has just gone.
    Lost(Lost),
    /// It went before.
    Gone,
}

/// Delivers frames until something is missing. The driver hears of all of them together.
fn to_guest(queue: &Arc<Virtqueue>, card: &Card, stream: &Stream, mergeable: bool) -> Burst {
    if stream.is_gone() {
        return Burst::Gone;
    }
    let began = Instant::now();
    let mut filled = Vec::new();
    let end = fill(queue, &mut filled, (card, stream), mergeable);
    if !filled.is_empty() {
        queue.complete_all(filled);
        card.stats.rx.burst(began.elapsed());
    }
    end
}

/// Copies frames into buffers until something is missing.
fn fill(
    queue: &Arc<Virtqueue>,
    filled: &mut Vec<(Element, u32)>,
    (card, stream): (&Card, &Stream),
    mergeable: bool,
) -> Burst {
    let mut frames = stream.incoming();
    let (mut delivered, mut bytes) = (0, 0);
    let mut handled = 0;
    let end = loop {
        let frame = match frames.front() {
            Ok(Some(_)) if handled >= BURST => break Burst::More,
            Ok(Some(frame)) => frame,
            Ok(None) => match stream.receive(&mut frames) {
                Ok(Received::Some) => continue,
                Ok(Received::Nothing) => break Burst::Drained,
                Ok(Received::Starved) => break Burst::Starved,
                Err(why) => break Burst::Lost(why),
            },
            Err(why) => break Burst::Lost(why.into()),
        };
        let outcome = match (frame, card.link) {
            ([], _) => Delivery::Nothing,
            (_, false) => Delivery::Dropped,
            (frame, true) => deliver(queue, filled, frame, mergeable),
        };
        match outcome {
            Delivery::Done => {
                delivered += 1;
                bytes += frame.len();
            }
            Delivery::Dropped => card.stats.rx.dropped(1),
            Delivery::Nothing => card.stats.rx.failed(1),
            Delivery::TooFew => break Burst::Full,
        }
        frames.take();
        handled += 1;
    };
    card.stats.rx.passed(delivered, bytes);
    end
}

/// What became of a frame.
enum Delivery {
    Done,
    Dropped,
    /// It was none.
    Nothing,
    /// The driver offers too few buffers now: it waits.
    TooFew,
}

/// Copies a frame, a header in front of it, into buffers of the driver.
fn deliver(
    queue: &Arc<Virtqueue>,
    filled: &mut Vec<(Element, u32)>,
    frame: &[u8],
    mergeable: bool,
) -> Delivery {
    let mut taken: Vec<Element> = Vec::with_capacity(1);
    let mut room = 0;
    while room < (HEADER + frame.len()) as u64 {
        if !mergeable && !taken.is_empty() {
            // One buffer is all that a frame may have, and this one is too small.
            queue.give_back(taken);
            return Delivery::Dropped;
        }
        let Some(element) = queue.next() else {
            queue.give_back(taken);
            return Delivery::TooFew;
        };
        room += element.writable_len();
        taken.push(element);
    }
    // virtio 1.3 §5.1.6.4: nothing is unfinished; the number of buffers, 1 also without mergeable ones.
    let [low, high] = u16::try_from(taken.len()).unwrap_or(u16::MAX).to_le_bytes();
    let header: [u8; HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, high];
    let mut rest = [&header[..], frame];
    for element in taken {
        let mut at = 0;
        for part in &mut rest {
            let written = element.write_at(at as u64, part);
            *part = part.get(written..).unwrap_or_default();
            at += written;
        }
        filled.push((element, u32::try_from(at).unwrap_or(u32::MAX)));
    }
    Delivery::Done
}

/// Serves the transmit queue until it is stopped.
pub(super) async fn transmit(queue: Arc<Virtqueue>, card: Arc<Card>) {
    while let Some(stream) = card.stream() {
        let goes_on = match flush(&stream) {
            Ok(Sent::All) => {
                if from_guest(&queue, &card, &stream) {
                    yield_now().await;
                    true
                } else {
                    queue.kicked().await
                }
            }
            Ok(Sent::Blocked) => match race(queue.kicked(), writable(stream.fd())).await {
                First::A(goes_on) => goes_on,
                First::B(Ok(())) => true,
                First::B(Err(error)) => {
                    lost(&queue, &card, &stream, &Lost::Socket(error));
                    true
                }
            },
            Ok(Sent::Starved) => rest(&queue).await,
            Err(why) => {
                lost(&queue, &card, &stream, &why);
                true
            }
        };
        if !goes_on {
            return;
        }
    }
}

/// Sends what is queued; for a peer that is gone there is nothing.
fn flush(stream: &Stream) -> Result<Sent, Lost> {
    match stream.is_gone() {
        true => Ok(Sent::All),
        false => stream.flush(),
    }
}

/// Queues frames that the guest offers; false when it offers none.
fn from_guest(queue: &Arc<Virtqueue>, card: &Card, stream: &Stream) -> bool {
    let began = Instant::now();
    let mut offered = queue.next_many(BURST).into_iter();
    let (mut sent, mut bytes) = (0, 0);
    let mut done: Vec<(Element, u32)> = Vec::new();
    let mut rest = Vec::new();
    for element in offered.by_ref() {
        let length = element.readable_len().saturating_sub(HEADER as u64);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=LONGEST).contains(&length) {
            card.stats.tx.failed(1);
        } else if !card.link || stream.is_gone() {
            card.stats.tx.dropped(1);
        } else if stream.queue(length, |place| element.read_at(HEADER as u64, place)) {
            sent += 1;
            bytes += length;
        } else {
            rest.push(element);
            break;
        }
        done.push((element, 0));
    }
    rest.extend(offered);
    queue.give_back(rest);
    let any = !done.is_empty();
    if any {
        queue.complete_all(done);
        card.stats.tx.passed(sent, bytes);
        card.stats.tx.burst(began.elapsed());
    }
    any
}

#[cfg(test)]
mod tests;
