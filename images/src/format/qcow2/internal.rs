//! Internal snapshots: taking, deleting and going back to them.
//!
//! The caller keeps all requests out. Each operation has one instant at which it happens, the
//! write of the header sector; a crash before leaves the old state, a crash after it the new one.
//! Around it the counts and the COPIED flags cannot agree at every instant, so the dirty bit is
//! set meanwhile, and whoever opens the image next rebuilds them from what is referred to.
//!
//! ```text
//! everything on disk --> new tables written --> dirty bit --> ... header: it has happened ...
//!                    --> counts and flags follow --> dirty bit cleared
//! ```
//!
//! Version 2 has no dirty bit: there a crash in the middle can leave leaks and stale flags for
//! `check` to repair, and no lost data.
use std::sync::atomic::Ordering;

use super::Qcow2;
use super::entry::{COPIED, Entry, OFFSET_MASK};
use super::header::{Header, incompatible};
use super::map::{Map, read, read_table, write as write_lock};
use super::refblock::RefBlock;
use super::refcount::{Run, Step};
use super::snapshot::{Snapshot, find, read_table as read_snapshots};
use crate::error::{Error, Result};
use crate::sync::lock;

/// Freed clusters that are punched in one call.
pub(super) type Holes = Vec<(u64, u64)>;

