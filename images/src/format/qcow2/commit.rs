//! The order in which changed metadata reaches the disk.
//!
//! Changes gather in memory. A commit takes a copy of them and writes it so that a crash at any
//! instant leaves a consistent image that has everything that was flushed:
//!
//! ```text
//! 1  counts that rose, new refcount blocks, new L2 tables (nothing refers to these yet)
//!    -- flush: makes guest data and step 1 durable --
//! 2  the refcount table, or the header if the table has a new place       (rarely anything)
//!    -- flush --
//! 3  L2 entries of tables in place, L1 entries of new tables
//!    -- flush --
//! 4  in memory: clusters that step 3 unmapped leave limbo when the last request that could still
//!    be inside is over; their counts fall and are written by step 1 of the next commit
//! ```
//!
//! A commit without changes is one flush; a plain one is two, however many requests it serves.
//! What arrives while a commit runs shares the next one. When a step fails, everything of the cut
//! counts as changed again, and the next commit tries once more.
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Qcow2;
use super::map::write as write_lock;
use super::refcount::{Free, Step};
use crate::access::Part;
use crate::error::Result;
use crate::exec::join_all;
use crate::storage::Storage;
use crate::sync::{Turn, lock};

/// Changed L2 tables in memory, in bytes, at which a write starts a commit.
const MAX_DIRTY: u64 = 32 << 20;
/// Unmapped ranges at which a write starts a commit.
const MAX_PENDING: usize = 1 << 16;
/// Writes in flight in one step.
const BATCH: usize = 64;
/// The unit in which L1 and refcount table entries are written.
const SECTOR: u64 = 512;

/// What commits remember between each other.
#[derive(Default)]
pub(super) struct CommitState {
    turn: Turn,
    started: AtomicU64,
    completed: AtomicU64,
    /// Unmapped on disk, with the epoch of requests that may still be inside.
    limbo: Mutex<Vec<(u64, Vec<Free>)>>,
    /// L1 entries that the disk does not have yet.
    l1_dirty: Mutex<BTreeSet<u64>>,
}

impl CommitState {
    /// Notes an L1 entry that is newer than the disk and whose table is there.
    pub(super) fn mark_l1(&self, l1_index: u64) {
        lock(&self.l1_dirty).insert(l1_index);
    }

    pub(super) fn reset(&self) {
        lock(&self.limbo).clear();
        lock(&self.l1_dirty).clear();
    }
}

/// A piece of metadata on its way to the file.
struct Piece {
    offset: u64,
    bytes: Vec<u8>,
}

/// What a commit took.
#[derive(Default)]
struct Cut {
    frees: Vec<Free>,
    /// Tables that are new on disk: (L1 index, offset, bytes).
    fresh: Vec<(u64, Piece)>,
    /// Pages of tables in place: (L1 index, pages, pieces).
    tables: Vec<(u64, u64, Vec<Piece>)>,
    /// Pages of refcount blocks: (index, pages, pieces).
    blocks: Vec<(u64, u64, Vec<Piece>)>,
    reftable: Vec<Piece>,
    reftable_entries: BTreeSet<u64>,
    moved: Option<(u64, u64)>,
    /// The header on disk may point at an older table; this one is complete on disk.
    pointer: Option<(u64, u64)>,
    /// How far it came.
    step: u32,
}

/// Gives a cut back if the commit ends before it is done, also when its future is dropped.
struct CutGuard<'a> {
    image: &'a Qcow2,
    cut: Cut,
}

impl Drop for CutGuard<'_> {
    fn drop(&mut self) {
        self.image.give_back(&mut self.cut);
    }
}

impl Qcow2 {
    /// Makes everything durable that was written before.
    ///
    /// # Errors
    /// Nothing is lost: the next flush tries again.
    pub(crate) async fn flush(&self) -> Result<()> {
        let arrived = self.commit.started.load(Ordering::Acquire);
        let _turn = self.commit.turn.take().await;
        // A commit that started after this call has covered it.
        if self.commit.completed.load(Ordering::Acquire) > arrived {
            return Ok(());
        }
        let number = self.commit.started.fetch_add(1, Ordering::AcqRel) + 1;
        self.commit_once().await?;
        self.commit.completed.store(number, Ordering::Release);
        Ok(())
    }

    /// Starts a commit when too much has gathered.
    pub(super) async fn commit_if_full(&self) -> Result<()> {
        let tables = lock(&self.map.dirty).len() as u64;
        let pending = lock(&self.refcounts.state).pending.len();
        if tables << self.geometry.cluster_bits > MAX_DIRTY || pending > MAX_PENDING {
            self.flush().await?;
        }
        Ok(())
    }

