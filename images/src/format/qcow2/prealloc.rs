//! Places for clusters before anything is written to them, and the opposite: an image without
//! zero clusters, as version 2 wants it. The caller keeps all requests out.
use super::Qcow2;
use super::free::Change;
use crate::error::Result;
use crate::format::Mapping;
use crate::node::Node;
use crate::ops::create::Preallocation;
use crate::storage::Gather;

const PIECE: u64 = 1 << 20;

impl Qcow2 {
    /// Gives the clusters of a range that have no place one that reads as zeroes.
    ///
    /// # Errors
    /// As a write.
    pub(super) async fn preallocate(&self, from: u64, to: u64, how: Preallocation) -> Result<()> {
        let g = &self.geometry;
        let cluster = g.cluster();
        let mut at = from - from % cluster;
        while at < to {
            let (l1_index, index) = g.indices(at);
            let in_table = g.l2_entries() - index;
            let slot = self.own_table(l1_index).await?;
            let wanted = {
                let state = super::read(&slot.table);
                let most = (to - at).div_ceil(cluster).min(in_table);
                let has_place = |i: u64| {
                    let entry = state.table.get(index + i);
                    entry.host(g).is_some() || entry.is_compressed()
                };
                (0..most).find(|&i| has_place(i)).unwrap_or(most)
            };
            if wanted == 0 {
                at += cluster;
                continue;
            }
            let mut allocation = self.allocate_data(at, wanted).await?;
            let run = allocation.run;
            let (host, count) = (run.start << g.cluster_bits, run.len.min(wanted));
            self.fill_place(host, count * cluster, how, run.zero)
                .await?;
            allocation.kept = true;
            self.publish(&slot, index, host, count, (at, at + count * cluster));
            at += count * cluster;
            self.commit_if_full().await?;
        }
        Ok(())
    }

    async fn fill_place(&self, host: u64, len: u64, how: Preallocation, zero: bool) -> Result<()> {
        let storage = self.data_storage();
        if how == Preallocation::Full {
            return crate::format::write_zeroes(storage, host, len).await;
        }
        if !zero {
            storage.zero(host, len, true).await?;
        }
        if how == Preallocation::Falloc {
            storage.allocate_now(host, len)?;
        }
        Ok(())
    }

    /// Makes clusters that are marked as zero into such that version 2 can describe: nothing where
    /// nothing is beneath, data otherwise.
    ///
    /// # Errors
    /// As a write.
    pub(crate) async fn expand_zeroes(&self, chain: &[Node]) -> Result<()> {
        let (cluster, size) = (self.geometry.cluster(), self.size());
        let mut at = 0;
        while at < size {
            let extent = self.map(at, size - at).await?;
            let (zero, n) = (matches!(extent.mapping, Mapping::Zero), extent.len);
            let end = at + n;
            if zero && chain.len() == 1 {
                let whole = end.next_multiple_of(cluster);
                self.change(false, at, whole, Change::Forget).await?;
            }
            while zero && chain.len() > 1 && at < end {
                let piece = PIECE.min(end - at);
                let mut zeroes = Gather::default();
                zeroes.push_zeroes(piece);
                self.write(chain, at, zeroes.pieces()).await?;
                at += piece;
            }
            at = end;
        }
        self.settle().await
    }
}
