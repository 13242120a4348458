//! One L2 table in memory, and what of it is newer than the disk.
//!
//! A table whose clusters lie one after the other (a preallocated or a converted image) is kept
//! as a few runs; it becomes a plain array when it is changed in a way that runs do not describe.
use super::entry::{Entry, Geometry};
use super::header::be64;

/// The unit in which a changed table is written back.
const PAGE: usize = 4096;

/// Entries `first..`, up to the next run: the first word plus `step` per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u32,
    word: u64,
    step: u64,
}

enum Repr {
    Runs(Vec<Run>),
    /// The words as on disk, two per entry with extended entries.
    Words(Box<[u64]>),
}

/// The entries of one L2 table.
pub(crate) struct Table {
    repr: Repr,
    entries: u32,
    words_per_entry: usize,
    /// Pages that are newer than the disk; bit n is page n. The pages are large enough that
    /// 64 of them cover the table.
    dirty: u64,
}

fn page_words(total_words: usize) -> usize {
    (PAGE / 8).max(total_words.div_ceil(64))
}

impl Table {
    /// A table without any mapping.
    pub(crate) fn empty(geometry: &Geometry) -> Table {
        let runs = vec![Run {
            first: 0,
            word: 0,
            step: 0,
        }];
        Table {
            repr: Repr::Runs(runs),
            entries: geometry.l2_entries() as u32,
            words_per_entry: geometry.entry_words(),
            dirty: 0,
        }
    }

    /// A table as it is on disk.
    pub(crate) fn from_bytes(bytes: &[u8], geometry: &Geometry) -> Table {
        let entries = geometry.l2_entries() as u32;
        let words_per_entry = geometry.entry_words();
        let total = entries as usize * words_per_entry;
        let words: Box<[u64]> = (0..total).map(|i| be64(bytes, i * 8)).collect();
        let repr = match (words_per_entry == 1).then(|| compress(&words, geometry.cluster())) {
            Some(Some(runs)) => Repr::Runs(runs),
            _ => Repr::Words(words),
        };
        Table {
            repr,
            entries,
            words_per_entry,
            dirty: 0,
        }
    }

