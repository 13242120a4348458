//! Writing compressed clusters: packed one behind the other, at byte granularity.
use super::Qcow2;
use super::entry::Entry;
use super::map::write as write_lock;
use super::refblock::RefBlock;
use super::refcount::{Free, Step};
use crate::error::{Error, Result};
use crate::sync::lock;

/// The host cluster that compressed data is being added to.
#[derive(Default)]
pub(super) struct Packing {
    /// Where the next byte goes; 0 if there is no open cluster.
    next: u64,
}

impl Qcow2 {
    /// Stores a whole cluster of the guest in compressed form. `packed` is shorter than a cluster.
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn write_compressed(&self, guest: u64, packed: &[u8]) -> Result<()> {
        self.check_sound()?;
        let g = &self.geometry;
        if self.data.is_some() || packed.is_empty() || packed.len() as u64 >= g.cluster() {
            return Err(Error::invalid("this cluster cannot be stored compressed"));
        }
        let _claim = self.claim_clusters(guest, guest + g.cluster()).await;
        let (l1_index, index) = g.indices(guest);
        let slot = self.own_table(l1_index).await?;
        let offset = self.place(packed.len() as u64).await?;
        let word = g
            .compressed_entry(offset, packed.len() as u64)
            .ok_or_else(|| {
                Error::invalid(format!("compressed data cannot be at file offset {offset}"))
            })?;
        self.storage.write_owned(offset, packed.into()).await?;
        let old = {
            let mut state = write_lock(&slot.table);
            let old = state.table.get(index);
            self.check_replaceable(old)?;
            state.table.set(index, Entry { word, bitmap: 0 });
            self.map.mark_dirty(l1_index);
            old
        };
        let frees: Vec<Free> = self.freed(old, true).into_iter().collect();
        self.defer(&frees);
        self.commit_if_full().await
    }

    /// Takes room for `len` bytes and counts the clusters that it touches.
    async fn place(&self, len: u64) -> Result<u64> {
        let g = &self.geometry;
        let _turn = self.packing_turn.take().await;
        self.before_counting().await?;
        if let Some(offset) = self
            .add_to_open(len, |used| used + len <= g.cluster())
            .await?
        {
            return Ok(offset);
        }
        let run = self.refcounts.allocate(&self.storage, 1).await?;
        let start = run.start << g.cluster_bits;
        self.grow_file(start + g.cluster());
        // The new cluster may follow the open one: then nothing of that is wasted.
        let follows = lock(&self.packing).next.next_multiple_of(g.cluster()) == start;
        let joined = if follows {
            self.add_to_open(len, |used| used > 0).await?
        } else {
            None
        };
        let offset = joined.unwrap_or(start);
        lock(&self.packing).next = offset + len;
        Ok(offset)
    }

    /// Adds a reference to the open cluster, if there is one that can take it. Where the data
    /// goes. What is freed closes the cluster under the same lock, before its count can fall.
    async fn add_to_open(&self, len: u64, fits: impl Fn(u64) -> bool) -> Result<Option<u64>> {
        let g = &self.geometry;
        let most = RefBlock::max(g.refcount_order);
        self.refcounts
            .with(&self.storage, |state| {
                let mut packing = lock(&self.packing);
                let next = packing.next;
                if next.is_multiple_of(g.cluster()) || !fits(next % g.cluster()) {
                    return Ok(Step::Done(None));
                }
                let open = next >> g.cluster_bits;
                match state.get(open) {
                    Step::Load(index) => return Ok(Step::Load(index)),
                    Step::Done(count) if count == 0 || count >= most => {
                        return Ok(Step::Done(None));
                    }
                    Step::Done(_) => {}
                }
                state.add(open, 1)?;
                packing.next = next + len;
                Ok(Step::Done(Some(next)))
            })
            .await
    }

    /// Takes no more into the open cluster: all of it is written, or some of it is freed.
    pub(super) fn close_packing(&self, frees: Option<&[Free]>) {
        let bits = self.geometry.cluster_bits;
        let mut packing = lock(&self.packing);
        let open = packing.next >> bits;
        let hit = |f: &Free| (f.cluster..f.cluster + f.len).contains(&open);
        if frees.is_none_or(|frees| frees.iter().any(hit)) {
            packing.next = 0;
        }
    }
}
