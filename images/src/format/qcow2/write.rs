//! Writes of guest data.
//!
//! A cluster that belongs to this image alone is written in place, without any lock. Everything
//! else goes through a claim on the guest clusters, so that only one request changes a mapping:
//!
//! ```text
//! claim --> own the L2 table --> allocate --> data and copied edges are written --> publish in
//! the L2 table (in memory) --> old clusters are pending --> claim ends
//! ```
//!
//! Requests to other clusters go on meanwhile. Nothing here waits for the disk's cache: order is
//! the business of a commit.
use std::sync::Arc;

use super::entry::{COPIED, Content, Entry, Geometry, OFFSET_MASK};
use super::map::{Slot, read, write as write_lock};
use super::refcount::{Free, Run};
use super::table::Table;
use super::{Qcow2, extent};
use crate::access::{self, MAX_PARTS, Part};
use crate::error::{Error, Result};
use crate::exec::join_all;
use crate::node::Node;
use crate::storage::{self, Buffer, Gather};
use crate::sync::lock;

/// The file grows ahead of what is used by a part of its size, within these bounds: growing with
/// every cluster costs more than the writes.
const GROW_MIN: u64 = 256 << 10;
const GROW_MAX: u64 = 64 << 20;

/// What a write finds.
enum Plan {
    /// `n` bytes go to this host offset, nothing else changes.
    InPlace { host: u64, n: u64 },
    /// The cluster is owned, but its entry must change (zero flag, subclusters).
    Reuse { cluster: u64, n: u64 },
    /// `n` bytes in clusters that need a new place.
    New { n: u64 },
}

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

/// What is written around the guest's bytes to make whole granules.
enum Fill {
    /// Nothing: the place is known to read as it should.
    None,
    Zeroes(u64),
    Bytes(storage::IoBuf),
}

