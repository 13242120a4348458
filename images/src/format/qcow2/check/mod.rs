//! Finding contradictions between what is referred to and what is counted, and repairing them.
//!
//! The scan counts every reference from the header, the tables, the snapshots and the bitmaps.
//! An L2 table that several L1 tables share is read once and counted as often as it is referred
//! to, so the work is bounded by the size of the file, whatever the file says.
mod repair;
mod scan;

use std::collections::{BTreeMap, HashMap};

use super::Qcow2;
use crate::error::{Error, Result};

/// Messages that a report keeps; further ones are only counted.
const MAX_MESSAGES: usize = 200;
const CHUNK: usize = 4096;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) corruptions: u64,
    pub(crate) leaks: u64,
    pub(crate) corruptions_fixed: u64,
    pub(crate) leaks_fixed: u64,
    pub(crate) allocated: u64,
    pub(crate) compressed: u64,
    pub(crate) fragmented: u64,
    pub(crate) end_offset: u64,
    pub(crate) messages: Vec<String>,
}

impl Findings {
    fn say(&mut self, message: impl FnOnce() -> String) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message());
        }
    }

    fn corrupt(&mut self, message: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.say(|| format!("ERROR {}", message()));
    }
}

/// What a repair may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// Nothing.
    #[default]
    No,
    /// Counts of clusters that nobody uses.
    Leaks,
    /// Everything that can be repaired.
    All,
}

/// References to each cluster of the file: two bytes for each of a chunk that has any.
struct References {
    chunks: Vec<Option<Box<[u16]>>>,
    /// Counts that two bytes do not hold; the chunk says [`MANY`] there.
    many: HashMap<u64, u32>,
    clusters: u64,
}

/// The count is in the map of those that are large.
const MANY: u16 = u16::MAX;

impl References {
    fn new(clusters: u64) -> References {
        let chunks = (0..clusters.div_ceil(CHUNK as u64)).map(|_| None).collect();
        References {
            chunks,
            many: HashMap::new(),
            clusters,
        }
    }

    fn get(&self, cluster: u64) -> u64 {
        let chunk = self
            .chunks
            .get(cluster as usize / CHUNK)
            .and_then(Option::as_ref);
        match chunk.and_then(|c| c.get(cluster as usize % CHUNK)) {
            Some(&MANY) => self.many.get(&cluster).copied().unwrap_or(0).into(),
            Some(&count) => count.into(),
            None => 0,
        }
    }

    fn set(&mut self, cluster: u64, count: u32) {
        let Some(chunk) = self.chunks.get_mut(cluster as usize / CHUNK) else {
            return;
        };
        let chunk = chunk.get_or_insert_with(|| vec![0; CHUNK].into());
        let small = u16::try_from(count).unwrap_or(MANY);
        if small == MANY {
            self.many.insert(cluster, count);
        }
        if let Some(place) = chunk.get_mut(cluster as usize % CHUNK) {
            *place = small;
        }
    }

    /// Adds references; false outside of the file.
    fn add(&mut self, cluster: u64, n: u32) -> bool {
        if cluster >= self.clusters {
            return false;
        }
        let count = u32::try_from(self.get(cluster)).unwrap_or(u32::MAX);
        self.set(cluster, count.saturating_add(n));
        true
    }

    /// Takes a reference back, if there is one.
    fn remove(&mut self, cluster: u64) {
        if let Ok(count @ 1..) = u32::try_from(self.get(cluster)) {
            self.set(cluster, count - 1);
        }
    }
}

struct Scan<'a> {
    image: &'a Qcow2,
    refs: References,
    found: Findings,
    /// L2 tables: how often they are referred to, and whether the active L1 does.
    tables: BTreeMap<u64, (u32, bool)>,
    l1_bytes: u64,
    bitmap_bytes: u64,
    file_len: u64,
    reftable: Vec<u64>,
    next_data: u64,
}

/// Checks an image that nobody changes meanwhile and whose changes are all on disk.
///
/// # Errors
/// What keeps the check from being done; what it finds is in the result.
pub(crate) async fn check(image: &Qcow2, repair: Repair) -> Result<Findings> {
    if repair != Repair::No {
        image.forget_stale_bitmaps().await?;
    }
    let mut scan = Scan::new(image)?;
    scan.references().await?;
    let broken = scan.compare(repair).await?;
    if broken && repair == Repair::All {
        scan.rebuild_refcounts().await?;
        scan.check_flags_again().await?;
    } else {
        scan.check_flags(repair).await?;
    }
    if repair != Repair::No {
        image.storage.sync().await?;
    }
    Ok(scan.found)
}

/// Rebuilds the refcounts of an image that is marked dirty.
///
/// # Errors
/// Corruption that cannot be repaired without losing data.
pub(crate) async fn rebuild(image: &Qcow2) -> Result<()> {
    let found = check(image, Repair::All).await?;
    if found.corruptions > 0 {
        return Err(Error::corrupt(format!(
            "the image was not closed and could not be repaired: {}",
            found.messages.first().map_or("", String::as_str)
        )));
    }
    tracing::info!(
        errors = found.corruptions_fixed,
        leaks = found.leaks_fixed,
        "an image that was not closed has been repaired"
    );
    Ok(())
}

impl<'a> Scan<'a> {
    fn new(image: &'a Qcow2) -> Result<Scan<'a>> {
        let file_len = image.storage.len()?;
        let clusters = file_len.div_ceil(image.geometry.cluster());
        if clusters > 1 << 40 {
            return Err(Error::invalid(format!(
                "a file of {file_len} bytes cannot be checked"
            )));
        }
        Ok(Scan {
            image,
            refs: References::new(clusters),
            found: Findings::default(),
            tables: BTreeMap::new(),
            l1_bytes: 0,
            bitmap_bytes: 0,
            file_len,
            reftable: Vec::new(),
            next_data: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_counted_beyond_what_two_bytes_hold() {
        let mut refs = References::new(2 * CHUNK as u64);
        assert!(!refs.add(2 * CHUNK as u64, 1), "outside of the file");
        let cluster = CHUNK as u64 + 3;
        for (add, sum) in [(1, 1), (65533, 65534), (1, 65535), (70_000, 135_535)] {
            assert!(refs.add(cluster, add));
            assert_eq!(refs.get(cluster), sum);
        }
        refs.add(cluster, u32::MAX);
        assert_eq!(refs.get(cluster), u64::from(u32::MAX));
        refs.set(cluster, 65536);
        for sum in [65535, 65534, 65533] {
            refs.remove(cluster);
            assert_eq!(refs.get(cluster), sum);
        }
        assert_eq!(refs.get(cluster + 1), 0);
        refs.remove(cluster + 1);
        assert_eq!(refs.get(cluster + 1), 0);
    }
}
