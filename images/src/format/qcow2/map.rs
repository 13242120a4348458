//! The L1 table and the L2 tables in memory: lookups, loading, memory bounds.
//!
//! Locks are short and never held across an await. Whoever loads or replaces a table holds the
//! range lock of its L1 index; the dirty ones stay in memory until a commit has written them.
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::entry::{COPIED, Geometry, OFFSET_MASK};
use super::header::be64;
use super::table::Table;
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::sync::{RangeLocks, lock};

/// Memory for clean L2 tables: 32 MiB map 256 GiB of 64 KiB clusters even if nothing is
/// contiguous.
const MAX_MEMORY: usize = 32 << 20;
const SHARDS: usize = 16;

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// An L2 table and where it is on disk.
pub(crate) struct Slot {
    pub(crate) l1_index: u64,
    pub(crate) table: RwLock<SlotState>,
    used: AtomicBool,
}

pub(crate) struct SlotState {
    pub(crate) table: Table,
    /// Offset of the table in the file.
    pub(crate) host: u64,
    /// Not reachable from the L1 table on disk yet: written as a whole before it is.
    pub(crate) fresh: bool,
    /// A commit writes a copy of it right now: what is on disk is older.
    pub(crate) committing: bool,
    /// Memory of the table when it was last counted.
    counted: usize,
}

/// The active L1 table, and a copy of what the disk has of it.
#[derive(Default)]
pub(crate) struct L1 {
    pub(crate) entries: Vec<u64>,
    pub(crate) on_disk: Vec<u64>,
    pub(crate) offset: u64,
}

/// All mapping tables of an image.
pub(crate) struct Map {
    pub(crate) l1: RwLock<L1>,
    shards: [RwLock<HashMap<u64, Arc<Slot>>>; SHARDS],
    memory: AtomicUsize,
    /// L1 indices whose tables are newer than the disk.
    pub(crate) dirty: Mutex<BTreeSet<u64>>,
    /// Held by who loads or replaces the table of an L1 index.
    pub(crate) loading: RangeLocks,
}

impl Map {
    pub(crate) fn new() -> Map {
        Map {
            l1: RwLock::default(),
            shards: std::array::from_fn(|_| RwLock::default()),
            memory: AtomicUsize::new(0),
            dirty: Mutex::default(),
            loading: RangeLocks::default(),
        }
    }

    /// Forgets everything and takes a new L1 table.
    pub(crate) fn reset(&self, entries: Vec<u64>, offset: u64) {
        for shard in &self.shards {
            write(shard).clear();
        }
        self.memory.store(0, Ordering::Relaxed);
        lock(&self.dirty).clear();
        *write(&self.l1) = L1 {
            on_disk: entries.clone(),
            entries,
            offset,
        };
    }

    /// Reads an L1 table from the file.
    pub(crate) async fn read_l1(storage: &Storage, offset: u64, entries: u64) -> Result<Vec<u64>> {
        if entries == 0 {
            return Ok(Vec::new());
        }
        let bytes = storage.read_owned(offset, entries * 8).await?;
        Ok((0..entries as usize).map(|i| be64(&bytes, i * 8)).collect())
    }

    fn shard(&self, l1_index: u64) -> &RwLock<HashMap<u64, Arc<Slot>>> {
        &self.shards[l1_index as usize % SHARDS]
    }

    /// The table of an L1 index if it is in memory.
    pub(crate) fn cached(&self, l1_index: u64) -> Option<Arc<Slot>> {
        let slot = read(self.shard(l1_index)).get(&l1_index).cloned()?;
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(slot)
    }

    /// The L1 entry of an index; zero beyond the table.
    pub(crate) fn l1_entry(&self, l1_index: u64) -> u64 {
        read(&self.l1)
            .entries
            .get(l1_index as usize)
            .copied()
            .unwrap_or(0)
    }

    /// The table of an L1 index, from memory or from disk. None if the L1 entry is empty.
    ///
    /// # Errors
    /// An L1 entry that points between clusters; a failed read.
    pub(crate) async fn get(
        &self,
        storage: &Storage,
        geometry: &Geometry,
        l1_index: u64,
    ) -> Result<Option<Arc<Slot>>> {
        if let Some(slot) = self.cached(l1_index) {
            return Ok(Some(slot));
        }
        if self.l1_entry(l1_index) & OFFSET_MASK == 0 {
            return Ok(None);
        }
        let _loading = self.loading.take(l1_index, l1_index + 1, true).await;
        self.load(storage, geometry, l1_index).await
    }