impl Fill {
    fn add_to(self, gather: &mut Gather) {
        match self {
            Fill::None => {}
            Fill::Zeroes(n) => gather.push_zeroes(n),
            Fill::Bytes(bytes) => gather.push_owned(bytes),
        }
    }
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
        let bits = self.geometry.cluster_bits;
        let len = storage::total(bufs);
        let _claim = self
            .claims
            .take(offset >> bits, ((offset + len - 1) >> bits) + 1, true)
            .await;
        let slot = self.own_table(self.geometry.indices(offset).0).await?;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            // Somebody else may have changed the mapping before the claim was ours.
            let plan = plan(&read(&slot.table).table, &self.geometry, at, len - done)?;
            done += match plan {
                Plan::InPlace { host, n } => {
                    self.check_overlap(host, n)?;
                    self.data_storage()
                        .write(host, &storage::slice(bufs, done, n))
                        .await?;
                    n
                }
                Plan::Reuse { cluster, n } => {
                    self.check_overlap(cluster, 1)?;
                    let pieces = storage::slice(bufs, done, n);
                    self.write_reused(chain, &slot, at, &pieces, cluster)
                        .await?;
                    n
                }
                Plan::New { n } => {
                    self.write_allocated(chain, &slot, at, &storage::slice(bufs, done, n))
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

    /// Makes the file reach `end`, and a good deal further while at it.
    pub(super) fn grow_file(&self, end: u64) {
        let mut len = lock(&self.file_len);
        if end > *len {
            let target = end.saturating_add((end / 4).clamp(GROW_MIN, GROW_MAX));
            // Without the head start each write extends the file: slower, and as good.
            if self.storage.set_len(target).is_ok() {
                *len = target;
            }
        }
    }

    /// Writes the first clusters of the range to a new place. How many bytes.
    async fn write_allocated(
        &self,
        chain: &[Node],
        slot: &Arc<Slot>,
        offset: u64,
        bufs: &[Buffer],
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
        let head = self.fill(chain, from, offset, run.zero).await?;
        let tail = self.fill(chain, end, to, run.zero).await?;
        let base = run.start << bits;
        let start = if matches!(head, Fill::None) {
            offset
        } else {
            from
        };
        let mut gather = Gather::default();
        head.add_to(&mut gather);
        gather.push(&storage::slice(bufs, 0, end - offset));
        tail.add_to(&mut gather);
        let host = base + (start - (first << bits));
        self.data_storage().write_gather(host, gather).await?;
        allocation.kept = true;
        self.publish(slot, index, base, count, (from, to));
        Ok(end - offset)
    }

    /// What must be written to `from..to` of a new place so that it reads as before.
    async fn fill(&self, chain: &[Node], from: u64, to: u64, zero: bool) -> Result<Fill> {
        if from >= to {
            return Ok(Fill::None);
        }
        // The last cluster may reach over the end of the disk.
        let size = self.size();
        let inside = to.min(size).saturating_sub(from);
        if inside == 0 || access::reads_zero(chain, from, inside).await? {
            return Ok(if zero {
                Fill::None
            } else {
                Fill::Zeroes(to - from)
            });
        }
        let bytes = storage::fill_owned(to - from, async |bufs| {
            access::read(chain, from, &storage::slice(bufs, 0, inside)).await
        });
        Ok(Fill::Bytes(bytes.await?))
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
        let head = self.fill(chain, from, offset, false).await?;
        let tail = self.fill(chain, end, to, false).await?;
        let mut gather = Gather::default();
        head.add_to(&mut gather);
        gather.push(bufs);
        tail.add_to(&mut gather);
        self.data_storage()
            .write_gather(cluster + within - (offset - from), gather)
            .await?;
        let guest = offset - within;
        let word = cluster | COPIED;
        let bitmap = if g.extended {
            subclusters(g, entry, guest, (from, to))
        } else {
            0
        };
        let mut state = write_lock(&slot.table);
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

impl Entry {
    /// True if any of the cluster's content is in the cluster itself.
    fn content_anywhere(self, g: &Geometry) -> bool {
        self.is_compressed()
            || (self.host(g).is_some() && (!g.extended || self.bitmap & 0xffff_ffff != 0))
    }
}

/// The bitmap of a cluster after `written` (a guest range) has been put into it.
fn subclusters(g: &Geometry, old: Entry, guest: u64, written: (u64, u64)) -> u64 {
    let mut bitmap = if old.is_compressed() { 0 } else { old.bitmap };
    let from = written.0.max(guest) - guest;
    let to = written.1.min(guest + g.cluster()).saturating_sub(guest);
    for n in from / g.granule()..to.div_ceil(g.granule()) {
        bitmap |= 1 << n;
        bitmap &= !(1 << (n + 32));
    }
    bitmap
}

/// What a write at `offset` finds, for at most `len` bytes.
fn plan(table: &Table, g: &Geometry, offset: u64, len: u64) -> Result<Plan> {
    let (_, index) = g.indices(offset);
    let (cluster, granule) = (g.cluster(), g.granule());
    let entry = table.get(index);
    let rest = (cluster - offset % cluster).min(len);
    if !entry.is_owned(g) {
        // Every entry is checked, also those that will be replaced.
        entry.content(g, (offset % cluster) / granule)?;
        let mut n = rest;
        let mut next = index + 1;
        while n < len && next < g.l2_entries() && !table.get(next).is_owned(g) {
            n += cluster;
            next += 1;
        }
        return Ok(Plan::New { n: n.min(len) });
    }
    let (content, _, n) = extent(table, g, offset, len)?;
    match content {
        Content::Data(host) => {
            let n = owned_len(table, g, offset, n);
            Ok(Plan::InPlace { host, n })
        }
        Content::Zero | Content::Unallocated => {
            let host = entry.host(g).unwrap_or(0);
            Ok(Plan::Reuse {
                cluster: host,
                n: rest,
            })
        }
        Content::Compressed => Err(Error::corrupt("a compressed cluster with an owner")),
    }
}

/// How many of `n` bytes from `offset` on are in owned clusters; the first one is.
fn owned_len(table: &Table, g: &Geometry, offset: u64, n: u64) -> u64 {
    let cluster = g.cluster();
    let (_, index) = g.indices(offset);
    let mut owned = cluster - offset % cluster;
    let mut next = index + 1;
    while owned < n && next < g.l2_entries() && table.get(next).is_owned(g) {
        let (run, step) = table.run_len(next, cluster);
        let entries = if step == cluster { run } else { 1 };
        owned += cluster * entries;
        next += entries;
    }
    owned.min(n)
}
