//! Changing the size of the virtual disk. The caller keeps all requests out.
use std::sync::atomic::Ordering;

use super::Qcow2;
use super::header::autoclear;
use super::map::{Map, read};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::ops::create::Preallocation;

const MAX_L1_BYTES: u64 = 32 << 20;

impl Qcow2 {
    /// Makes the disk `size` bytes long. `chain` begins with this image. `how` says what space
    /// that it gains has at once.
    ///
    /// # Errors
    /// A size that the format cannot have; a failed write.
    pub(crate) async fn resize(&self, chain: &[Node], size: u64, how: Preallocation) -> Result<()> {
        let old = self.size();
        let (version, snapshots) = {
            let h = read(&self.header);
            (h.version, h.snapshots)
        };
        if version < 3 && snapshots > 0 && size != old {
            return Err(Error::unsupported(
                "resize with snapshots in version 2",
                "version 2 does not record the size of the disk in its snapshots: delete them first",
            ));
        }
        self.check_sound()?;
        self.settle().await?;
        if size < old {
            self.shrink(chain, old, size).await?;
            return self.resize_data_file(size);
        }
        self.resize_data_file(size)?;
        self.grow(chain, old, size).await?;
        // A data file that is a raw disk by itself has every cluster in its place.
        let raw =
            self.data.is_some() && read(&self.header).autoclear & autoclear::DATA_FILE_RAW != 0;
        if how != Preallocation::Off || raw {
            let from = old.next_multiple_of(self.geometry.cluster());
            self.preallocate(from, size, how).await?;
        }
        self.settle().await
    }

    /// The data file is as long as the disk.
    fn resize_data_file(&self, size: u64) -> Result<()> {
        match &self.data {
            Some(data) => data.set_len(size),
            None => Ok(()),
        }
    }

    async fn shrink(&self, chain: &[Node], old: u64, size: u64) -> Result<()> {
        self.expect_change(size).await?;
        // Zeroes what stays allocated behind the new end, so that growing again shows none of it.
        let cluster = self.geometry.cluster();
        let first = size.next_multiple_of(cluster).min(old);
        self.zero(chain, size, first - size, true).await?;
        self.zero(chain, first, old - first, true).await?;
        self.set_size(size, None).await?;
        self.settle().await
    }

    async fn grow(&self, chain: &[Node], old: u64, size: u64) -> Result<()> {
        let g = &self.geometry;
        let per_l2 = g.l2_entries() * g.cluster();
        let needed = size.div_ceil(per_l2);
        if needed * 8 > MAX_L1_BYTES {
            return Err(Error::invalid(format!(
                "a disk of {size} bytes needs larger clusters than {} bytes",
                g.cluster()
            )));
        }
        let (offset, entries) = {
            let l1 = read(&self.map.l1);
            (l1.offset, l1.entries.clone())
        };
        let place = if needed as usize > entries.len() {
            let mut larger = entries.clone();
            larger.resize(needed as usize, 0);
            let run = self.allocate_table(needed * 8).await?;
            let at = run.start << g.cluster_bits;
            let bytes: Vec<u8> = larger.iter().flat_map(|e| e.to_be_bytes()).collect();
            self.storage
                .write_owned(at, bytes.as_slice().into())
                .await?;
            // The counts of the new table must be there before the header points at it.
            self.flush().await?;
            Some((at, larger))
        } else {
            None
        };
        let moved = place.is_some();
        self.set_size(size, place).await?;
        if moved {
            let holes = self
                .drop_run(self.run_of(offset, entries.len() as u64 * 8))
                .await?;
            drop(holes);
            self.collect_metadata();
        }
        // The rest of the last cluster, and what a longer backing file would show.
        let beneath = chain.get(1).map_or(0, Node::size);
        let edge = old.next_multiple_of(g.cluster()).min(size);
        let until = edge.max(beneath.min(size));
        if until > old {
            self.zero(chain, old, until - old, true).await?;
        }
        self.settle().await
    }

    async fn set_size(&self, size: u64, l1: Option<(u64, Vec<u64>)>) -> Result<()> {
        self.expect_change(size).await?;
        self.point_header(|h| {
            h.size = size;
            if let Some((offset, entries)) = &l1 {
                h.l1_offset = *offset;
                h.l1_size = entries.len() as u32;
            }
        })
        .await?;
        self.size.store(size, Ordering::Release);
        self.resize_bitmaps(size)?;
        if l1.is_some() {
            let (offset, entries) = {
                let h = read(&self.header);
                (h.l1_offset, u64::from(h.l1_size))
            };
            let entries = Map::read_l1(&self.storage, offset, entries).await?;
            self.map.reset(entries, offset);
        }
        Ok(())
    }
}
