//! Writes of guest data.
//!
//! A cluster that belongs to this image alone is written in place, without any lock. Everything
//! else goes through a claim on the guest clusters, so that only one request changes a mapping:
//!
//! ```text
//! claim --> own the L2 table --> allocate --+--> data and copied edges are written --> publish in
//!                                           |    the L2 table (in memory) --> old clusters are
//!                                           |    pending --> claim ends
//!                                           +--> (new space, where all of the cluster is zero
//!                                                as before) publish --> claim ends --> data is written
//! ```
//!
//! Requests to other clusters go on meanwhile, and to other subclusters of a cluster that has its
//! place. New space of the file reads as zeroes: where the guest's cluster does too, the mapping may
//! come first, since all that a crash can leave between is what was there before. So writes that fill
//! a cluster piece by piece wait for the first one's allocation only, not for its data. Nothing here
//! waits for the disk's cache: order is the business of a commit.
use std::sync::Arc;

use super::Qcow2;
use super::entry::{COPIED, Content, Entry, OFFSET_MASK};
use super::map::{Slot, read, write as write_lock};
use super::plan::{Plan, keeps_clusters, plan, subclusters};
use super::refcount::{Free, Run};
use super::table::Table;
use crate::access::{self, MAX_PARTS, Part};
use crate::error::Result;
use crate::exec::{both, join_all};
use crate::node::Node;
use crate::storage::{self, Buffer, Gather};
use crate::sync::{RangeGuard, lock};

/// Between two edges of a cluster that are copied, so much is read in vain rather than reading twice.
const MAX_GAP: u64 = 64 << 10;

/// The file grows ahead of what is used by a part of its size, within these bounds: growing with
/// every cluster costs more than the writes.
const GROW_MIN: u64 = 256 << 10;
const GROW_MAX: u64 = 64 << 20;

/// An allocation that is taken back unless it is kept.
pub(super) struct Allocation<'a> {
    image: &'a Qcow2,
    pub(super) run: Run,
    pub(super) kept: bool,
}

impl Drop for Allocation<'_> {
    fn drop(&mut self) {
        if !self.kept && self.image.data.is_none() {
            self.image.refcounts.undo(self.run);
        }
    }
}

/// What is written beside the guest's bytes to make whole granules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Nothing: the place is known to read as it should.
    None,
    Zeroes,
    /// What was there before.
    Bytes,
}

/// Guest bytes whose place is known: written when the claim is over, as they change no mapping.
struct Later {
    host: u64,
    pieces: Vec<Buffer>,
}

