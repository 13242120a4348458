//! Finding contradictions between what is referred to and what is counted, and repairing them.
//!
//! The scan counts every reference from the header, the tables, the snapshots and the bitmaps.
//! An L2 table that several L1 tables share is read once and counted as often as it is referred
//! to, so the work is bounded by the size of the file, whatever the file says.
mod repair;
mod scan;

use std::collections::BTreeMap;

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

/// References to each cluster of the file.
struct References {
    chunks: Vec<Option<Box<[u32]>>>,
    clusters: u64,
}

impl References {
    fn new(clusters: u64) -> References {
        let chunks = (0..clusters.div_ceil(CHUNK as u64)).map(|_| None).collect();
        References { chunks, clusters }
    }

    fn get(&self, cluster: u64) -> u64 {
        let chunk = self
            .chunks
            .get(cluster as usize / CHUNK)
            .and_then(Option::as_ref);
        chunk
            .and_then(|c| c.get(cluster as usize % CHUNK))
            .copied()
            .unwrap_or(0)
            .into()
    }

    /// Adds references; false outside of the file.
    fn add(&mut self, cluster: u64, n: u32) -> bool {
        if cluster >= self.clusters {
            return false;
        }
        let Some(chunk) = self.chunks.get_mut(cluster as usize / CHUNK) else {
            return false;
        };
        let chunk = chunk.get_or_insert_with(|| vec![0; CHUNK].into());
        if let Some(count) = chunk.get_mut(cluster as usize % CHUNK) {
            *count = count.saturating_add(n);
        }
        true
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