    /// Commits until nothing is left to write: for the end of the use of the image, when no
    /// request is inside.
    pub(crate) async fn settle(&self) -> Result<()> {
        self.close_packing(None);
        let _all = self.lazy.settle();
        // The second commit writes the counts that the first one let fall.
        for _ in 0..3 {
            self.flush().await?;
            let refs = lock(&self.refcounts.state);
            let limbo = lock(&self.commit.limbo).is_empty();
            if refs.dirty.is_empty() && refs.pending.is_empty() && limbo {
                break;
            }
        }
        let end = lock(&self.refcounts.state).end() << self.geometry.cluster_bits;
        // The file ends with the last cluster that was ever used: without what it grew ahead, and
        // not in the middle of a table.
        if self.storage.len()? != end && self.storage.set_len(end).is_ok() {
            *lock(&self.file_len) = end;
        }
        self.end_lazy().await
    }

    async fn sync_all(&self) -> Result<()> {
        if let Some(data) = &self.data {
            data.sync().await?;
        }
        self.storage.sync().await
    }

    async fn commit_once(&self) -> Result<()> {
        let mut guard = CutGuard {
            image: self,
            cut: self.cut(),
        };
        let cut = &mut guard.cut;
        let first = cut
            .fresh
            .iter()
            .map(|(_, piece)| piece)
            .chain(cut.blocks.iter().flat_map(|(_, _, pieces)| pieces))
            .chain(if cut.moved.is_some() {
                cut.reftable.as_slice()
            } else {
                &[]
            });
        write_pieces(&self.storage, first).await?;
        self.sync_all().await?;
        self.written_new(cut);
        self.write_reftable(cut).await?;
        cut.step = 2;
        let l1 = self.l1_pieces();
        if !l1.is_empty() || !cut.tables.is_empty() {
            let tables = cut.tables.iter().flat_map(|(_, _, pieces)| pieces);
            write_pieces(&self.storage, tables.chain(l1.iter())).await?;
            self.sync_all().await?;
        }
        cut.step = 3;
        self.written_in_place(cut);
        let frees = std::mem::take(&mut cut.frees);
        drop(guard);
        if !frees.is_empty() {
            let epoch = self.requests.end_epoch();
            lock(&self.commit.limbo).push((epoch, frees));
        }
        self.reclaim().await;
        Ok(())
    }

    /// Step 2: the entries of new refcount blocks, or the pointer at a table that has moved.
    async fn write_reftable(&self, cut: &Cut) -> Result<()> {
        let pointer = cut.moved.or(cut.pointer);
        if cut.moved.is_none() && !cut.reftable.is_empty() {
            write_pieces(&self.storage, cut.reftable.iter()).await?;
            self.sync_all().await?;
        }
        let Some((offset, clusters)) = pointer else {
            return Ok(());
        };
        let mut bytes = offset.to_be_bytes().to_vec();
        bytes.extend((clusters as u32).to_be_bytes());
        write_pieces(&self.storage, [&Piece { offset: 48, bytes }].into_iter()).await?;
        self.sync_all().await?;
        let mut header = write_lock(&self.header);
        header.reftable_offset = offset;
        header.reftable_clusters = clusters as u32;
        Ok(())
    }

    /// Takes copies of all that is newer than the disk. The order matters: what was unmapped is
    /// taken before the tables that show it, the tables before the counts that they rely on.
    fn cut(&self) -> Cut {
        let mut cut = Cut {
            frees: std::mem::take(&mut lock(&self.refcounts.state).pending),
            ..Cut::default()
        };
        let dirty = std::mem::take(&mut *lock(&self.map.dirty));
        for l1_index in dirty {
            let Some(slot) = self.map.cached(l1_index) else {
                continue;
            };
            let mut state = write_lock(&slot.table);
            state.committing = true;
            let host = state.host;
            if state.fresh {
                let bytes = state.table.take_all();
                cut.fresh.push((
                    l1_index,
                    Piece {
                        offset: host,
                        bytes,
                    },
                ));
            } else {
                let (pages, pieces) = state.table.take_dirty();
                let pieces = pieces.into_iter().map(|(at, bytes)| Piece {
                    offset: host + at,
                    bytes,
                });
                cut.tables.push((l1_index, pages, pieces.collect()));
            }
        }
        let postponed = self.postpones_counts();
        let mut refs = lock(&self.refcounts.state);
        if postponed {
            return cut;
        }
        for index in std::mem::take(&mut refs.dirty) {
            let Some(block) = refs.blocks.get_mut(&index) else {
                continue;
            };
            block.committing = true;
            let host = block.host;
            let (pages, pieces) = block.take_dirty();
            let pieces = pieces.into_iter().map(|(at, bytes)| Piece {
                offset: host + at,
                bytes,
            });
            cut.blocks.push((index, pages, pieces.collect()));
        }
        cut.reftable_entries = std::mem::take(&mut refs.table_dirty);
        cut.pointer = refs.pointer.take();
        if std::mem::take(&mut refs.moved) {
            let bytes = refs.table.iter().flat_map(|e| e.to_be_bytes()).collect();
            cut.reftable.push(Piece {
                offset: refs.table_offset,
                bytes,
            });
            cut.moved = Some((refs.table_offset, refs.table_clusters()));
        } else {
            cut.reftable = sectors(&refs.table, &cut.reftable_entries, refs.table_offset);
        }
        cut
    }

