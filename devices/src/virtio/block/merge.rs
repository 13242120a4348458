//! Neighbours that were offered together become one transfer: a guest that reads a file from one end
//! to the other then costs the host one system call for many requests.
//!
//! ```text
//! popped together:  read 0-7   read 8-15   write 3-4   write 5-6   read 16-23
//! transfers:        [read 0-15          ]  [write 3-6          ]  [read 16-23]
//! ```
//!
//! Only what follows directly is joined, in the order of the ring, within [`MOST_BYTES`] and
//! [`MOST_PIECES`]. A request is still answered and counted by itself; when a transfer fails, its
//! requests are done one by one, so that only those fail that have to.

use super::request::{HEADER, Operation};
use crate::virtio::queue::Element;
use std::time::Instant;

/// Bytes of a transfer of several requests.
const MOST_BYTES: u64 = 1 << 20;
/// Pieces of guest memory in it: what the kernel takes in one call, and no more.
const MOST_PIECES: usize = 512;

/// A request that makes sense, on its way.
pub(super) struct Job {
    pub(super) element: Element,
    pub(super) operation: Operation,
    /// Bytes that the device may write: data and status.
    pub(super) writable: u64,
    /// When it was taken.
    pub(super) taken: Instant,
}

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

/// A transfer's way, first byte and length; `None` for other operations.
fn transfer(operation: &Operation) -> Option<(Way, u64, u64)> {
    match *operation {
        Operation::Read { offset, len } => Some((Way::Read, offset, len)),
        Operation::Write { offset, len } => Some((Way::Write, offset, len)),
        _ => None,
    }
}

/// What has been joined so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) way: Way,
    /// First byte.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) len: u64,
    pieces: usize,
}

impl Span {
    /// A transfer alone.
    fn of(operation: &Operation, pieces: usize) -> Option<Self> {
        let (way, offset, len) = transfer(operation)?;
        Some(Self {
            way,
            offset,
            len,
            pieces,
        })
    }

    /// The span with `next` behind it, if the two are neighbours and not too large together.
    fn with(self, next: Self) -> Option<Self> {
        let joined = Self {
            len: self.len.checked_add(next.len)?,
            pieces: self.pieces.checked_add(next.pieces)?,
            ..self
        };
        let neighbours = self.way == next.way
            && self.len > 0
            && next.len > 0
            && self.offset.checked_add(self.len) == Some(next.offset);
        let small = joined.len <= MOST_BYTES && joined.pieces <= MOST_PIECES;
        (neighbours && small).then_some(joined)
    }
}

/// Requests that are done together; a single one has no span.
pub(super) struct Run {
    pub(super) jobs: Vec<Job>,
    pub(super) span: Option<Span>,
}

/// Joins neighbours among `jobs`, which are in the order of the ring. Writes only if `writes`.
pub(super) fn runs(jobs: Vec<Job>, writes: bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let span = Span::of(&job.operation, job.element.pieces())
            .filter(|span| writes || span.way == Way::Read);
        let joined = runs
            .last()
            .and_then(|last| last.span)
            .zip(span)
            .and_then(|(last, next)| last.with(next));
        match (runs.last_mut(), joined) {
            (Some(last), Some(joined)) => {
                last.jobs.push(job);
                last.span = Some(joined);
            }
            _ => runs.push(Run {
                jobs: vec![job],
                span,
            }),
        }
    }
    runs
}

impl Job {
    /// Offset and length of the data in the chain's readable or writable bytes.
    pub(super) fn data(&self) -> (u64, u64) {
        match transfer(&self.operation) {
            Some((Way::Read, _, len)) => (0, len),
            Some((Way::Write, _, len)) => (HEADER as u64, len),
            None => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(way: Way, offset: u64, len: u64) -> Span {
        Span {
            way,
            offset,
            len,
            pieces: 1,
        }
    }

    #[test]
    fn neighbours_join_and_nobody_else() {
        let read = span(Way::Read, 4096, 4096);
        let joined = read.with(span(Way::Read, 8192, 512)).expect("neighbours");
        assert_eq!((joined.offset, joined.len, joined.pieces), (4096, 4608, 2));
        for other in [
            span(Way::Write, 8192, 512),
            span(Way::Read, 8193, 512),
            span(Way::Read, 4096, 512),
            span(Way::Read, 0, 4096),
            span(Way::Read, 8192, 0),
            span(Way::Read, 8192, MOST_BYTES),
            span(Way::Read, 8192, u64::MAX),
        ] {
            assert_eq!(read.with(other), None, "{other:?}");
        }
        let end = span(Way::Read, u64::MAX - 1, 2);
        assert_eq!(end.with(span(Way::Read, 0, 2)), None);
    }

    proptest! {
        #[test]
        fn a_span_is_the_sum_of_its_parts(lengths in prop::collection::vec(1_u64..400_000, 1..40)) {
            let mut at = 0;
            let mut whole: Option<Span> = None;
            for len in lengths {
                let next = span(Way::Write, at, len);
                match whole.and_then(|whole| whole.with(next)) {
                    Some(joined) => whole = Some(joined),
                    None => whole = Some(next),
                }
                at += len;
                let whole = whole.expect("a span");
                prop_assert_eq!(whole.offset + whole.len, at);
                prop_assert!(whole.len <= MOST_BYTES || whole.pieces == 1);
            }
        }
    }
}
