//! Refcounts and the allocation of host clusters.
//!
//! Counts change in memory; a commit writes them. Increments are on disk before anything that
//! relies on them, decrements after what relied on them is gone from the disk: so a crash can
//! only leave clusters counted that nobody uses (leaks), never the other way round.
//!
//! ```text
//! free --allocate--> counted in memory --commit, step 1--> counted on disk
//!   ^                                                            | unmapped in memory
//!   |                                                            v
//!   +--decremented-- limbo (unmapped on disk, older <--commit, step 3-- pending
//!                    requests may still be inside)
//! ```
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, RwLock};

use super::entry::{Geometry, OFFSET_MASK};
use super::header::be64;
use super::map::{read, write};
use super::refblock::RefBlock;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::sync::{RangeLocks, lock};

/// Memory for clean refcount blocks.
const MAX_MEMORY: u64 = 8 << 20;
const MAX_TABLE_BYTES: u64 = 8 << 20;

/// A result, or a refcount block that must be loaded before trying again.
pub(crate) enum Step<T> {
    Done(T),
    Load(u64),
}

/// Adjacent host clusters, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
    /// True if the clusters are known to read as zeroes.
    pub(crate) zero: bool,
}

/// Clusters to give up by one reference each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) cluster: u64,
    pub(crate) len: u64,
    /// Give the space back to the host when it is free.
    pub(crate) punch: bool,
    /// They held metadata.
    pub(crate) metadata: bool,
}

/// The clusters of the file that hold metadata.
pub(crate) type Metadata = Arc<RwLock<BTreeSet<u64>>>;

/// What the mutex guards.
#[derive(Default)]
pub(crate) struct RefState {
    order: u32,
    cluster_bits: u32,
    per_block: u64,
    /// Offsets of the refcount blocks.
    pub(crate) table: Vec<u64>,
    pub(crate) table_offset: u64,
    /// Indices of the table that are newer than the disk.
    pub(crate) table_dirty: BTreeSet<u64>,
    /// The table has a new place that the header on disk does not know.
    pub(crate) moved: bool,
    /// A table (offset, clusters) that is whole on disk, but perhaps not in the header there.
    pub(crate) pointer: Option<(u64, u64)>,
    pub(crate) blocks: HashMap<u64, RefBlock>,
    pub(crate) dirty: BTreeSet<u64>,
    /// Where the search for free clusters begins.
    hint: u64,
    /// Clusters from here on were never used: new space of the file, which reads as zeroes.
    untouched: u64,
    /// Clusters unmapped in memory, not yet on disk.
    pub(crate) pending: Vec<Free>,
    metadata: Metadata,
}

/// The refcounts of an image.
#[derive(Default)]
pub(crate) struct Refcounts {
    pub(crate) state: Mutex<RefState>,
    loading: RangeLocks,
}

impl Refcounts {
    /// Forgets everything and takes the table as it is on disk. Clusters from byte `zero_from` on
    /// are new space of the file.
    pub(crate) async fn reset(
        &self,
        storage: &Storage,
        geometry: &Geometry,
        table: (u64, u32),
        zero_from: u64,
        metadata: &Metadata,
    ) -> Result<()> {
        let (offset, clusters) = table;
        let len = u64::from(clusters) << geometry.cluster_bits;
        let bytes = storage.read_owned(offset, len).await?;
        let table = (0..len as usize / 8)
            .map(|i| be64(&bytes, i * 8) & OFFSET_MASK)
            .collect();
        *lock(&self.state) = RefState {
            order: geometry.refcount_order,
            cluster_bits: geometry.cluster_bits,
            per_block: geometry.refcounts_per_block(),
            table,
            table_offset: offset,
            untouched: zero_from.div_ceil(geometry.cluster()),
            metadata: metadata.clone(),
            ..RefState::default()
        };
        Ok(())
    }