    /// As [`Map::get`], for a caller that holds the range lock of the index.
    pub(crate) async fn load(
        &self,
        storage: &Storage,
        geometry: &Geometry,
        l1_index: u64,
    ) -> Result<Option<Arc<Slot>>> {
        if let Some(slot) = self.cached(l1_index) {
            return Ok(Some(slot));
        }
        let host = self.l1_entry(l1_index) & OFFSET_MASK;
        if host == 0 {
            return Ok(None);
        }
        let table = read_table(storage, geometry, host)
            .await
            .map_err(|e| e.context(format_args!("L1 entry {l1_index}")))?;
        Ok(Some(self.insert(l1_index, table, host, false)))
    }

    /// Puts a table into memory, in the place of an older one.
    pub(crate) fn insert(&self, l1_index: u64, table: Table, host: u64, fresh: bool) -> Arc<Slot> {
        let cluster = table.bytes();
        let memory = table.memory() + size_of::<Slot>();
        let state = SlotState {
            table,
            host,
            fresh,
            committing: false,
            counted: memory,
        };
        let slot = Arc::new(Slot {
            l1_index,
            table: RwLock::new(state),
            used: AtomicBool::new(true),
        });
        write(self.shard(l1_index)).insert(l1_index, slot.clone());
        if self.memory.fetch_add(memory, Ordering::Relaxed) + memory > MAX_MEMORY {
            self.evict(cluster);
        }
        slot
    }

    /// Drops clean tables that nobody uses, those first that were not used for a while, until a
    /// quarter of the memory is free. What remains is counted afresh.
    fn evict(&self, cluster: u64) {
        let mut left: usize = 0;
        let mut all: Vec<(bool, u64)> = Vec::new();
        for shard in &self.shards {
            for (index, slot) in read(shard).iter() {
                if let Ok(state) = slot.table.try_read() {
                    left += state.table.memory() + size_of::<Slot>();
                }
                all.push((slot.used.swap(false, Ordering::Relaxed), *index));
            }
        }
        all.sort_unstable();
        for (_, index) in all {
            if left <= MAX_MEMORY / 4 * 3 {
                break;
            }
            let mut shard = write(self.shard(index));
            let Some(slot) = shard.get(&index) else {
                continue;
            };
            // Whoever else holds the table may be about to change it.
            if Arc::strong_count(slot) > 1 {
                continue;
            }
            let Ok(mut state) = slot.table.try_write() else {
                continue;
            };
            if state.fresh || state.committing || state.table.is_dirty() {
                continue;
            }
            let before = state.table.memory();
            state.table.shrink(cluster);
            let after = state.table.memory();
            if after * 4 < before {
                // A table that has become regular again costs little to keep.
                left = left.saturating_sub(before - after);
                continue;
            }
            left = left.saturating_sub(before + size_of::<Slot>());
            drop(state);
            shard.remove(&index);
        }
        self.memory.store(left, Ordering::Relaxed);
    }

    /// Counts the memory of a table again that has been changed and is on disk now.
    pub(crate) fn recount(&self, slot: &Slot) {
        let (grown, cluster) = {
            let mut state = write(&slot.table);
            let now = state.table.memory() + size_of::<Slot>();
            let before = std::mem::replace(&mut state.counted, now);
            (now.saturating_sub(before), state.table.bytes())
        };
        if self.memory.fetch_add(grown, Ordering::Relaxed) + grown > MAX_MEMORY {
            self.evict(cluster);
        }
    }

    /// Notes that a table is newer than the disk. How many such tables there are.
    pub(crate) fn mark_dirty(&self, l1_index: u64) -> usize {
        let mut dirty = lock(&self.dirty);
        dirty.insert(l1_index);
        dirty.len()
    }

    /// True if the table of the index may be changed in place: it is in the active L1 alone.
    pub(crate) fn owned(&self, l1_index: u64) -> bool {
        self.l1_entry(l1_index) & COPIED != 0
    }
}

/// Reads an L2 table from its place in the file.
///
/// # Errors
/// A place between clusters; a failed read.
pub(crate) async fn read_table(storage: &Storage, geometry: &Geometry, host: u64) -> Result<Table> {
    if !host.is_multiple_of(geometry.cluster()) {
        return Err(Error::corrupt(format!(
            "the L2 table cannot be at offset {host}"
        )));
    }
    let bytes = storage.read_owned(host, geometry.cluster()).await?;
    Ok(Table::from_bytes(&bytes, geometry))
}
