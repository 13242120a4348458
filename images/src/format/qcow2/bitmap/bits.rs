//! The bits of a bitmap in memory: one for each granule of the disk, set by many at a time.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Memory of the bits of one bitmap, at most.
const MAX_BYTES: u64 = 64 << 20;

/// Bits, each for `1 << granularity_bits` bytes of the disk.
pub(crate) struct Bits {
    words: Vec<AtomicU64>,
    len: u64,
    granularity_bits: u32,
    size: u64,
}

impl Bits {
    /// Clear bits for a disk of `size` bytes.
    ///
    /// # Errors
    /// A disk that is too large for the granularity.
    pub(crate) fn new(size: u64, granularity_bits: u32) -> Result<Bits> {
        let len = size.div_ceil(1 << granularity_bits);
        if len.div_ceil(8) > MAX_BYTES {
            return Err(Error::invalid(format!(
                "a bitmap of a disk of {size} bytes needs a granularity larger than {} bytes",
                1u64 << granularity_bits
            )));
        }
        Ok(Bits {
            words: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            len,
            granularity_bits,
            size,
        })
    }

    /// Bytes of a granule.
    pub(crate) fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Sets all.
    pub(crate) fn set_all(&self) {
        self.set(0, self.size);
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Sets the bits of all granules that a range of the disk touches.
    pub(crate) fn set(&self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = offset >> self.granularity_bits;
        let end = ((offset.saturating_add(len - 1)) >> self.granularity_bits) + 1;
        self.change(first, end.min(self.len), |word, mask| {
            // Most writes meet bits that are set already.
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            }
        });
    }

    /// Clears the bits `first..end`.
    pub(crate) fn clear(&self, first: u64, end: u64) {
        self.change(first, end.min(self.len), |word, mask| {
            word.fetch_and(!mask, Ordering::Relaxed);
        });
    }

    fn change(&self, first: u64, end: u64, f: impl Fn(&AtomicU64, u64)) {
        let mut at = first;
        while at < end {
            let (word, from) = (at / 64, at % 64);
            let n = (64 - from).min(end - at);
            let mask = (u64::MAX >> (64 - n)) << from;
            if let Some(word) = self.words.get(word as usize) {
                f(word, mask);
            }
            at += n;
        }
    }

    /// Clears all.
    pub(crate) fn clear_all(&self) {
        self.clear(0, self.len);
    }

    /// The first run of set bits from a disk offset on: (offset, length) in bytes of the disk.
    pub(crate) fn next_run(&self, offset: u64) -> Option<(u64, u64)> {
        // The last granule may be cut short: behind its end there is none.
        if offset >= self.size {
            return None;
        }
        let first = self.find(offset >> self.granularity_bits, true)?;
        let end = self.find(first, false).unwrap_or(self.len);
        let start = first << self.granularity_bits;
        let stop = (end << self.granularity_bits).min(self.size);
        Some((start, stop.saturating_sub(start)))
    }

    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        let mut at = from;
        while at < self.len {
            let word = self.words.get((at / 64) as usize)?.load(Ordering::Relaxed);
            let word = if wanted { word } else { !word } >> (at % 64);
            if word != 0 {
                let found = at + u64::from(word.trailing_zeros());
                return (found < self.len).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// All runs of set bits.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(at)?;
            at = run.0 + run.1;
            Some(run)
        })
    }

    /// Set bytes of the disk.
    pub(crate) fn count(&self) -> u64 {
        self.runs().map(|(_, len)| len).sum()
    }

    /// Adds what another bitmap has; the granularities may differ.
    pub(crate) fn merge(&self, other: &Bits) {
        other.runs().for_each(|(at, len)| self.set(at, len));
    }

    /// The same for a disk of another size. What a larger disk gains counts as changed.
    ///
    /// # Errors
    /// As [`Bits::new`].
    pub(crate) fn resized(&self, size: u64) -> Result<Bits> {
        let new = Bits::new(size, self.granularity_bits)?;
        for (at, len) in self.runs().filter(|(at, _)| *at < size) {
            new.set(at, len.min(size - at));
        }
        if size > self.size {
            new.set(self.size, size - self.size);
        }
        Ok(new)
    }

    /// A copy.
    pub(crate) fn copy(&self) -> Bits {
        let word = |w: &AtomicU64| AtomicU64::new(w.load(Ordering::Relaxed));
        Bits {
            words: self.words.iter().map(word).collect(),
            ..*self
        }
    }

    /// Bytes that all bits take as they are stored.
    pub(crate) fn bytes(&self) -> u64 {
        self.len.div_ceil(8)
    }

    /// The stored bytes from `at` on, `len` of them; zero behind the end.
    pub(crate) fn to_bytes(&self, at: u64, len: u64) -> Vec<u8> {
        let byte = |i: u64| {
            let word = self.words.get((i / 8) as usize);
            word.map_or(0, |w| (w.load(Ordering::Relaxed) >> (i % 8 * 8)) as u8)
        };
        (at..at + len).map(byte).collect()
    }

    /// Takes stored bytes for the place `at`.
    pub(crate) fn take_bytes(&self, at: u64, bytes: &[u8]) {
        for (i, &byte) in (at..).zip(bytes) {
            if byte == 0 {
                continue;
            }
            if let Some(word) = self.words.get((i / 8) as usize) {
                word.fetch_or(u64::from(byte) << (i % 8 * 8), Ordering::Relaxed);
            }
        }
        // Bits behind the end do not count.
        if !self.len.is_multiple_of(64)
            && let Some(last) = self.words.last()
        {
            last.fetch_and(u64::MAX >> (64 - self.len % 64), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_what_was_set(ranges in proptest::collection::vec((0u64..100_000, 1u64..9000), 0..12),
                                 size in 1u64..100_000) {
            let bits = Bits::new(size, 9).unwrap();
            let mut model = vec![false; size.div_ceil(512) as usize];
            for (at, len) in ranges {
                bits.set(at, len);
                for granule in at / 512..=(at + len - 1) / 512 {
                    if let Some(bit) = model.get_mut(granule as usize) {
                        *bit = true;
                    }
                }
            }
            let mut got = vec![false; model.len()];
            for (at, len) in bits.runs() {
                got[(at / 512) as usize..(at + len).div_ceil(512) as usize].fill(true);
            }
            prop_assert_eq!(&got, &model);
            let again = Bits::new(size, 9).unwrap();
            again.take_bytes(0, &bits.to_bytes(0, bits.bytes() + 5));
            prop_assert!(again.runs().eq(bits.runs()));
            let coarse = Bits::new(size, 12).unwrap();
            coarse.merge(&bits);
            prop_assert!(coarse.count() >= bits.count());
        }
    }

    #[test]
    fn a_larger_disk_is_changed_where_it_grew() {
        let bits = Bits::new(10_000, 9).unwrap();
        bits.set(0, 1);
        let larger = bits.resized(20_000).unwrap();
        assert_eq!(
            larger.runs().collect::<Vec<_>>(),
            [(0, 512), (9728, 10_272)]
        );
        assert_eq!(larger.resized(600).unwrap().count(), 512);
        assert!(Bits::new(1 << 62, 9).is_err());
    }
}
