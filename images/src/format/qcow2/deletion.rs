//! Deleting an internal snapshot in steps. The caller keeps all requests out during each of them,
//! and lets them in between.
//!
//! ```text
//! begin:  everything on disk --> dirty bit --> header without the snapshot: it has happened
//! step:   one L2 table of it: counts fall, flags of the active table at the same index follow
//! end:    its L1 table is free --> everything on disk --> dirty bit cleared
//! ```
//!
//! Between the steps some clusters are counted that nobody refers to any more, and the dirty bit
//! says so: after a crash the counts are rebuilt.
use super::Qcow2;
use super::entry::OFFSET_MASK;
use super::internal::Holes;
use super::map::Map;
use crate::error::{Error, Result};
use crate::sync::lock;

/// A snapshot that is being deleted.
pub(crate) struct Deletion {
    l1: Vec<u64>,
    l1_offset: u64,
    next: usize,
    holes: Holes,
}

impl Deletion {
    /// L1 entries that there are to do.
    pub(crate) fn tables(&self) -> u64 {
        self.l1.iter().filter(|e| *e & OFFSET_MASK != 0).count() as u64
    }
}

impl Qcow2 {
    /// Takes the snapshot at a position out of the table.
    ///
    /// # Errors
    /// As deleting it at once.
    pub(crate) async fn begin_deletion(&self, at: usize) -> Result<Deletion> {
        if self.lazy.is_held() {
            return Err(Error::invalid("another snapshot is being deleted"));
        }
        self.prepare().await?;
        let mut snapshots = self.snapshots()?;
        if at >= snapshots.len() {
            return Err(Error::invalid("there is no such snapshot"));
        }
        let gone = snapshots.remove(at);
        let l1 = Map::read_l1(&self.storage, gone.l1_offset, gone.l1_size.into()).await?;
        let (table, bytes) = self.new_snapshot_table(&snapshots).await?;
        let old = self.snapshot_table_run()?;
        let result = async {
            self.write_snapshot_table(table, &bytes).await?;
            self.flush().await?;
            self.set_dirty(true).await?;
            self.lazy.hold(true);
            self.point_header(|h| super::internal::set_snapshots(h, table, &snapshots, self))
                .await?;
            self.drop_run(old).await?;
            self.flush().await
        };
        self.after_step(result.await)?;
        self.collect_metadata();
        Ok(Deletion {
            l1,
            l1_offset: gone.l1_offset,
            next: 0,
            holes: Holes::new(),
        })
    }

    /// Lets go of one L2 table. False if there is none left.
    ///
    /// # Errors
    /// A failed read or write: the image takes no more writes until it is opened again.
    pub(crate) async fn delete_step(&self, deletion: &mut Deletion) -> Result<bool> {
        let Some(index) = (deletion.next..deletion.l1.len())
            .find(|&i| deletion.l1.get(i).is_some_and(|e| e & OFFSET_MASK != 0))
        else {
            return Ok(false);
        };
        self.check_sound()?;
        let entry = deletion.l1.get(index).copied().unwrap_or(0);
        deletion.next = index + 1;
        let result = async {
            let holes = self.adjust(&[entry], -1).await?;
            {
                // Free clusters hold no metadata, and may be taken for anything from now on.
                let mut metadata = super::write_lock(&self.metadata);
                for &(start, len) in &holes {
                    for cluster in start..start + len {
                        metadata.remove(&cluster);
                    }
                }
            }
            deletion.holes.extend(holes);
            let active = self.map.l1_entry(index as u64) & OFFSET_MASK;
            let bits = self.geometry.cluster_bits;
            if active != 0 && self.refcounts.get(&self.storage, active >> bits).await? == 1 {
                self.change_flags(index as u64, |cluster| {
                    Ok(lock(&self.refcounts.state).get(cluster))
                })
                .await?;
            }
            Ok(())
        };
        self.after_step(result.await)?;
        Ok(true)
    }

    /// Finishes: everything is on disk, and the dirty bit is gone.
    ///
    /// # Errors
    /// As a step.
    pub(crate) async fn end_deletion(&self, deletion: Deletion, punch: bool) -> Result<()> {
        let len = deletion.l1.len() as u64 * 8;
        let result = async {
            self.drop_run(self.run_of(deletion.l1_offset, len)).await?;
            self.settle().await?;
            self.lazy.hold(false);
            self.set_dirty(false).await
        };
        self.after_step(result.await)?;
        self.collect_metadata();
        if punch {
            self.punch_free(&deletion.holes).await;
        }
        self.settle().await
    }

    /// Gives the space of clusters back that are still free: others may have taken some.
    async fn punch_free(&self, holes: &Holes) {
        let bits = self.geometry.cluster_bits;
        for &(start, len) in holes {
            for cluster in start..start + len {
                let count = self.refcounts.get(&self.storage, cluster).await;
                if matches!(count, Ok(0))
                    && self
                        .storage
                        .discard(cluster << bits, 1 << bits)
                        .await
                        .is_err()
                {
                    return;
                }
            }
        }
    }

    /// After a failure nothing in memory can be trusted.
    fn after_step(&self, result: Result<()>) -> Result<()> {
        result.map_err(|e| {
            self.corrupt
                .store(true, std::sync::atomic::Ordering::Relaxed);
            e.context("the operation broke off; the image takes no writes until it is opened again")
        })
    }
}