impl Qcow2 {
    /// Writes guest data. `chain` begins with this image.
    ///
    /// # Errors
    /// Some of the range may have been written; the request can be sent again.
    pub(crate) async fn write(&self, chain: &[Node], offset: u64, bufs: &[Buffer]) -> Result<()> {
        self.check_sound()?;
        let len = storage::total(bufs);
        let mut parts: Vec<Part<'_>> = Vec::new();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let (plan, n) = self.look(at, len - done).await?;
            if let Some(host) = plan {
                self.check_overlap(host, n)?;
                if n == len {
                    return self.data_storage().write(host, bufs).await;
                }
                let pieces = storage::slice(bufs, done, n);
                parts.push(Box::pin(async move {
                    self.data_storage().write(host, &pieces).await
                }));
            } else {
                let pieces = storage::slice(bufs, done, n);
                parts.push(Box::pin(
                    async move { self.write_new(chain, at, &pieces).await },
                ));
            }
            done += n;
            if parts.len() >= MAX_PARTS {
                join_all(std::mem::take(&mut parts)).await?;
            }
        }
        join_all(parts).await?;
        self.commit_if_full().await
    }

    /// Where the first bytes can be written in place, or for how long they cannot.
    async fn look(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        let g = &self.geometry;
        let (l1_index, index) = g.indices(offset);
        let to_table_end = (g.l2_entries() - index) * g.cluster() - offset % g.cluster();
        let len = len.min(to_table_end);
        let slot = match self.map.get(&self.storage, g, l1_index).await? {
            Some(slot) if self.map.owned(l1_index) => slot,
            _ => return Ok((None, len)),
        };
        let state = read(&slot.table);
        let mut n = 0;
        loop {
            match plan(&state.table, g, offset + n, len - n)? {
                Plan::InPlace { host, n: m } if n == 0 => return Ok((Some(host), m)),
                Plan::InPlace { .. } => return Ok((None, n)),
                Plan::Reuse { n: m, .. } | Plan::New { n: m } => n += m,
            }
            if n >= len {
                return Ok((None, len));
            }
        }
    }

    /// Writes where at least the first cluster needs a change of its mapping. All in one L2 table.
    async fn write_new(&self, chain: &[Node], offset: u64, bufs: &[Buffer]) -> Result<()> {
        let g = &self.geometry;
        let (len, granule) = (storage::total(bufs), g.granule());
        let l1_index = g.indices(offset).0;
        let mut later = Vec::new();
        {
            let end = (offset + len).div_ceil(granule);
            let mut claim = self.claims.take(offset / granule, end, true).await;
            let mut slot = self.own_table(l1_index).await?;
            if g.extended && !keeps_clusters(&read(&slot.table).table, g, offset, len)? {
                // What it has is given back first: two that wait for each other's would wait for ever.
                drop(claim);
                claim = self.claim_clusters(offset, offset + len).await;
                slot = self.own_table(l1_index).await?;
            }
            self.write_claimed(chain, &slot, offset, bufs, &mut later)
                .await?;
            drop(claim);
        }
        let write = |part: Later| -> Part<'_> {
            Box::pin(async move { self.data_storage().write(part.host, &part.pieces).await })
        };
        join_all(later.into_iter().map(write).collect()).await
    }

    /// Keeps everybody else from changing the mapping of the clusters that a guest range touches.
    pub(super) async fn claim_clusters(&self, from: u64, to: u64) -> RangeGuard<'_> {
        let g = &self.geometry;
        let granules = g.cluster() / g.granule();
        let (first, end) = (from >> g.cluster_bits, to.div_ceil(g.cluster()));
        self.claims
            .take(first * granules, end * granules, true)
            .await
    }

    /// Writes what changes mappings, and tells what is left to be written.
    async fn write_claimed(
        &self,
        chain: &[Node],
        slot: &Arc<Slot>,
        offset: u64,
        bufs: &[Buffer],
        later: &mut Vec<Later>,
    ) -> Result<()> {
        let len = storage::total(bufs);
        let mut done = 0;
        while done < len {
            let at = offset + done;
            // Somebody else may have changed the mapping before the claim was ours.
            let plan = plan(&read(&slot.table).table, &self.geometry, at, len - done)?;
            done += match plan {
                Plan::InPlace { host, n } => {
                    self.check_overlap(host, n)?;
                    let pieces = storage::slice(bufs, done, n);
                    later.push(Later { host, pieces });
                    n
                }
                Plan::Reuse { cluster, n } => {
                    self.check_overlap(cluster, 1)?;
                    let pieces = storage::slice(bufs, done, n);
                    self.write_reused(chain, slot, at, &pieces, cluster).await?;
                    n
                }
                Plan::New { n } => {
                    let pieces = storage::slice(bufs, done, n);
                    self.write_allocated(chain, slot, at, &pieces, later)
                        .await?
                }
            };
        }
        Ok(())
    }

    /// Takes host clusters for guest data; the image's own error if they are in use already.
    pub(super) async fn allocate_data(&self, offset: u64, clusters: u64) -> Result<Allocation<'_>> {
        if self.data.is_some() {
            // With a data file every cluster has its guest offset.
            let start = offset >> self.geometry.cluster_bits;
            let run = Run {
                start,
                len: clusters,
                zero: false,
            };
            return Ok(Allocation {
                image: self,
                run,
                kept: false,
            });
        }
        self.allocate_run(clusters, false).await
    }

    /// Takes host clusters and makes the file long enough.
    async fn allocate_run(&self, clusters: u64, together: bool) -> Result<Allocation<'_>> {
        self.before_counting().await?;
        let run = if together {
            self.refcounts
                .allocate_together(&self.storage, clusters)
                .await?
        } else {
            self.refcounts.allocate(&self.storage, clusters).await?
        };
        let allocation = Allocation {
            image: self,
            run,
            kept: false,
        };
        let bits = self.geometry.cluster_bits;
        self.grow_file((run.start + run.len) << bits);
        Ok(allocation)
    }

    /// True if the file reaches `end`.
    fn is_grown(&self, end: u64) -> bool {
        end <= *lock(&self.file_len)
    }

    /// Makes the file reach `end`, and a good deal further while at it.
    pub(super) fn grow_file(&self, end: u64) {
        let mut len = lock(&self.file_len);
        if end > *len {
            let target = end.saturating_add((end / 4).clamp(GROW_MIN, GROW_MAX));
            // Without the head start each write extends the file: slower, and as good.
            if self.storage.grow(*len, target).is_ok() {
                *len = target;
            }
        }
    }

    /// Writes the first clusters of the range to a new place, or gives them one that is written to
    /// `later`. How many bytes.
    async fn write_allocated(
        &self,
        chain: &[Node],
        slot: &Arc<Slot>,
        offset: u64,
        bufs: &[Buffer],
        later: &mut Vec<Later>,
    ) -> Result<u64> {
        let g = &self.geometry;
        let (cluster, bits) = (g.cluster(), g.cluster_bits);
        let len = storage::total(bufs);
        let first = offset >> bits;
        let wanted = ((offset + len - 1) >> bits) - first + 1;
        let (_, index) = g.indices(offset);
        {
            let state = read(&slot.table);
            for i in 0..wanted {
                self.check_replaceable(state.table.get(index + i))?;
            }
        }
        let mut allocation = self.allocate_data(offset, wanted).await?;
        let run = allocation.run;
        let end = (offset + len).min((first + run.len) << bits);
        let count = ((end - 1) >> bits) - first + 1;
        let (from, to) = {
            let state = read(&slot.table);
            let edge = |entry: Entry, unit: u64| match entry.content_anywhere(g) {
                // A cluster with data moves as a whole.
                true => cluster,
                false => unit,
            };
            let head = edge(state.table.get(index), g.granule());
            let tail = edge(state.table.get(index + count - 1), g.granule());
            (offset - offset % head, end.next_multiple_of(tail))
        };
        let base = run.start << bits;
        let whole = (first << bits, (first + count) << bits);
        let pieces = storage::slice(bufs, 0, end - offset);
        if run.zero && self.is_grown(base + (count << bits)) && self.is_zero(chain, whole).await? {
            // With nothing beneath, zeroes of the new place are as good as none: no subcluster needs
            // another change then.
            let written = match chain.len() {
                1 => whole,
                _ => (from, to),
            };
            allocation.kept = true;
            self.publish(slot, index, base, count, written);
            let host = base + (offset - whole.0);
            later.push(Later { host, pieces });
            return Ok(end - offset);
        }
        let (start, gather) = self
            .surround(chain, (from, to), offset, &pieces, run.zero)
            .await?;
        let host = base + (start - whole.0);
        self.data_storage().write_gather(host, gather).await?;
        allocation.kept = true;
        self.publish(slot, index, base, count, (from, to));
        Ok(end - offset)
    }

    /// True if a guest range reads as zeroes, as far as the disk reaches.
    async fn is_zero(&self, chain: &[Node], (from, to): (u64, u64)) -> Result<bool> {
        let inside = to.min(self.size()).saturating_sub(from);
        access::reads_zero(chain, from, inside).await
    }

    /// The guest's bytes with all that must be written around them, so that the range around reads as
    /// before. Where it begins. `zero` if the place reads as zeroes.
    async fn surround(
        &self,
        chain: &[Node],
        (from, to): (u64, u64),
        offset: u64,
        bufs: &[Buffer],
        zero: bool,
    ) -> Result<(u64, Gather)> {
        let end = offset + storage::total(bufs);
        let head = self.edge(chain, (from, offset), zero).await?;
        let tail = self.edge(chain, (end, to), zero).await?;
        let mut gather = Gather::default();
        if (head, tail) == (Edge::Bytes, Edge::Bytes) && end - offset <= MAX_GAP {
            let bytes = self.old_bytes(chain, (from, to)).await?;
            gather.push_around(bytes, (offset - from) as usize, bufs);
            return Ok((from, gather));
        }
        let read = async |edge: Edge, range: (u64, u64)| match edge {
            Edge::Bytes => self.old_bytes(chain, range).await.map(Some),
            _ => Ok(None),
        };
        let (before, after) = both(read(head, (from, offset)), read(tail, (end, to))).await;
        let add = |gather: &mut Gather, edge, bytes: Option<_>, len| match (edge, bytes) {
            (Edge::Zeroes, _) => gather.push_zeroes(len),
            (_, Some(bytes)) => gather.push_owned(bytes),
            _ => {}
        };
        add(&mut gather, head, before?, offset - from);
        gather.push(bufs);
        add(&mut gather, tail, after?, to - end);
        Ok((if head == Edge::None { offset } else { from }, gather))
    }

    /// What must be written to `from..to` of a new place so that it reads as before.
    async fn edge(&self, chain: &[Node], (from, to): (u64, u64), zero: bool) -> Result<Edge> {
        if from >= to {
            return Ok(Edge::None);
        }
        if !self.is_zero(chain, (from, to)).await? {
            return Ok(Edge::Bytes);
        }
        Ok(if zero { Edge::None } else { Edge::Zeroes })
    }

    /// What a guest range has now; the last cluster may reach over the end of the disk.
    async fn old_bytes(&self, chain: &[Node], (from, to): (u64, u64)) -> Result<storage::IoBuf> {
        let inside = to.min(self.size()).saturating_sub(from);
        storage::fill_owned(to - from, async |bufs| {
            access::read(chain, from, &storage::slice(bufs, 0, inside)).await
        })
        .await
    }

    /// Points `count` entries from `index` on at host clusters from `base` on; `written` is the
    /// guest range that the new place holds. The old clusters become pending.
    pub(super) fn publish(
        &self,
        slot: &Slot,
        index: u64,
        base: u64,
        count: u64,
        written: (u64, u64),
    ) {
        let g = &self.geometry;
        let mut frees = Vec::new();
        let mut state = write_lock(&slot.table);
        for i in 0..count {
            let old = state.table.get(index + i);
            let word = (base + i * g.cluster()) | COPIED;
            let guest = (slot.l1_index * g.l2_entries() + index + i) << g.cluster_bits;
            let bitmap = if g.extended {
                subclusters(g, old, guest, written)
            } else {
                0
            };
            state.table.set(index + i, Entry { word, bitmap });
            if old.is_compressed() {
                self.unpacked.forget(old.word);
            }
            frees.extend(self.freed(old, false));
        }
        self.map.mark_dirty(slot.l1_index);
        drop(state);
        self.defer(&frees);
    }

    /// Refuses to give up what an entry refers to if that cannot be guest data.
    pub(super) fn check_replaceable(&self, entry: Entry) -> Result<()> {
        let g = &self.geometry;
        for granule in 0..g.cluster() / g.granule() {
            entry.content(g, granule)?;
        }
        match self.freed(entry, false) {
            None => Ok(()),
            Some(f) => self.check_overlap(f.cluster << g.cluster_bits, f.len << g.cluster_bits),
        }
    }

    /// The host clusters that an entry no longer refers to.
    pub(super) fn freed(&self, old: Entry, punch: bool) -> Option<Free> {
        let g = &self.geometry;
        if self.data.is_some() {
            return None;
        }
        if old.is_compressed() {
            let (offset, len) = g.compressed_range(old.word);
            let first = offset >> g.cluster_bits;
            let last = (offset + len - 1) >> g.cluster_bits;
            return Some(Free {
                cluster: first,
                len: last - first + 1,
                punch,
                metadata: false,
            });
        }
        let host = old.host(g)?;
        Some(Free {
            cluster: host >> g.cluster_bits,
            len: 1,
            punch,
            metadata: false,
        })
    }

    /// Writes to an owned cluster whose entry must change.
    async fn write_reused(
        &self,
        chain: &[Node],
        slot: &Arc<Slot>,
        offset: u64,
        bufs: &[Buffer],
        cluster: u64,
    ) -> Result<()> {
        let g = &self.geometry;
        let granule = g.granule();
        let within = offset % g.cluster();
        let end = offset + storage::total(bufs);
        let (_, index) = g.indices(offset);
        let entry = read(&slot.table).table.get(index);
        // A granule that has data keeps the rest of it.
        let has_data = |at: u64| {
            let content = entry.content(g, (at % g.cluster()) / granule)?;
            Ok(matches!(content, Content::Data(_)))
        };
        let from = if has_data(offset)? {
            offset
        } else {
            offset - offset % granule
        };
        let to = if has_data(end - 1)? {
            end
        } else {
            end.next_multiple_of(granule)
        };
        let (start, gather) = self
            .surround(chain, (from, to), offset, bufs, false)
            .await?;
        self.data_storage()
            .write_gather(cluster + within - (offset - start), gather)
            .await?;
        let guest = offset - within;
        let word = cluster | COPIED;
        let mut state = write_lock(&slot.table);
        let bitmap = if g.extended {
            // Other subclusters may have changed meanwhile.
            subclusters(g, state.table.get(index), guest, (from, to))
        } else {
            0
        };
        state.table.set(index, Entry { word, bitmap });
        self.map.mark_dirty(slot.l1_index);
        Ok(())
    }

    /// The L2 table of an L1 index, made this image's own: a new one where there is none, a copy
    /// where a snapshot shares it.
    pub(super) async fn own_table(&self, l1_index: u64) -> Result<Arc<Slot>> {
        let g = &self.geometry;
        if self.map.owned(l1_index)
            && let Some(slot) = self.map.get(&self.storage, g, l1_index).await?
        {
            return Ok(slot);
        }
        let _loading = self.map.loading.take(l1_index, l1_index + 1, true).await;
        let old = self.map.load(&self.storage, g, l1_index).await?;
        if let Some(slot) = &old
            && self.map.owned(l1_index)
        {
            return Ok(slot.clone());
        }
        let mut allocation = self.allocate_run(1, false).await?;
        allocation.kept = true;
        let run = allocation.run;
        let host = run.start << g.cluster_bits;
        self.add_metadata(run);
        let table = match &old {
            Some(slot) => Table::from_bytes(&write_lock(&slot.table).table.take_all(), g),
            None => Table::empty(g),
        };
        let slot = self.map.insert(l1_index, table, host, true);
        let mut old_host = 0;
        if let Some(entry) = write_lock(&self.map.l1).entries.get_mut(l1_index as usize) {
            old_host = *entry & OFFSET_MASK;
            *entry = host | COPIED;
        }
        self.map.mark_dirty(l1_index);
        if old_host != 0 {
            let cluster = old_host >> g.cluster_bits;
            self.defer(&[Free {
                cluster,
                len: 1,
                punch: false,
                metadata: true,
            }]);
        }
        Ok(slot)
    }

    /// Notes clusters that were unmapped in memory: free after the next commit.
    pub(super) fn defer(&self, frees: &[Free]) {
        if !frees.is_empty() {
            self.close_packing(Some(frees));
            self.refcounts.defer_free(frees);
        }
    }
}