    /// Step 1 is durable: new tables are on disk, though nothing there refers to them yet.
    fn written_new(&self, cut: &mut Cut) {
        cut.step = 1;
        for (l1_index, _) in &cut.fresh {
            if let Some(slot) = self.map.cached(*l1_index) {
                let mut state = write_lock(&slot.table);
                state.fresh = false;
                state.committing = false;
            }
            lock(&self.commit.l1_dirty).insert(*l1_index);
        }
        let mut refs = lock(&self.refcounts.state);
        for (index, _, _) in &cut.blocks {
            if let Some(block) = refs.blocks.get_mut(index) {
                block.committing = false;
            }
        }
    }

    /// The L1 sectors whose new tables are durable.
    fn l1_pieces(&self) -> Vec<Piece> {
        let dirty = lock(&self.commit.l1_dirty).clone();
        let mut l1 = write_lock(&self.map.l1);
        for &index in &dirty {
            // Only what is in this set may be told to the disk: other new tables are not there.
            if let Some(entry) = l1.entries.get(index as usize).copied()
                && let Some(on_disk) = l1.on_disk.get_mut(index as usize)
            {
                *on_disk = entry;
            }
        }
        let offset = l1.offset;
        sectors(&l1.on_disk, &dirty, offset)
    }

    /// Step 3 is durable.
    fn written_in_place(&self, cut: &mut Cut) {
        lock(&self.commit.l1_dirty).clear();
        for (l1_index, _, _) in &cut.tables {
            if let Some(slot) = self.map.cached(*l1_index) {
                write_lock(&slot.table).committing = false;
            }
        }
        let changed = cut
            .tables
            .iter()
            .map(|t| t.0)
            .chain(cut.fresh.iter().map(|f| f.0));
        for l1_index in changed {
            if let Some(slot) = self.map.cached(l1_index) {
                self.map.recount(&slot);
            }
        }
    }

    /// Marks what a failed commit did not get to the disk as changed again.
    fn give_back(&self, cut: &mut Cut) {
        if cut.step >= 3 {
            return;
        }
        if cut.step == 0 {
            for (l1_index, _) in &cut.fresh {
                // Still fresh, so it is written as a whole next time.
                if let Some(slot) = self.map.cached(*l1_index) {
                    write_lock(&slot.table).committing = false;
                }
                self.map.mark_dirty(*l1_index);
            }
        }
        for (l1_index, pages, _) in &cut.tables {
            if let Some(slot) = self.map.cached(*l1_index) {
                let mut state = write_lock(&slot.table);
                state.committing = false;
                state.table.mark(*pages);
            }
            self.map.mark_dirty(*l1_index);
        }
        let mut refs = lock(&self.refcounts.state);
        let refs = &mut *refs;
        if cut.step == 0 {
            for (index, pages, _) in &cut.blocks {
                if let Some(block) = refs.blocks.get_mut(index) {
                    block.committing = false;
                    block.mark(*pages);
                }
                refs.dirty.insert(*index);
            }
        }
        if cut.step < 2 {
            // After step 1 the new table is whole on disk, and the header may point at it already:
            // it is never written as a whole again.
            match cut.step {
                0 => refs.moved |= cut.moved.is_some(),
                _ => refs.pointer = cut.moved,
            }
            refs.pointer = refs.pointer.or(cut.pointer);
            refs.table_dirty.append(&mut cut.reftable_entries);
        }
        let mut frees = std::mem::take(&mut cut.frees);
        frees.append(&mut refs.pending);
        refs.pending = frees;
    }

