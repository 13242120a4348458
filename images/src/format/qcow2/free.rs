//! Discards and zeroes: ranges that need no data any more.
use super::Qcow2;
use super::entry::{COPIED, Content, Entry, ZERO};
use super::map::write as write_lock;
use crate::access;
use crate::error::{Error, Result};
use crate::format::Mapping;
use crate::node::Node;
use crate::storage::Gather;

/// Zeroes that are written as data go out in pieces of this size.
const PIECE: u64 = 1 << 20;

/// What shall become of clusters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Their content does not matter.
    Discard,
    /// They read as zeroes and keep their space.
    Zero,
    /// They read as zeroes and give their space back.
    ZeroAndFree,
    /// They read as what is beneath and give their space back.
    Forget,
}

impl Qcow2 {
    /// Gives the space of whole clusters in a range back. Parts of clusters stay as they are.
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn discard(&self, chain: &[Node], offset: u64, len: u64) -> Result<()> {
        self.check_sound()?;
        let (from, to) = self.whole_clusters(offset, len);
        if from >= to {
            return Ok(());
        }
        if self.data.is_some() {
            return self
                .zero_data_file(chain, from, to.min(self.size()) - from, true)
                .await;
        }
        self.change(chain.len() > 1, from, to, Change::Discard)
            .await?;
        self.commit_if_full().await
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn zero(
        &self,
        chain: &[Node],
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<()> {
        self.check_sound()?;
        if self.data.is_some() {
            return self.zero_data_file(chain, offset, len, unmap).await;
        }
        // Version 2 has no zero clusters: only "nothing here, and nothing beneath" reads as zero.
        if self.geometry.version < 3 && (!unmap || chain.len() > 1) {
            return self.write_zeroes(chain, offset, len).await;
        }
        let end = offset + len;
        let (from, to) = self.whole_clusters(offset, len);
        if from >= to {
            return self.write_zeroes(chain, offset, len).await;
        }
        self.write_zeroes(chain, offset, from - offset).await?;
        let change = if unmap {
            Change::ZeroAndFree
        } else {
            Change::Zero
        };
        self.change(chain.len() > 1, from, to, change).await?;
        self.write_zeroes(chain, to.min(end), end.saturating_sub(to))
            .await?;
        self.commit_if_full().await
    }

    /// True if zeroes are marked, not written, but for parts of clusters.
    pub(crate) fn zeroes_fast(&self) -> bool {
        self.geometry.version >= 3 && self.data.is_none()
    }

    /// Drops everything that the image has itself. The caller keeps requests out.
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn empty(&self) -> Result<()> {
        self.check_sound()?;
        if self.data.is_some() {
            return Err(Error::unsupported(
                "emptying an image with a data file",
                "an image with an external data file cannot be emptied",
            ));
        }
        let end = self.size().next_multiple_of(self.geometry.cluster());
        self.change(true, 0, end, Change::Forget).await?;
        self.settle().await
    }

    /// The whole clusters of a range; the end of the disk counts as the end of a cluster.
    fn whole_clusters(&self, offset: u64, len: u64) -> (u64, u64) {
        let cluster = self.geometry.cluster();
        let end = offset + len;
        let to = if end == self.size() {
            end.next_multiple_of(cluster)
        } else {
            end - end % cluster
        };
        (offset.next_multiple_of(cluster), to)
    }

    /// Writes zeroes as data where the range does not read as zeroes anyway.
    async fn write_zeroes(&self, chain: &[Node], offset: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PIECE);
            if !access::reads_zero(chain, offset + done, n).await? {
                let mut zeroes = Gather::default();
                zeroes.push_zeroes(n);
                self.write(chain, offset + done, zeroes.pieces()).await?;
            }
            done += n;
        }
        Ok(())
    }

    /// With a data file: what is there is zeroed there, the rest is written.
    async fn zero_data_file(
        &self,
        chain: &[Node],
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let extent = self.map(at, len - done).await?;
            let n = extent.len;
            match extent.mapping {
                Mapping::Data(storage, host) => storage.zero(host, n, unmap).await?,
                _ => self.write_zeroes(chain, at, n).await?,
            }
            done += n;
        }
        Ok(())
    }

    /// Changes the entries of whole clusters, one L2 table at a time.
    pub(super) async fn change(
        &self,
        beneath: bool,
        from: u64,
        to: u64,
        change: Change,
    ) -> Result<()> {
        let g = &self.geometry;
        let mut at = from;
        while at < to {
            let (l1_index, index) = g.indices(at);
            let table_end = at + (g.l2_entries() - index) * g.cluster();
            let end = to.min(table_end);
            self.change_in_table(beneath, l1_index, (at, end), change)
                .await?;
            at = end;
        }
        Ok(())
    }

    async fn change_in_table(
        &self,
        beneath: bool,
        l1_index: u64,
        range: (u64, u64),
        change: Change,
    ) -> Result<()> {
        let g = &self.geometry;
        let bits = g.cluster_bits;
        let _claim = self.claim_clusters(range.0, range.1).await;
        let old = self.map.get(&self.storage, g, l1_index).await?;
        // Nothing is mapped: a discard has nothing to do, and zero is what nothing reads as
        // unless something is beneath.
        let forgets = matches!(change, Change::Discard | Change::Forget);
        if old.is_none() && (forgets || !beneath) {
            return Ok(());
        }
        let slot = self.own_table(l1_index).await?;
        let (_, first) = g.indices(range.0);
        let count = (range.1 - range.0) >> bits;
        let mut frees = Vec::new();
        let mut state = write_lock(&slot.table);
        let mut changed = false;
        for index in first..first + count {
            let entry = state.table.get(index);
            let Some(new) = self.changed(entry, beneath, change)? else {
                continue;
            };
            let keeps = new.host(g).is_some();
            if !keeps {
                self.check_replaceable(entry)?;
                frees.extend(self.freed(entry, change != Change::Zero));
            }
            state.table.set(index, new);
            changed = true;
        }
        if changed {
            self.map.mark_dirty(l1_index);
        }
        drop(state);
        self.defer(&frees);
        Ok(())
    }

    /// What an entry becomes, or None if it can stay.
    fn changed(&self, entry: Entry, beneath: bool, change: Change) -> Result<Option<Entry>> {
        let g = &self.geometry;
        let all_zero = 0xffff_ffff << 32;
        let zero = if g.extended {
            Entry {
                word: 0,
                bitmap: all_zero,
            }
        } else {
            Entry {
                word: ZERO,
                bitmap: 0,
            }
        };
        let empty = Entry::default();
        if change == Change::Forget {
            return Ok((entry != empty).then_some(empty));
        }
        if change == Change::Discard {
            let unused = entry.host(g).is_none() && !entry.is_compressed();
            // Version 2 can only let what is beneath show through: better to keep the data.
            let stays = unused || (g.version < 3 && beneath);
            let new = if beneath { zero } else { empty };
            return Ok((!stays).then_some(new));
        }
        if !beneath && entry == empty {
            return Ok(None);
        }
        if change == Change::Zero && entry.is_owned(g) {
            if !g.extended && entry.content(g, 0)? == Content::Zero {
                return Ok(None);
            }
            let host = entry.host(g).unwrap_or(0) | COPIED;
            let kept = if g.extended {
                Entry {
                    word: host,
                    bitmap: all_zero,
                }
            } else {
                Entry {
                    word: host | ZERO,
                    bitmap: 0,
                }
            };
            return Ok((kept != entry).then_some(kept));
        }
        let new = if beneath || g.version >= 3 {
            zero
        } else {
            empty
        };
        Ok((new != entry).then_some(new))
    }
}