    /// Bytes of the table on disk: a cluster.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.entries) * self.words_per_entry as u64 * 8
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        match &self.repr {
            Repr::Runs(runs) => runs.capacity() * size_of::<Run>(),
            Repr::Words(words) => words.len() * 8,
        }
    }

    /// The entry at an index; empty beyond the end.
    pub(crate) fn get(&self, index: u64) -> Entry {
        match &self.repr {
            Repr::Runs(runs) => {
                let run = runs.partition_point(|r| u64::from(r.first) <= index);
                let word = run.checked_sub(1).and_then(|i| runs.get(i)).map_or(0, |r| {
                    r.word
                        .wrapping_add((index - u64::from(r.first)).wrapping_mul(r.step))
                });
                Entry { word, bitmap: 0 }
            }
            Repr::Words(words) => {
                let at = index as usize * self.words_per_entry;
                let word = words.get(at).copied().unwrap_or(0);
                let bitmap = if self.words_per_entry == 2 {
                    words.get(at + 1).copied()
                } else {
                    None
                };
                Entry {
                    word,
                    bitmap: bitmap.unwrap_or(0),
                }
            }
        }
    }

    /// How many entries from `index` on continue it: the same word, or the next cluster each.
    /// At least 1; a hint that may be too small.
    pub(crate) fn run_len(&self, index: u64, cluster: u64) -> (u64, u64) {
        if let Repr::Runs(runs) = &self.repr {
            let next = runs.partition_point(|r| u64::from(r.first) <= index);
            let end = runs.get(next).map_or(self.entries, |r| r.first);
            let step = next
                .checked_sub(1)
                .and_then(|i| runs.get(i))
                .map_or(0, |r| r.step);
            return (u64::from(end).saturating_sub(index).max(1), step);
        }
        let _ = cluster;
        (1, 0)
    }

    /// Changes an entry and marks its page.
    pub(crate) fn set(&mut self, index: u64, entry: Entry) {
        if index >= u64::from(self.entries) {
            return;
        }
        self.expand();
        let wpe = self.words_per_entry;
        let at = index as usize * wpe;
        if let Repr::Words(words) = &mut self.repr {
            words[at] = entry.word;
            if wpe == 2 {
                words[at + 1] = entry.bitmap;
            }
            self.dirty |= 1 << (at / page_words(words.len()));
        }
    }

    fn expand(&mut self) {
        if let Repr::Runs(_) = self.repr {
            let mut words = Vec::with_capacity(self.entries as usize * self.words_per_entry);
            for i in 0..u64::from(self.entries) {
                let entry = self.get(i);
                words.push(entry.word);
                if self.words_per_entry == 2 {
                    words.push(entry.bitmap);
                }
            }
            self.repr = Repr::Words(words.into());
        }
    }

    /// Goes back to runs if they are enough, to free memory. For tables that are clean.
    pub(crate) fn shrink(&mut self, cluster: u64) {
        if let Repr::Words(words) = &self.repr
            && self.words_per_entry == 1
            && let Some(runs) = compress(words, cluster)
        {
            self.repr = Repr::Runs(runs);
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// Marks pages as newer than the disk again.
    pub(crate) fn mark(&mut self, pages: u64) {
        self.dirty |= pages;
    }

    /// Takes what is newer than the disk as (pages, [(byte offset in the table, bytes)]), and
    /// counts as clean. Adjacent pages are one piece.
    pub(crate) fn take_dirty(&mut self) -> (u64, Vec<(u64, Vec<u8>)>) {
        let pages = std::mem::take(&mut self.dirty);
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        if let Repr::Words(words) = &self.repr {
            let per_page = page_words(words.len());
            for (n, page) in words.chunks(per_page).enumerate() {
                if pages & (1 << n) == 0 {
                    continue;
                }
                let at = (n * per_page * 8) as u64;
                let bytes = page.iter().flat_map(|w| w.to_be_bytes());
                match pieces.last_mut() {
                    Some((start, last)) if *start + last.len() as u64 == at => last.extend(bytes),
                    _ => pieces.push((at, bytes.collect())),
                }
            }
        }
        (pages, pieces)
    }

    /// All bytes as on disk, and counts as clean.
    pub(crate) fn take_all(&mut self) -> Vec<u8> {
        self.dirty = 0;
        let mut bytes = Vec::with_capacity(self.entries as usize * self.words_per_entry * 8);
        for i in 0..u64::from(self.entries) {
            let entry = self.get(i);
            bytes.extend(entry.word.to_be_bytes());
            if self.words_per_entry == 2 {
                bytes.extend(entry.bitmap.to_be_bytes());
            }
        }
        bytes
    }
}

/// The runs of a table, or None if they would not be much smaller than the table.
fn compress(words: &[u64], cluster: u64) -> Option<Vec<Run>> {
    let limit = (words.len() / 16).max(4);
    let mut runs: Vec<Run> = Vec::new();
    let mut i = 0;
    while let Some(&word) = words.get(i) {
        if runs.len() == limit {
            return None;
        }
        let step = match words.get(i + 1) {
            Some(&next) if next == word.wrapping_add(cluster) => cluster,
            _ => 0,
        };
        let mut end = i + 1;
        while words
            .get(end)
            .is_some_and(|&w| w == word.wrapping_add(((end - i) as u64).wrapping_mul(step)))
        {
            end += 1;
        }
        runs.push(Run {
            first: i as u32,
            word,
            step,
        });
        i = end;
    }
    runs.shrink_to_fit();
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::super::header::Compression;
    use super::*;
    use proptest::prelude::*;

    fn geometry(extended: bool) -> Geometry {
        Geometry {
            version: 3,
            cluster_bits: 14,
            refcount_order: 4,
            extended,
            data_file: false,
            compression: Compression::Zlib,
        }
    }

    #[test]
    fn a_contiguous_table_takes_little_memory_until_it_is_changed() {
        let g = geometry(false);
        let n = g.l2_entries();
        let bytes: Vec<u8> = (0..n)
            .flat_map(|i| ((1 << 63) | ((i + 5) << 14)).to_be_bytes())
            .collect();
        let mut table = Table::from_bytes(&bytes, &g);
        assert!(table.memory() < 100);
        for i in 0..n {
            assert_eq!(table.get(i).word, (1 << 63) | ((i + 5) << 14));
        }
        table.set(7, Entry::default());
        assert_eq!(table.get(7).word, 0);
        assert_eq!(table.get(8).word, (1 << 63) | (13 << 14));
        let (pages, pieces) = table.take_dirty();
        assert_eq!((pages, pieces.len(), pieces[0].1.len()), (1, 1, 4096));
        assert!(!table.is_dirty());
        assert_eq!(table.take_all().len(), 1 << 14);
    }

    proptest! {
        #[test]
        fn any_table_reads_back(seed in proptest::collection::vec((0u64..4, 1usize..300), 1..40),
                                extended: bool) {
            let g = geometry(extended);
            let total = g.l2_entries() as usize * g.entry_words();
            let mut words = Vec::new();
            for (kind, len) in seed {
                for i in 0..len {
                    words.push(if kind == 3 { (words.len() as u64) << 14 } else { kind * i as u64 });
                }
            }
            words.resize(total, 0);
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
            let mut table = Table::from_bytes(&bytes, &g);
            for i in 0..g.l2_entries() {
                let at = i as usize * g.entry_words();
                prop_assert_eq!(table.get(i).word, words[at]);
            }
            prop_assert_eq!(table.take_all(), bytes.clone());
            table.shrink(g.cluster());
            prop_assert_eq!(table.take_all(), bytes);
        }
    }
}
