//! Frames from the guest to the tap.

use super::device::Card;
use crate::backend::tap::HEADER;
use crate::virtio::queue::{Element, Virtqueue};
use images::exec::yield_now;
use std::sync::Arc;

/// Frames that are sent before other queues have their turn.
const BURST: usize = 64;

/// Serves one transmit queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, card: Arc<Card>, pair: usize) {
    loop {
        let mut sent = Vec::new();
        while sent.len() < BURST
            && let Some(element) = queue.next()
        {
            send(&card, pair, &element);
            sent.push((element, 0));
        }
        let full = sent.len() == BURST;
        if !sent.is_empty() {
            // The driver hears of all of them together.
            queue.complete_all(sent);
        }
        if full {
            yield_now().await;
        } else if !queue.kicked().await {
            return;
        }
    }
}

/// Sends one frame; what cannot be sent is dropped, as on any network.
fn send(card: &Card, pair: usize, element: &Element) {
    let length = element.readable_len();
    let Some(tap) = card.taps.get(pair).filter(|_| card.link) else {
        return card.stats.tx.dropped();
    };
    let Some(payload) = length.checked_sub(HEADER as u64).filter(|left| *left > 0) else {
        return card.stats.tx.failed();
    };
    match element.lend_readable(0, length, |pieces| tap.send(pieces)) {
        Ok(_) => card.stats.tx.passed(usize::try_from(payload).unwrap_or(0)),
        Err(_) => card.stats.tx.failed(),
    }
}