impl Qcow2 {
    /// The snapshots of the image.
    ///
    /// # Errors
    /// A table that cannot be.
    pub(crate) fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let header = read(&self.header).clone();
        read_snapshots(&self.storage, &header).map(|(snapshots, _)| snapshots)
    }

    /// The L1 table of the disk, or of the snapshot that is read instead: offset, entries, and the
    /// size of the disk in bytes.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub(super) fn disk_wanted(&self, header: &Header) -> Result<(u64, u32, u64)> {
        let wanted = lock(&self.as_of);
        let Some(wanted) = wanted.as_deref() else {
            return Ok((header.l1_offset, header.l1_size, header.size));
        };
        let (snapshots, _) = read_snapshots(&self.storage, header)?;
        let snapshot = find(&snapshots, wanted)?;
        let size = |s: &Snapshot| s.disk_size.unwrap_or(header.size);
        snapshots.get(snapshot).map_or_else(
            || Err(Error::invalid("there is no such snapshot")),
            |s| Ok((s.l1_offset, s.l1_size, size(s))),
        )
    }

    /// Takes a snapshot of the disk as it is. `new` has the names and times; places and sizes are
    /// filled in here. Its id.
    ///
    /// # Errors
    /// Nothing has changed, unless writing failed in the middle: then the image takes no more
    /// writes until it is activated again.
    pub(crate) async fn take_snapshot(&self, mut new: Snapshot) -> Result<String> {
        self.prepare().await?;
        let mut snapshots = self.snapshots()?;
        let most = RefBlock::max(self.geometry.refcount_order);
        if snapshots.len() as u64 + 2 > most {
            return Err(Error::unsupported(
                "more snapshots",
                format!("refcounts of this image go up to {most}: no room for another snapshot"),
            ));
        }
        new.id = next_id(&snapshots).into_bytes();
        let l1 = read(&self.map.l1).entries.clone();
        let copy = self.allocate_table(l1.len() as u64 * 8).await?;
        new.l1_offset = copy.start << self.geometry.cluster_bits;
        new.l1_size = l1.len() as u32;
        new.disk_size = Some(self.size());
        let id = new.id_text();
        snapshots.push(new);
        let (table, bytes) = self.new_snapshot_table(&snapshots).await?;
        let old = self.snapshot_table_run()?;
        let result = async {
            self.set_dirty(true).await?;
            self.storage
                .write_owned(copy.start << self.geometry.cluster_bits, be(&l1))
                .await?;
            self.write_snapshot_table(table, &bytes).await?;
            self.adjust(&l1, 1).await?;
            self.clear_flags(&l1).await?;
            self.flush().await?;
            self.point_header(|h| set_snapshots(h, table, &snapshots, self))
                .await?;
            self.drop_run(old).await?;
            self.flush().await?;
            self.set_dirty(false).await
        };
        self.finish(result.await).await?;
        Ok(id)
    }

    /// Deletes the snapshot at a position of the table.
    ///
    /// # Errors
    /// As [`Qcow2::take_snapshot`].
    pub(crate) async fn delete_snapshot(&self, at: usize, punch: bool) -> Result<()> {
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
            self.point_header(|h| set_snapshots(h, table, &snapshots, self))
                .await?;
            let mut holes = self.adjust(&l1, -1).await?;
            holes.extend(
                self.drop_run(self.run_of(gone.l1_offset, l1.len() as u64 * 8))
                    .await?,
            );
            self.drop_run(old).await?;
            self.refresh_flags().await?;
            self.flush().await?;
            self.set_dirty(false).await?;
            if punch {
                self.punch_holes(&holes).await;
            }
            Ok(())
        };
        self.finish(result.await).await
    }

    /// Makes the disk what it was when the snapshot at a position of the table was taken. The
    /// snapshot stays.
    ///
    /// # Errors
    /// As [`Qcow2::take_snapshot`].
    pub(crate) async fn apply_snapshot(&self, at: usize, punch: bool) -> Result<()> {
        self.prepare().await?;
        let snapshots = self.snapshots()?;
        let Some(snapshot) = snapshots.get(at) else {
            return Err(Error::invalid("there is no such snapshot"));
        };
        let size = snapshot.disk_size.unwrap_or(self.size());
        let needed = size.div_ceil(read(&self.header).bytes_per_l2());
        if needed > 4 << 20 || i64::try_from(size).is_err() {
            return Err(Error::corrupt(format!(
                "a snapshot of {size} bytes cannot be"
            )));
        }
        let entries = u64::from(snapshot.l1_size);
        let mut l1 = Map::read_l1(&self.storage, snapshot.l1_offset, entries).await?;
        l1.iter_mut().for_each(|e| *e &= !COPIED);
        l1.resize(l1.len().max(needed as usize), 0);
        self.expect_change(size).await?;
        let old_l1 = read(&self.map.l1).entries.clone();
        let old_run = self.run_of(read(&self.map.l1).offset, old_l1.len() as u64 * 8);
        let new_run = self.allocate_table(l1.len() as u64 * 8).await?;
        let offset = new_run.start << self.geometry.cluster_bits;
        let result = async {
            self.set_dirty(true).await?;
            self.storage.write_owned(offset, be(&l1)).await?;
            self.adjust(&l1, 1).await?;
            self.flush().await?;
            self.point_header(|h| {
                h.size = size;
                h.l1_offset = offset;
                h.l1_size = l1.len() as u32;
            })
            .await?;
            self.size.store(size, Ordering::Release);
            self.resize_bitmaps(size)?;
            self.record_everything();
            self.map.reset(l1.clone(), offset);
            self.unpacked.clear();
            let mut holes = self.adjust(&old_l1, -1).await?;
            holes.extend(self.drop_run(old_run).await?);
            self.refresh_flags().await?;
            self.flush().await?;
            self.set_dirty(false).await?;
            if punch {
                self.punch_holes(&holes).await;
            }
            Ok(())
        };
        self.finish(result.await).await
    }

    /// Brings memory and disk together.
    pub(super) async fn prepare(&self) -> Result<()> {
        self.check_sound()?;
        if self.geometry.data_file {
            return Err(Error::unsupported(
                "internal snapshots with a data file",
                "an image with an external data file cannot have internal snapshots",
            ));
        }
        self.settle().await
    }

    /// After success, the metadata in memory is complete again; after a failure nothing in memory
    /// can be trusted.
    async fn finish(&self, result: Result<()>) -> Result<()> {
        if let Err(e) = result {
            self.corrupt.store(true, Ordering::Relaxed);
            return Err(e.context(
                "the operation broke off; the image takes no writes until it is opened again",
            ));
        }
        self.collect_metadata();
        self.settle().await
    }

    /// Sets or clears the dirty bit, durably; it stays while somebody else needs it. Version 2
    /// has none.
    pub(super) async fn set_dirty(&self, dirty: bool) -> Result<()> {
        if !dirty && self.lazy.is_held() {
            return Ok(());
        }
        let features = {
            let mut h = write_lock(&self.header);
            if dirty {
                h.incompatible |= incompatible::DIRTY;
            } else {
                h.incompatible &= !incompatible::DIRTY;
            }
            if h.version < 3 {
                h.incompatible = 0;
            }
            [h.incompatible, h.compatible, h.autoclear]
        };
        self.write_features(features).await
    }

    /// Changes the header and writes the fields from the size to the snapshot table, which are in
    /// one sector: old or new after a crash.
    pub(super) async fn point_header(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let bytes = {
            let mut h = write_lock(&self.header);
            change(&mut h);
            let mut bytes = h.size.to_be_bytes().to_vec();
            bytes.extend(0u32.to_be_bytes());
            bytes.extend(h.l1_size.to_be_bytes());
            bytes.extend(h.l1_offset.to_be_bytes());
            bytes.extend(h.reftable_offset.to_be_bytes());
            bytes.extend(h.reftable_clusters.to_be_bytes());
            bytes.extend(h.snapshots.to_be_bytes());
            bytes.extend(h.snapshots_offset.to_be_bytes());
            bytes
        };
        self.storage
            .write_owned(24, bytes.as_slice().into())
            .await?;
        self.storage.sync().await
    }

    /// Clusters for a table of `len` bytes.
    pub(super) async fn allocate_table(&self, len: u64) -> Result<Run> {
        let clusters = len.div_ceil(self.geometry.cluster());
        if clusters == 0 {
            return Ok(Run {
                start: 0,
                len: 0,
                zero: false,
            });
        }
        self.refcounts
            .allocate_together(&self.storage, clusters)
            .await
    }

    pub(super) async fn new_snapshot_table(
        &self,
        snapshots: &[Snapshot],
    ) -> Result<(Run, Vec<u8>)> {
        if snapshots.len() > 65536 {
            return Err(Error::invalid("an image has at most 65536 snapshots"));
        }
        let bytes: Vec<u8> = snapshots.iter().flat_map(Snapshot::to_bytes).collect();
        Ok((self.allocate_table(bytes.len() as u64).await?, bytes))
    }

    pub(super) async fn write_snapshot_table(&self, run: Run, bytes: &[u8]) -> Result<()> {
        if run.len == 0 {
            return Ok(());
        }
        self.storage
            .write_owned(run.start << self.geometry.cluster_bits, bytes.into())
            .await
    }

    /// The clusters of the snapshot table on disk.
    pub(super) fn snapshot_table_run(&self) -> Result<Run> {
        let header = read(&self.header).clone();
        let (_, end) = read_snapshots(&self.storage, &header)?;
        let start = header.snapshots_offset;
        Ok(self.run_of(
            start,
            if header.snapshots == 0 {
                0
            } else {
                end - start
            },
        ))
    }

    pub(super) fn run_of(&self, offset: u64, len: u64) -> Run {
        let g = &self.geometry;
        Run {
            start: offset >> g.cluster_bits,
            len: len.div_ceil(g.cluster()),
            zero: false,
        }
    }

    /// Gives up one reference to each cluster of a run. Those that are free now.
    pub(super) async fn drop_run(&self, run: Run) -> Result<Holes> {
        let mut holes = Holes::new();
        for cluster in run.start..run.start + run.len {
            self.add(cluster, -1, &mut holes).await?;
        }
        Ok(holes)
    }

    async fn add(&self, cluster: u64, delta: i64, holes: &mut Holes) -> Result<()> {
        let count = self.refcounts.add(&self.storage, cluster, delta).await?;
        if count == 0 {
            match holes.last_mut() {
                Some((start, len)) if *start + *len == cluster => *len += 1,
                _ => holes.push((cluster, 1)),
            }
        }
        Ok(())
    }

    /// Changes the counts of everything that an L1 table refers to. Clusters that are free now.
    pub(super) async fn adjust(&self, l1: &[u64], delta: i64) -> Result<Holes> {
        let g = &self.geometry;
        let mut holes = Holes::new();
        for entry in l1 {
            let l2 = entry & OFFSET_MASK;
            if l2 == 0 {
                continue;
            }
            let table = read_table(&self.storage, g, l2).await?;
            for index in 0..g.l2_entries() {
                let Some(free) = self.freed(table.get(index), false) else {
                    continue;
                };
                for cluster in free.cluster..free.cluster + free.len {
                    self.add(cluster, delta, &mut holes).await?;
                }
            }
            self.add(l2 >> g.cluster_bits, delta, &mut holes).await?;
            self.commit_if_full().await?;
        }
        Ok(holes)
    }

    /// Clears the COPIED flags of the active tables: everything is shared with a snapshot now.
    async fn clear_flags(&self, l1: &[u64]) -> Result<()> {
        for (l1_index, entry) in l1.iter().enumerate() {
            if entry & COPIED != 0 {
                self.change_flags(l1_index as u64, |_| Ok(Step::Done(0)))
                    .await?;
            }
        }
        Ok(())
    }

    /// Makes the COPIED flags of the active tables what the counts say.
    async fn refresh_flags(&self) -> Result<()> {
        let l1 = read(&self.map.l1).entries.clone();
        let bits = self.geometry.cluster_bits;
        for (l1_index, entry) in l1.iter().enumerate() {
            let l2 = entry & OFFSET_MASK;
            if l2 == 0 {
                continue;
            }
            // What a shared table refers to is shared as well, and its flags are clear.
            if self.refcounts.get(&self.storage, l2 >> bits).await? == 1 {
                self.change_flags(l1_index as u64, |cluster| {
                    Ok(lock(&self.refcounts.state).get(cluster))
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Sets the flags of an L2 table and of its L1 entry: COPIED where the count is one.
    pub(super) async fn change_flags(
        &self,
        l1_index: u64,
        count: impl Fn(u64) -> Result<Step<u64>>,
    ) -> Result<()> {
        let g = &self.geometry;
        let Some(slot) = self.map.get(&self.storage, g, l1_index).await? else {
            return Ok(());
        };
        let mut index = 0;
        while index < g.l2_entries() {
            let load = {
                let mut state = write_lock(&slot.table);
                let mut load = None;
                while index < g.l2_entries() {
                    let entry = state.table.get(index);
                    if let Some(host) = entry.host(g) {
                        let copied = match count(host >> g.cluster_bits)? {
                            Step::Done(count) => count == 1,
                            Step::Load(_) => {
                                load = Some(host >> g.cluster_bits);
                                break;
                            }
                        };
                        let word = if copied {
                            entry.word | COPIED
                        } else {
                            entry.word & !COPIED
                        };
                        if word != entry.word {
                            state.table.set(index, Entry { word, ..entry });
                            self.map.mark_dirty(l1_index);
                        }
                    }
                    index += 1;
                }
                load
            };
            if let Some(cluster) = load {
                self.refcounts.get(&self.storage, cluster).await?;
            }
        }
        let l2 = self.map.l1_entry(l1_index) & OFFSET_MASK;
        let copied = loop {
            match count(l2 >> g.cluster_bits)? {
                Step::Done(count) => break count == 1,
                Step::Load(_) => {
                    self.refcounts
                        .get(&self.storage, l2 >> g.cluster_bits)
                        .await?;
                }
            }
        };
        if let Some(entry) = write_lock(&self.map.l1).entries.get_mut(l1_index as usize) {
            *entry = if copied { l2 | COPIED } else { l2 };
        }
        self.commit.mark_l1(l1_index);
        self.commit_if_full().await
    }

    /// Gives the space of free clusters back. Nobody takes them meanwhile: the image is frozen.
    async fn punch_holes(&self, holes: &Holes) {
        let bits = self.geometry.cluster_bits;
        for (start, len) in holes {
            if let Err(error) = self.storage.discard(start << bits, len << bits).await {
                tracing::debug!(%error, "no hole was made for freed clusters");
                return;
            }
        }
    }
}

pub(super) fn set_snapshots(h: &mut Header, run: Run, snapshots: &[Snapshot], image: &Qcow2) {
    h.snapshots = snapshots.len() as u32;
    h.snapshots_offset = run.start << image.geometry.cluster_bits;
}

fn be(words: &[u64]) -> crate::storage::IoBuf {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
    bytes.as_slice().into()
}

/// One more than the largest numeric id.
fn next_id(snapshots: &[Snapshot]) -> String {
    let ids = snapshots
        .iter()
        .filter_map(|s| s.id_text().parse::<u64>().ok());
    ids.max().unwrap_or(0).saturating_add(1).to_string()
}
