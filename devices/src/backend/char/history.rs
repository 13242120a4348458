//! The last output of a console, by absolute position.
//!
//! Positions count bytes since the hub was made and never wrap in practice. A reader is a position
//! of its own; one that falls behind by more than the buffer holds is moved forward.

/// How much is kept: what a new viewer is shown, and as much again for readers that lag.
pub(super) const CAPACITY: usize = 2 * vmm_api::console::REPLAY_BYTES;

/// What the first byte allocates.
const SMALLEST: usize = 1024;

/// A ring buffer that remembers how much ever went through it.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Grows with the output up to its capacity, so that a console costs what was said on it.
    buffer: Vec<u8>,
    /// Position of the next byte.
    head: u64,
    /// How far the plain output has got.
    pub(super) output_at: u64,
}

fn index(position: u64) -> usize {
    usize::try_from(position % CAPACITY as u64).unwrap_or_default()
}

impl History {
    /// Adds output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(CAPACITY);
        self.head += skipped as u64;
        let mut rest = bytes.get(skipped..).unwrap_or_default();
        while !rest.is_empty() {
            let at = index(self.head);
            let count = rest.len().min(CAPACITY - at);
            let (now, later) = rest.split_at(count);
            if self.buffer.len() < at + count {
                self.grow(at + count);
            }
            if let Some(place) = self.buffer.get_mut(at..at + count) {
                place.copy_from_slice(now);
            }
            self.head += count as u64;
            rest = later;
        }
    }

    fn grow(&mut self, least: usize) {
        let len = least.next_power_of_two().clamp(SMALLEST, CAPACITY);
        self.buffer.reserve_exact(len - self.buffer.len());
        self.buffer.resize(len, 0);
    }

    /// Position after the last byte.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Position of the oldest byte that is kept.
    pub(super) fn oldest(&self) -> u64 {
        self.head.saturating_sub(CAPACITY as u64)
    }

    /// The bytes at `position`, as far as they lie together; empty at the head. A position that is
    /// no longer kept is moved forward first.
    pub(super) fn peek(&self, position: &mut u64) -> &[u8] {
        *position = (*position).clamp(self.oldest(), self.head);
        let left = usize::try_from(self.head - *position).unwrap_or(CAPACITY);
        let at = index(*position);
        let count = left.min(CAPACITY - at);
        self.buffer.get(at..at + count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reader_sees_the_end_of_what_was_written(
            chunks in prop::collection::vec((any::<u8>(), 0..CAPACITY + 100), 0..8),
            start in 0..CAPACITY as u64 * 4,
        ) {
            let mut history = History::default();
            let mut all = Vec::new();
            for (byte, len) in chunks {
                let chunk: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                history.push(&chunk);
                all.extend(chunk);
            }
            prop_assert_eq!(history.head(), all.len() as u64);
            let mut position = start;
            let mut seen = Vec::new();
            history.peek(&mut position);
            let from = position as usize;
            loop {
                let bytes = history.peek(&mut position).to_vec();
                if bytes.is_empty() {
                    break;
                }
                position += bytes.len() as u64;
                seen.extend(bytes);
            }
            prop_assert!(from >= all.len().saturating_sub(CAPACITY));
            prop_assert_eq!(seen, &all[from..]);
        }
    }
}
