//! One refcount block in memory: counters of 1 to 64 bits, and which part is newer than the disk.
//!
//! Source: the qcow2 specification, section "Host cluster management".

/// The unit in which a changed block is written back.
const PAGE: usize = 4096;

/// The counters of a run of host clusters.
pub(crate) struct RefBlock {
    data: Vec<u8>,
    order: u32,
    /// Offset of the block in the file.
    pub(crate) host: u64,
    dirty: u64,
    /// A commit writes a copy of it right now.
    pub(crate) committing: bool,
    /// Used since the last look for blocks to drop.
    pub(crate) used: bool,
}

impl RefBlock {
    pub(crate) fn new(data: Vec<u8>, order: u32, host: u64) -> RefBlock {
        RefBlock {
            data,
            order,
            host,
            dirty: 0,
            committing: false,
            used: true,
        }
    }

    /// The bytes of the block.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.data
    }

    /// The largest count that a counter can hold.
    pub(crate) fn max(order: u32) -> u64 {
        if order >= 6 {
            u64::MAX
        } else {
            (1 << (1u32 << order)) - 1
        }
    }

    /// The count at an index; zero beyond the end.
    pub(crate) fn get(&self, index: u64) -> u64 {
        get(&self.data, self.order, index)
    }

    /// Sets a count and marks its page.
    pub(crate) fn set(&mut self, index: u64, value: u64) {
        let bit = index << self.order;
        let at = (bit / 8) as usize;
        if self.order < 3 {
            let Some(byte) = self.data.get_mut(at) else {
                return;
            };
            let shift = bit % 8;
            let mask = (RefBlock::max(self.order) as u8) << shift;
            *byte = (*byte & !mask) | ((value << shift) as u8 & mask);
        } else {
            let n = 1usize << (self.order - 3);
            let Some(target) = self.data.get_mut(at..at + n) else {
                return;
            };
            let bytes = value.to_be_bytes();
            target.copy_from_slice(bytes.get(8 - n..).unwrap_or_default());
        }
        self.dirty |= 1 << (at / self.page());
    }

    fn page(&self) -> usize {
        PAGE.max(self.data.len().div_ceil(64))
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// Marks all of it as newer than the disk.
    pub(crate) fn mark_all(&mut self) {
        let pages = self.data.len().div_ceil(self.page());
        self.dirty = if pages >= 64 {
            u64::MAX
        } else {
            (1 << pages) - 1
        };
    }

    /// Marks pages as newer than the disk again.
    pub(crate) fn mark(&mut self, pages: u64) {
        self.dirty |= pages;
    }

    /// Takes what is newer than the disk as (pages, [(byte offset in the block, bytes)]).
    pub(crate) fn take_dirty(&mut self) -> (u64, Vec<(u64, Vec<u8>)>) {
        let pages = std::mem::take(&mut self.dirty);
        let per_page = self.page();
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for (n, page) in self.data.chunks(per_page).enumerate() {
            if pages & (1 << n) == 0 {
                continue;
            }
            let at = (n * per_page) as u64;
            match pieces.last_mut() {
                Some((start, last)) if *start + last.len() as u64 == at => {
                    last.extend_from_slice(page);
                }
                _ => pieces.push((at, page.to_vec())),
            }
        }
        (pages, pieces)
    }
}

/// The count at an index of a block's bytes; zero beyond the end.
pub(crate) fn get(data: &[u8], order: u32, index: u64) -> u64 {
    let bit = index << order;
    let at = (bit / 8) as usize;
    if order < 3 {
        let byte = data.get(at).copied().unwrap_or(0);
        return u64::from(byte >> (bit % 8)) & RefBlock::max(order);
    }
    let n = 1usize << (order - 3);
    let bytes = data.get(at..at + n).unwrap_or_default();
    bytes.iter().fold(0, |value, &b| value << 8 | u64::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counters_of_every_width_keep_apart(
            order in 0u32..=6, sets in proptest::collection::vec((0u64..512, any::<u64>()), 1..60)
        ) {
            let mut block = RefBlock::new(vec![0; 4096], order, 0);
            let mut model = std::collections::HashMap::new();
            for (index, value) in sets {
                let index = index % ((4096 * 8) >> order);
                let value = value & RefBlock::max(order);
                block.set(index, value);
                model.insert(index, value);
            }
            for index in 0..((4096u64 * 8) >> order) {
                prop_assert_eq!(block.get(index), model.get(&index).copied().unwrap_or(0));
            }
        }
    }

    #[test]
    fn sub_byte_counters_start_at_the_low_bits() {
        let mut block = RefBlock::new(vec![0; 512], 1, 0);
        block.set(0, 1);
        block.set(1, 2);
        assert_eq!(block.take_dirty().1[0].1[0], 0b1001);
    }
}
