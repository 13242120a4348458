//! The queues, each served by a task of the balloon's worker.

use super::device::{Shared, feature};
use super::{pages, statistics};
use crate::backend::ram::{Given, PAGE};
use crate::virtio::queue::{Element, Virtqueue};
use crate::virtio::worker::{First, race};
use images::exec::yield_now;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of page frame numbers that are looked at between two looks at the other queues.
const PIECE: usize = 4096;
/// Bytes of page frame numbers of one request that count: 64 Ki pages, 256 MiB. Linux sends 256.
const LONGEST: u64 = 256 << 10;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Pages that the driver gives up.
    Inflate,
    /// Pages that it takes back.
    Deflate,
    /// Its figures.
    Statistics,
    /// Pages that are free just now.
    Reporting,
}

/// What queue `index` is for. By virtio 1.3 §5.5.2 numbers are fixed; Linux, and with it everybody else,
/// counts the queues that were agreed on. Both work: what is not agreed on is not used.
pub(super) fn role(features: u64, index: u16) -> Option<Role> {
    let statistics = features & feature::STATISTICS != 0;
    match index {
        0 => Some(Role::Inflate),
        1 => Some(Role::Deflate),
        2 if statistics => Some(Role::Statistics),
        2..=4 => (features & feature::REPORTING != 0).then_some(Role::Reporting),
        _ => None,
    }
}

/// Serves one queue until it is stopped.
pub(super) async fn serve(role: Role, queue: Arc<Virtqueue>, shared: Arc<Shared>) {
    if role == Role::Statistics {
        return figures(&queue, &shared).await;
    }
    loop {
        while let Some(element) = queue.next() {
            match role {
                Role::Inflate => frames(&shared, &element, Shared::give_up).await,
                Role::Deflate => frames(&shared, &element, Shared::take_back).await,
                Role::Reporting | Role::Statistics => shared.report(&element),
            }
            element.complete(0);
            // A guest that asks without end shares the thread with its other queues.
            yield_now().await;
        }
        if !queue.kicked().await {
            return;
        }
    }
}

/// Does something with every run of page frames of a request.
async fn frames(shared: &Shared, element: &Element, each: fn(&Shared, u64, u64)) {
    let mut bytes = [0; PIECE];
    let mut offset = 0;
    while offset < LONGEST {
        let length = element.read_at(offset, &mut bytes);
        for run in pages::runs(bytes.get(..length).unwrap_or_default()) {
            each(shared, run.start, run.end - run.start);
        }
        if length < PIECE {
            return;
        }
        offset += length as u64;
        yield_now().await;
    }
    if element.readable_len() > LONGEST {
        shared.outside("more pages in one request than are looked at");
    }
}

/// The driver's one buffer stays in the ring: it is looked at and given back, and used when newer
/// figures are wanted.
async fn figures(queue: &Arc<Virtqueue>, shared: &Shared) {
    loop {
        let mut held: Option<Element> = None;
        // Until there is none, or the doorbell would not ring for the next one.
        while let Some(element) = queue.next() {
            if let Some(older) = held.replace(element) {
                older.complete(0);
                yield_now().await;
            }
        }
        if let Some(element) = held {
            if shared.statistics.is_expected() {
                let mut bytes = [0; statistics::LONGEST];
                let length = element.read_at(0, &mut bytes);
                let figures = bytes.get(..length).unwrap_or_default();
                shared.statistics.take(figures);
            }
            queue.give_back(vec![element]);
        }
        match race(queue.kicked(), shared.statistics.wanted()).await {
            First::A(true) => {}
            First::A(false) => return,
            First::B(()) => {
                if let Some(element) = queue.next() {
                    shared.statistics.asked();
                    element.complete(0);
                }
            }
        }
    }
}

impl Shared {
    /// Pages that the driver has given up.
    fn give_up(&self, start: u64, len: u64) {
        let given = self.ram.give_back(start, len);
        let pages = len / PAGE;
        self.counters.inflated.fetch_add(pages, Ordering::Relaxed);
        self.settle(given);
    }

    /// Pages that it uses again: the first touch brings them.
    fn take_back(&self, _start: u64, len: u64) {
        let pages = len / PAGE;
        self.counters.deflated.fetch_add(pages, Ordering::Relaxed);
    }

    /// Ranges that are free until the request is used.
    fn report(&self, element: &Element) {
        for (start, len) in element.writable_ranges() {
            self.counters.reported.fetch_add(len, Ordering::Relaxed);
            if !self.keeps_free_pages() {
                let given = self.ram.give_back(start, len);
                self.settle(given);
            }
        }
    }

    fn settle(&self, given: Given) {
        let counters = &self.counters;
        counters.returned.fetch_add(given.bytes, Ordering::Relaxed);
        if given.outside {
            self.outside("a page that is no RAM");
        }
        if let Some(error) = given.error
            && counters.refused.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!(id = self.id, %error, "the host keeps pages that the guest gives back; is its memory locked?");
        }
    }

    /// What makes no sense is ignored, and logged once.
    fn outside(&self, what: &str) {
        if self.counters.outside.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                id = self.id,
                what,
                "the guest's balloon asks for what cannot be"
            );
        }
    }
}
