//! Frames from the guest to the tap.
//!
//! A frame may lie in as many pieces as a chain has descriptors, 1024 (virtio 1.3 §2.7.5.3.1: no more
//! than the queue's size), which is what the kernel takes as well. Each border between two regions of
//! RAM inside a descriptor makes a piece more: a frame of more than 1024 is lost, counted as an error,
//! and nothing else happens. No driver comes near: 64 KiB in pages are 17 pieces and the header. A
//! longer chain is no chain, and the card then needs a reset.

use super::device::Card;
use crate::backend::tap::{HEADER, MOST};
use crate::virtio::chain::{Chain, lend_all_readable};
use crate::virtio::queue::{Element, Virtqueue};
use images::exec::yield_now;
use std::iter::zip;
use std::sync::Arc;
use std::time::Instant;

/// Frames that are sent together, before other queues have their turn.
const BURST: usize = MOST;

/// Serves one transmit queue until it is stopped.
pub(super) async fn serve(queue: Arc<Virtqueue>, card: Arc<Card>, pair: usize) {
    loop {
        let began = Instant::now();
        let frames = queue.next_many(BURST);
        let full = frames.len() == BURST;
        if !frames.is_empty() {
            send(&card, pair, &frames);
            // The driver hears of all of them together.
            queue.complete_all(frames.into_iter().map(|frame| (frame, 0)).collect());
            card.stats.tx.burst(began.elapsed());
        }
        if full {
            yield_now().await;
        } else if !queue.kicked().await {
            return;
        }
    }
}

/// Sends frames; what cannot be sent is dropped, as on any network.
fn send(card: &Card, pair: usize, frames: &[Element]) {
    let Some(tap) = card.tap(pair).filter(|_| card.link) else {
        return card.stats.tx.dropped(frames.len());
    };
    let whole: Vec<&Chain> = frames
        .iter()
        .map(|frame| &**frame)
        .filter(|frame| frame.readable_len() > HEADER as u64)
        .collect();
    card.stats.tx.failed(frames.len() - whole.len());
    lend_all_readable(&whole, |pieces| {
        let (mut sent, mut bytes) = (0, 0);
        for (frame, length) in zip(&whole, card.shared.scratch().batch.send(tap, pieces)) {
            if let Ok(length) = usize::try_from(*length) {
                sent += 1;
                bytes += length.saturating_sub(HEADER);
            } else if *length == -libc::EFAULT {
                frame.touch();
            }
        }
        card.stats.tx.passed(sent, bytes);
        card.stats.tx.failed(whole.len() - sent);
    });
}