    /// Runs `f`, loading blocks until it is done.
    pub(crate) async fn with<T>(
        &self,
        storage: &Storage,
        mut f: impl FnMut(&mut RefState) -> Result<Step<T>>,
    ) -> Result<T> {
        loop {
            let index = match f(&mut lock(&self.state))? {
                Step::Done(value) => return Ok(value),
                Step::Load(index) => index,
            };
            self.load(storage, index).await?;
        }
    }

    async fn load(&self, storage: &Storage, index: u64) -> Result<()> {
        let _loading = self.loading.take(index, index + 1, true).await;
        let (host, cluster, order) = {
            let state = lock(&self.state);
            if state.blocks.contains_key(&index) {
                return Ok(());
            }
            let host = state.table.get(index as usize).copied().unwrap_or(0);
            (host, 1u64 << state.cluster_bits, state.order)
        };
        if host == 0 || !host.is_multiple_of(cluster) {
            return Err(Error::corrupt(format!(
                "refcount table entry {index}: no refcount block can be at offset {host}"
            )));
        }
        let bytes = storage
            .read_owned(host, cluster)
            .await
            .map_err(|e| e.context(format_args!("refcount block {index}")))?;
        let mut state = lock(&self.state);
        state.make_room();
        state
            .blocks
            .insert(index, RefBlock::new(bytes.to_vec(), order, host));
        Ok(())
    }

    /// Takes up to `want` free clusters that lie together, at least one.
    pub(crate) async fn allocate(&self, storage: &Storage, want: u64) -> Result<Run> {
        self.with(storage, |state| state.allocate(want, 1)).await
    }

    /// Takes `n` free clusters that lie together.
    pub(crate) async fn allocate_together(&self, storage: &Storage, n: u64) -> Result<Run> {
        self.with(storage, |state| state.allocate(n, n)).await
    }

    /// The count of a cluster.
    pub(crate) async fn get(&self, storage: &Storage, cluster: u64) -> Result<u64> {
        self.with(storage, |state| Ok(state.get(cluster))).await
    }

    /// Changes the count of a cluster by `delta`.
    pub(crate) async fn add(&self, storage: &Storage, cluster: u64, delta: i64) -> Result<u64> {
        self.with(storage, |state| state.add(cluster, delta)).await
    }

    /// Takes back an allocation that nothing on disk or in memory refers to.
    pub(crate) fn undo(&self, run: Run) {
        let mut state = lock(&self.state);
        for cluster in run.start..run.start + run.len {
            // The blocks are dirty since the allocation, or a commit has written the count: then
            // a failure to load leaves a leak, which is harmless.
            if let Ok(Step::Load(_)) | Err(_) = state.add(cluster, -1) {
                tracing::debug!(cluster, "an unused cluster stays counted");
            }
        }
    }

    /// Notes clusters that were unmapped in memory.
    pub(crate) fn defer_free(&self, frees: &[Free]) -> usize {
        let mut state = lock(&self.state);
        state.pending.extend_from_slice(frees);
        state.pending.len()
    }
}

impl RefState {
    /// Drops clean blocks when there are too many.
    fn make_room(&mut self) {
        let most = (MAX_MEMORY >> self.cluster_bits).max(16) as usize;
        if self.blocks.len() < most {
            return;
        }
        self.blocks
            .retain(|_, b| std::mem::replace(&mut b.used, false) || b.is_dirty() || b.committing);
        if self.blocks.len() >= most {
            self.blocks.retain(|_, b| b.is_dirty() || b.committing);
        }
    }

    fn block(&mut self, index: u64) -> Option<&mut RefBlock> {
        let block = self.blocks.get_mut(&index)?;
        block.used = true;
        Some(block)
    }

    /// The count of a cluster; zero where no block is.
    pub(crate) fn get(&mut self, cluster: u64) -> Step<u64> {
        let (index, within) = (cluster / self.per_block, cluster % self.per_block);
        if self.table.get(index as usize).copied().unwrap_or(0) == 0 {
            return Step::Done(0);
        }
        match self.block(index) {
            Some(block) => Step::Done(block.get(within)),
            None => Step::Load(index),
        }
    }

