//! Comparing what is counted with what is referred to, and making it right.
use super::{Repair, Scan, check};
use crate::error::{Error, Result};
use crate::format::qcow2::entry::{COPIED, Content, Entry, OFFSET_MASK};
use crate::format::qcow2::map::{Map, read, read_table};
use crate::format::qcow2::refblock::{self, RefBlock};
use crate::storage::IoBuf;

impl Scan<'_> {
    /// The stored counts of block `n`, if it is where a block can be.
    async fn block(&self, n: u64) -> Result<Option<IoBuf>> {
        let offset = self.reftable.get(n as usize).copied().unwrap_or(0) & OFFSET_MASK;
        let cluster = self.image.geometry.cluster();
        if offset == 0 || !offset.is_multiple_of(cluster) || offset >= self.file_len {
            return Ok(None);
        }
        self.image
            .storage
            .read_owned(offset, cluster)
            .await
            .map(Some)
    }

    /// Compares stored counts with references. True if the refcount structure must be built anew.
    pub(super) async fn compare(&mut self, repair: Repair) -> Result<bool> {
        let g = self.image.geometry;
        let per_block = g.refcounts_per_block();
        let mut broken = false;
        for n in 0..self.refs.clusters.div_ceil(per_block) {
            let stored = self.block(n).await?;
            let first = n * per_block;
            let count = per_block.min(self.refs.clusters - first);
            let bytes = stored.as_ref().map_or(&[][..], |b| b);
            let mut repaired: Option<RefBlock> = None;
            for i in 0..count {
                let (have, want) = (
                    refblock::get(bytes, g.refcount_order, i),
                    self.refs.get(first + i),
                );
                if have > 0 || want > 0 {
                    let kept = if repair == Repair::All {
                        want
                    } else {
                        have.max(want)
                    };
                    let end = (first + i + u64::from(kept > 0)) << g.cluster_bits;
                    self.found.end_offset = self.found.end_offset.max(end);
                }
                if have == want {
                    continue;
                }
                let leak = have > want;
                let fits = want <= RefBlock::max(g.refcount_order);
                let fix = repair == Repair::All || (leak && repair == Repair::Leaks);
                self.note(
                    first + i,
                    have,
                    want,
                    fix && fits && (stored.is_some() || !leak),
                );
                if !fix || !fits {
                    continue;
                }
                if stored.is_none() {
                    broken = true;
                    continue;
                }
                repaired
                    .get_or_insert_with(|| RefBlock::new(bytes.to_vec(), g.refcount_order, 0))
                    .set(i, want);
            }
            if let Some(block) = repaired {
                let offset = self.reftable.get(n as usize).copied().unwrap_or(0) & OFFSET_MASK;
                let bytes = block.into_bytes();
                self.image
                    .storage
                    .write_owned(offset, bytes.as_slice().into())
                    .await?;
            }
        }
        // A block outside of the file, or one that is used twice, cannot be repaired in place.
        let blocks = self
            .reftable
            .iter()
            .map(|e| e & OFFSET_MASK)
            .filter(|&o| o != 0);
        let unsound = blocks
            .clone()
            .any(|o| !o.is_multiple_of(g.cluster()) || self.refs.get(o >> g.cluster_bits) != 1);
        Ok(broken || unsound)
    }

    fn note(&mut self, cluster: u64, have: u64, want: u64, fixed: bool) {
        let found = &mut self.found;
        let (total, repaired, name) = if have > want {
            (&mut found.leaks, &mut found.leaks_fixed, "Leaked")
        } else {
            (
                &mut found.corruptions,
                &mut found.corruptions_fixed,
                "ERROR",
            )
        };
        if fixed {
            *repaired += 1;
        } else {
            *total += 1;
        }
        let word = if fixed { "Repairing" } else { name };
        found.say(|| format!("{word} cluster {cluster} refcount={have} reference={want}"));
    }

    /// The count that a cluster has on disk after what was repaired so far.
    async fn stored(&self, cache: &mut (u64, Option<IoBuf>), cluster: u64) -> Result<u64> {
        let g = self.image.geometry;
        let n = cluster / g.refcounts_per_block();
        if cache.0 != n {
            *cache = (n, self.block(n).await?);
        }
        let bytes = cache.1.as_ref().map_or(&[][..], |b| b);
        Ok(refblock::get(
            bytes,
            g.refcount_order,
            cluster % g.refcounts_per_block(),
        ))
    }

    /// Compares the COPIED flags of the active tables with the counts.
    pub(super) async fn check_flags(&mut self, repair: Repair) -> Result<()> {
        let g = self.image.geometry;
        let (offset, size) = {
            let h = read(&self.image.header);
            (h.l1_offset, u64::from(h.l1_size))
        };
        let mut l1 = Map::read_l1(&self.image.storage, offset, size).await?;
        let mut cache = (u64::MAX, None);
        let mut l1_changed = false;
        for i in 0..l1.len() {
            let Some(entry) = l1.get_mut(i) else { break };
            let l2 = *entry & OFFSET_MASK;
            if l2 == 0 || !l2.is_multiple_of(g.cluster()) || l2 >= self.file_len {
                continue;
            }
            let owned = self.stored(&mut cache, l2 >> g.cluster_bits).await? == 1;
            if owned != (*entry & COPIED != 0) {
                self.flag(repair, "L2 table", l2);
                *entry ^= COPIED;
                l1_changed = true;
            }
            self.check_table_flags(l2, &mut cache, repair).await?;
        }
        if l1_changed && repair == Repair::All {
            let bytes: Vec<u8> = l1.iter().flat_map(|e| e.to_be_bytes()).collect();
            self.image
                .storage
                .write_owned(offset, bytes.as_slice().into())
                .await?;
        }
        Ok(())
    }

    async fn check_table_flags(
        &mut self,
        l2: u64,
        cache: &mut (u64, Option<IoBuf>),
        repair: Repair,
    ) -> Result<()> {
        let g = self.image.geometry;
        if g.data_file {
            return Ok(());
        }
        let mut table = read_table(&self.image.storage, &g, l2).await?;
        let mut changed = false;
        for index in 0..g.l2_entries() {
            let entry = table.get(index);
            let Some(host) = entry.host(&g) else { continue };
            if !host.is_multiple_of(g.cluster())
                || matches!(entry.content(&g, 0), Ok(Content::Compressed))
            {
                continue;
            }
            let owned = self.stored(cache, host >> g.cluster_bits).await? == 1;
            if owned != (entry.word & COPIED != 0) {
                self.flag(repair, "data cluster", host);
                table.set(
                    index,
                    Entry {
                        word: entry.word ^ COPIED,
                        ..entry
                    },
                );
                changed = true;
            }
        }
        if changed && repair == Repair::All {
            let bytes = table.take_all();
            self.image
                .storage
                .write_owned(l2, bytes.as_slice().into())
                .await?;
        }
        Ok(())
    }

    fn flag(&mut self, repair: Repair, what: &str, offset: u64) {
        if repair == Repair::All {
            self.found.corruptions_fixed += 1;
            self.found
                .say(|| format!("Repairing OFLAG_COPIED {what} at {offset}"));
        } else {
            self.found
                .corrupt(|| format!("OFLAG_COPIED {what} at {offset} contradicts its refcount"));
        }
    }

    /// Writes a new refcount table and new blocks behind the end of the file, and points the
    /// header at them. Until then the file is as it was.
    pub(super) async fn rebuild_refcounts(&mut self) -> Result<()> {
        let g = self.image.geometry;
        let cluster = g.cluster();
        let (old_offset, old_len) = {
            let h = read(&self.image.header);
            (h.reftable_offset, u64::from(h.reftable_clusters) * cluster)
        };
        self.forget(old_offset, old_len);
        for offset in std::mem::take(&mut self.reftable) {
            let offset = offset & OFFSET_MASK;
            if offset != 0 && offset.is_multiple_of(cluster) {
                self.forget(offset, cluster);
            }
        }
        let per_block = g.refcounts_per_block();
        let base = self.refs.clusters;
        let (mut blocks, mut table) = (1, 1);
        loop {
            let b = (base + blocks + table).div_ceil(per_block);
            let t = (b * 8).div_ceil(cluster);
            if (b, t) == (blocks, table) {
                break;
            }
            (blocks, table) = (b, t);
        }
        if table * cluster > 8 << 20 {
            return Err(Error::corrupt(
                "the file is too large for a new refcount table",
            ));
        }
        let end = base + blocks + table;
        for n in 0..blocks {
            let mut block = RefBlock::new(vec![0; cluster as usize], g.refcount_order, 0);
            for i in 0..per_block {
                let c = n * per_block + i;
                let own = u64::from((base..end).contains(&c));
                block.set(
                    i,
                    (self.refs.get(c) + own).min(RefBlock::max(g.refcount_order)),
                );
            }
            let bytes = block.into_bytes();
            let offset = (base + n) * cluster;
            self.image
                .storage
                .write_owned(offset, bytes.as_slice().into())
                .await?;
        }
        self.reftable = (0..blocks).map(|n| (base + n) * cluster).collect();
        self.reftable.resize((table * cluster / 8) as usize, 0);
        let bytes: Vec<u8> = self.reftable.iter().flat_map(|e| e.to_be_bytes()).collect();
        let offset = (base + blocks) * cluster;
        self.image
            .storage
            .write_owned(offset, bytes.as_slice().into())
            .await?;
        self.image.storage.sync().await?;
        let mut pointer = offset.to_be_bytes().to_vec();
        pointer.extend((table as u32).to_be_bytes());
        self.image
            .storage
            .write_owned(48, pointer.as_slice().into())
            .await?;
        self.image.storage.sync().await?;
        self.file_len = end * cluster;
        self.image.adopt_reftable(offset, table as u32);
        Ok(())
    }

    /// Takes back the references to the old refcount structure.
    fn forget(&mut self, offset: u64, len: u64) {
        let bits = self.image.geometry.cluster_bits;
        for cluster in offset >> bits..=offset.saturating_add(len - 1) >> bits {
            self.refs.remove(cluster);
        }
    }

    /// After the counts were built anew, all errors of blocks are gone; the flags follow the
    /// counts.
    pub(super) async fn check_flags_again(&mut self) -> Result<()> {
        self.check_flags(Repair::All).await?;
        let (corruptions, leaks) = (self.found.corruptions, self.found.leaks);
        // What the scan found in mappings stays; what it found in counts was rebuilt.
        let again = Box::pin(check(self.image, Repair::No)).await?;
        self.found.corruptions = again.corruptions;
        self.found.leaks = again.leaks;
        self.found.corruptions_fixed += corruptions.saturating_sub(again.corruptions);
        self.found.leaks_fixed += leaks.saturating_sub(again.leaks);
        Ok(())
    }
}