    /// Lets go of clusters that the disk no longer refers to and that no request can be inside.
    /// What fails stays in limbo for the next commit: it costs space, not data.
    async fn reclaim(&self) {
        loop {
            let (epoch, frees) = {
                let mut limbo = lock(&self.commit.limbo);
                let Some(at) = limbo.iter().position(|(e, _)| self.requests.is_over(*e)) else {
                    return;
                };
                limbo.swap_remove(at)
            };
            let mut left = LimboGuard {
                image: self,
                epoch,
                frees,
            };
            if let Err(error) = self.release(&mut left.frees).await {
                tracing::warn!(%error, "freed clusters stay counted until the next flush");
                return;
            }
        }
    }

    async fn release(&self, frees: &mut Vec<Free>) -> Result<()> {
        frees.sort_unstable_by_key(|f| f.cluster);
        self.punch(frees).await?;
        while let Some(free) = frees.last_mut() {
            if free.len == 0 {
                frees.pop();
                continue;
            }
            // From the end, so that what is left after a failure is a shorter range.
            let (cluster, metadata) = (free.cluster + free.len - 1, free.metadata);
            let left = self
                .refcounts
                .with(&self.storage, |state| match state.get(cluster) {
                    Step::Load(index) => Ok(Step::Load(index)),
                    Step::Done(0) => Ok(Step::Done(None)),
                    Step::Done(_) => Ok(match state.add(cluster, -1)? {
                        Step::Done(count) => Step::Done(Some(count)),
                        Step::Load(index) => Step::Load(index),
                    }),
                })
                .await?;
            match left {
                None => tracing::warn!(cluster, "a cluster that was in use was not counted"),
                Some(0) if metadata => {
                    write_lock(&self.metadata).remove(&cluster);
                }
                Some(_) => {}
            }
            free.len -= 1;
        }
        Ok(())
    }

    /// Gives the space of clusters back that nobody else refers to. Their counts still keep
    /// everybody away.
    async fn punch(&self, frees: &[Free]) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for free in frees.iter().filter(|f| f.punch) {
            for cluster in free.cluster..free.cluster + free.len {
                if self.refcounts.get(&self.storage, cluster).await? != 1 {
                    continue;
                }
                match holes.last_mut() {
                    Some((start, len)) if *start + *len == cluster => *len += 1,
                    _ => holes.push((cluster, 1)),
                }
            }
        }
        for batch in holes.chunks(BATCH) {
            let punch = |&(start, len): &(u64, u64)| -> Part<'_> {
                Box::pin(self.storage.discard(start << bits, len << bits))
            };
            // A hole that cannot be made costs space only.
            if let Err(error) = join_all(batch.iter().map(punch).collect()).await {
                tracing::debug!(%error, "no hole was made for freed clusters");
            }
        }
        Ok(())
    }
}

/// Puts frees back into limbo if letting go of them fails.
struct LimboGuard<'a> {
    image: &'a Qcow2,
    epoch: u64,
    frees: Vec<Free>,
}

impl Drop for LimboGuard<'_> {
    fn drop(&mut self) {
        if !self.frees.is_empty() {
            let frees = std::mem::take(&mut self.frees);
            lock(&self.image.commit.limbo).push((self.epoch, frees));
        }
    }
}

/// The sectors of a table of 64-bit entries that hold the given indices.
fn sectors(table: &[u64], indices: &BTreeSet<u64>, offset: u64) -> Vec<Piece> {
    let per_sector = SECTOR / 8;
    let numbers: BTreeSet<u64> = indices.iter().map(|i| i / per_sector).collect();
    let piece = |n: u64| {
        let entries = table
            .iter()
            .skip((n * per_sector) as usize)
            .take(per_sector as usize);
        Piece {
            offset: offset + n * SECTOR,
            bytes: entries.flat_map(|e| e.to_be_bytes()).collect(),
        }
    };
    numbers.into_iter().map(piece).collect()
}

/// Writes pieces, many at a time.
async fn write_pieces<'a>(
    storage: &'a Storage,
    pieces: impl Iterator<Item = &'a Piece>,
) -> Result<()> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for piece in pieces {
        let buf = piece.bytes.as_slice().into();
        parts.push(Box::pin(storage.write_owned(piece.offset, buf)));
        if parts.len() >= BATCH {
            join_all(std::mem::take(&mut parts)).await?;
        }
    }
    join_all(parts).await
}