    /// Changes a count; the new one.
    ///
    /// # Errors
    /// A count below zero or beyond its width.
    pub(crate) fn add(&mut self, cluster: u64, delta: i64) -> Result<Step<u64>> {
        let old = match self.get(cluster) {
            Step::Done(old) => old,
            Step::Load(index) => return Ok(Step::Load(index)),
        };
        let max = RefBlock::max(self.order);
        let Some(new) = old.checked_add_signed(delta).filter(|&n| n <= max) else {
            return Err(Error::corrupt(format!(
                "the refcount of cluster {cluster} is {old}: it cannot change by {delta}"
            )));
        };
        self.put(cluster, new);
        if new == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(Step::Done(new))
    }

    /// Sets the count of a cluster whose block is in memory.
    fn put(&mut self, cluster: u64, value: u64) {
        let (index, within) = (cluster / self.per_block, cluster % self.per_block);
        if let Some(block) = self.block(index) {
            block.set(within, value);
            self.dirty.insert(index);
        }
    }

    /// Takes `min` to `want` free clusters that lie together and counts them once.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] when the format cannot address more.
    pub(crate) fn allocate(&mut self, want: u64, min: u64) -> Result<Step<Run>> {
        let (mut at, mut start, mut len) = (self.hint, self.hint, 0);
        let mut skipped = false;
        while len < want {
            let index = at / self.per_block;
            if index >= self.table.len() as u64 {
                if len >= min {
                    break;
                }
                self.grow_table(index)?;
                continue;
            }
            if self.table.get(index as usize) == Some(&0) {
                if len >= min && len > 0 {
                    break;
                }
                if min > 1 {
                    return Ok(Step::Done(self.fresh_area(min)?));
                }
                // Nothing of this range is counted, so all of it is free: its block comes first.
                self.install(index, at)?;
                self.put(at, 1);
                self.touch(at + 1);
                at += 1;
                continue;
            }
            let per_block = self.per_block;
            let Some(block) = self.block(index) else {
                return Ok(Step::Load(index));
            };
            let end = (index + 1) * per_block;
            while at < end && len < want {
                if block.get(at % per_block) == 0 {
                    if len == 0 {
                        start = at;
                    }
                    len += 1;
                } else if len >= min && len > 0 {
                    break;
                } else {
                    skipped |= len > 0;
                    len = 0;
                }
                at += 1;
            }
            if len >= min && len > 0 && at < end {
                break;
            }
        }
        // Growing may have dropped a clean block that was looked at before.
        for index in start / self.per_block..=(start + len - 1) / self.per_block {
            if self.block(index).is_none() {
                return Ok(Step::Load(index));
            }
        }
        self.check_unused(start, start + len)?;
        for cluster in start..start + len {
            self.put(cluster, 1);
        }
        // Clusters that were too few together stay for smaller requests.
        if !skipped {
            self.hint = start + len;
        }
        Ok(Step::Done(self.run(start, len)))
    }

    fn run(&mut self, start: u64, len: u64) -> Run {
        let zero = start >= self.untouched;
        self.touch(start + len);
        Run { start, len, zero }
    }

    fn touch(&mut self, end: u64) {
        self.untouched = self.untouched.max(end);
    }

    /// The end of the clusters that were used at some time, in clusters.
    pub(crate) fn end(&self) -> u64 {
        self.untouched
    }

    /// Refuses to take clusters that hold metadata, whatever their counts say.
    fn check_unused(&self, start: u64, end: u64) -> Result<()> {
        match read(&self.metadata).range(start..end).next() {
            None => Ok(()),
            Some(cluster) => Err(Error::corrupt(format!(
                "cluster {cluster} holds metadata, but its refcount is zero"
            ))),
        }
    }

    /// Adds an empty block for a range that has none.
    ///
    /// # Errors
    /// Metadata where the block should go.
    fn install(&mut self, index: u64, host_cluster: u64) -> Result<()> {
        self.check_unused(host_cluster, host_cluster + 1)?;
        write(&self.metadata).insert(host_cluster);
        let host = host_cluster << self.cluster_bits;
        let bytes = vec![0; 1 << self.cluster_bits];
        let mut block = RefBlock::new(bytes, self.order, host);
        block.mark_all();
        self.make_room();
        self.blocks.insert(index, block);
        if let Some(entry) = self.table.get_mut(index as usize) {
            *entry = host;
        }
        self.dirty.insert(index);
        self.table_dirty.insert(index);
        Ok(())
    }

    /// Takes `n` clusters behind every range that has a block, with the blocks that count them in
    /// front: the area describes itself.
    fn fresh_area(&mut self, n: u64) -> Result<Run> {
        let used = self
            .table
            .iter()
            .rposition(|&e| e != 0)
            .map_or(0, |i| i as u64 + 1);
        let blocks = self.blocks_for(n);
        if used + blocks > self.table.len() as u64 {
            self.grow_table(used + blocks - 1)?;
            return self.fresh_area(n);
        }
        self.lay_out(used, blocks, n)
    }

    /// Blocks that count themselves and `n` clusters more.
    fn blocks_for(&self, n: u64) -> u64 {
        let mut blocks = 1;
        while blocks * self.per_block < blocks + n {
            blocks = (blocks + n).div_ceil(self.per_block);
        }
        blocks
    }

    fn lay_out(&mut self, first: u64, blocks: u64, n: u64) -> Result<Run> {
        let base = first * self.per_block;
        let end = base + blocks + n;
        if end > (OFFSET_MASK >> self.cluster_bits) {
            return Err(full("the format cannot address more of the file"));
        }
        self.check_unused(base, end)?;
        for i in 0..blocks {
            self.install(first + i, base + i)?;
        }
        for cluster in base..end {
            self.put(cluster, 1);
        }
        Ok(self.run(base + blocks, n)).inspect(|_| self.touch(end))
    }

    /// Gives the table a new, larger place, so that it has an entry for block `needed`.
    fn grow_table(&mut self, needed: u64) -> Result<()> {
        let per_cluster = (1u64 << self.cluster_bits) / 8;
        let first = self.table.len() as u64;
        // Half as much again, so that growing stays rare; and room for what counts the new table.
        let mut clusters = (needed + 1 + needed / 2).div_ceil(per_cluster);
        loop {
            let own = self.blocks_for(clusters);
            let want = (needed.max(first) + 1 + own).div_ceil(per_cluster);
            if want <= clusters {
                break;
            }
            clusters = want;
        }
        let most = (MAX_TABLE_BYTES >> self.cluster_bits).max(1);
        if clusters > most {
            let want = (needed.max(first) + 1 + self.blocks_for(most)).div_ceil(per_cluster);
            if want > most {
                return Err(full("the refcount table cannot grow any further"));
            }
            clusters = most;
        }
        let old = (
            self.table_offset >> self.cluster_bits,
            first.div_ceil(per_cluster),
        );
        self.table.resize((clusters * per_cluster) as usize, 0);
        let blocks = self.blocks_for(clusters);
        let run = self.lay_out(first, blocks, clusters)?;
        write(&self.metadata).extend(run.start..run.start + run.len);
        self.table_offset = run.start << self.cluster_bits;
        self.moved = true;
        self.pending.push(Free {
            cluster: old.0,
            len: old.1,
            punch: false,
            metadata: true,
        });
        Ok(())
    }

    /// Clusters of the table now.
    pub(crate) fn table_clusters(&self) -> u64 {
        (self.table.len() as u64 * 8) >> self.cluster_bits
    }
}

fn full(why: &str) -> Error {
    Error::new(ErrorKind::NoSpace, why)
}

#[cfg(test)]
#[path = "refcount_tests.rs"]
mod tests;
