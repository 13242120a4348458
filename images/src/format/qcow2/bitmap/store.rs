//! Bitmaps on disk: reading them, marking them as in use, storing them anew.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bits::Bits;
use super::directory::{self, Entry, Place, flag};
use super::{Described, Fault, Live, OnDisk, Record, describe, inconsistent, not_found};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::entry::OFFSET_MASK;
use crate::format::qcow2::header::{Extension, Header, autoclear, be64, extension};
use crate::format::qcow2::map::{read, write as write_lock};
use crate::storage::Storage;
use crate::sync::lock;

/// Memory for the bits of all bitmaps, about; further ones are not used.
const MAX_MEMORY: u64 = 256 << 20;
/// A table entry without a place: all bits are set.
const ALL_ONES: u64 = 1;

/// Where the directory is, if the image has one that counts.
fn place(header: &Header, file_len: u64) -> Result<Option<Place>> {
    let Some(ext) = header.extension(extension::BITMAPS) else {
        return Ok(None);
    };
    if header.version < 3 || header.autoclear & autoclear::BITMAPS == 0 {
        return Err(Error::corrupt(
            "a program without support for bitmaps has written to the image: they are not valid",
        ));
    }
    Place::parse(ext, header.cluster_size(), file_len).map(Some)
}

/// The directory as it is on disk; empty if there is none or it does not count.
///
/// # Errors
/// A directory that cannot be.
pub(crate) fn directory_on_disk(storage: &Storage, header: &Header) -> Result<Vec<Entry>> {
    if header.autoclear & autoclear::BITMAPS == 0 {
        return Ok(Vec::new());
    }
    let Some(place) = place(header, storage.len()?)? else {
        return Ok(Vec::new());
    };
    let bytes = storage.read_sync(place.offset, place.size as usize)?;
    directory::parse(&bytes, place.count)
}

/// The bitmaps as they are on disk.
///
/// # Errors
/// As [`directory_on_disk`].
pub(crate) fn described_on_disk(storage: &Storage, header: &Header) -> Result<Vec<Described>> {
    let entries = directory_on_disk(storage, header)?;
    Ok(entries.iter().map(|e| describe(e, None)).collect())
}

/// True if the image names bitmaps that are not valid any more.
pub(crate) fn are_stale(header: &Header) -> bool {
    header.extension(extension::BITMAPS).is_some() && header.autoclear & autoclear::BITMAPS == 0
}

fn is_trouble_of_host(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Io(_) | ErrorKind::NoExecutor)
}

impl Qcow2 {
    /// Reads the bitmaps of an image that is to be written.
    ///
    /// # Errors
    /// A failed read; a failed write, if they are dropped.
    pub(in super::super) async fn load_bitmaps(&self) -> Result<()> {
        self.bitmaps.clear();
        let header = read(&self.header).clone();
        let place = match place(&header, self.storage.len()?) {
            Ok(None) => return Ok(()),
            Ok(Some(place)) => place,
            Err(error) => return self.drop_bitmaps(&error).await,
        };
        let entries = match directory_on_disk(&self.storage, &header) {
            Ok(entries) => entries,
            Err(error) if is_trouble_of_host(&error) => return Err(error),
            Err(error) => return self.drop_bitmaps(&error).await,
        };
        let mut clusters = vec![self.clusters_of(place.offset, place.size)];
        let mut records = Vec::new();
        let mut budget = MAX_MEMORY;
        for entry in &entries {
            if budget == 0 {
                let entry = entry.clone();
                records.push(Record { entry, live: None });
                continue;
            }
            budget = budget.saturating_sub(self.size() >> entry.granularity_bits.min(63) >> 3);
            let live = match self.read_bits(entry, &mut clusters).await {
                Ok(bits) if entry.is_usable() => Some(Arc::new(Live {
                    bits,
                    enabled: AtomicBool::new(entry.flags & flag::AUTO != 0),
                    changed: AtomicBool::new(false),
                })),
                Err(error) if is_trouble_of_host(&error) => return Err(error),
                Err(error) => {
                    let bitmap = entry.name_text();
                    tracing::warn!(%error, bitmap, "a bitmap cannot be used");
                    None
                }
                Ok(_) => None,
            };
            let entry = entry.clone();
            records.push(Record { entry, live });
        }
        *write_lock(&self.bitmaps.records) = records;
        *lock(&self.bitmaps.on_disk) = OnDisk {
            place: Some(place),
            entries,
            clusters,
        };
        self.bitmaps.refresh();
        Ok(())
    }

    fn clusters_of(&self, offset: u64, len: u64) -> (u64, u64) {
        let run = self.run_of(offset, len);
        (run.start, run.len)
    }

    /// The image has no bitmaps any more. What they were in is lost space until it is repaired.
    async fn drop_bitmaps(&self, why: &Error) -> Result<()> {
        tracing::warn!(error = %why, "the bitmaps of the image are dropped");
        self.change_header(without_bitmaps).await
    }

    /// Takes bitmaps out of the header that are not valid any more.
    ///
    /// # Errors
    /// A failed write.
    pub(crate) async fn forget_stale_bitmaps(&self) -> Result<()> {
        if are_stale(&read(&self.header)) {
            self.change_header(without_bitmaps).await?;
        }
        Ok(())
    }

    /// Marks bitmaps on disk as in use, durably: those that record, or all.
    pub(super) async fn mark_in_use(&self, all: bool) -> Result<()> {
        let _turn = self.bitmaps.marking.take().await;
        // Somebody else may have done it while we waited.
        let Some((place, entries)) = self.bitmaps.marked(all) else {
            return Ok(());
        };
        self.bitmaps.unsaved.store(true, Ordering::Relaxed);
        let bytes = directory::to_bytes(&entries);
        // Only flags differ from what is there, so a torn write does no harm.
        self.storage
            .write_owned(place.offset, bytes.as_slice().into())
            .await?;
        self.storage.sync().await?;
        // Not before: after a failure the next one tries again.
        self.bitmaps.set_marked(entries);
        Ok(())
    }

    /// The bits of a bitmap as they are on disk, and the clusters that they are in.
    async fn read_bits(&self, entry: &Entry, clusters: &mut Vec<(u64, u64)>) -> Result<Bits> {
        let cluster = self.geometry.cluster();
        let file_len = self.storage.len()?;
        let bad = |what: String| Error::corrupt(format!("bitmap '{}': {what}", entry.name_text()));
        if !(9..=31).contains(&entry.granularity_bits) {
            return Err(bad("its granularity cannot be".to_owned()));
        }
        // Before anything is read: what there may be follows from the size of the disk.
        let bits = Bits::new(self.size(), entry.granularity_bits.into())?;
        if bits.bytes().div_ceil(cluster) != u64::from(entry.table_len) {
            let len = entry.table_len;
            return Err(bad(format!(
                "a table of {len} entries is not for this disk"
            )));
        }
        let table_bytes = u64::from(entry.table_len) * 8;
        let end = entry.table_offset.checked_add(table_bytes);
        if !entry.table_offset.is_multiple_of(cluster) || end.is_none_or(|end| end > file_len) {
            return Err(bad(format!("no table can be at {}", entry.table_offset)));
        }
        let table = self
            .storage
            .read_owned(entry.table_offset, table_bytes)
            .await?;
        clusters.push(self.clusters_of(entry.table_offset, table_bytes));
        let words: Vec<u64> = (0..entry.table_len as usize)
            .map(|i| be64(&table, i * 8))
            .collect();
        for word in &words {
            let at = word & OFFSET_MASK;
            if word & !(OFFSET_MASK | ALL_ONES) != 0
                || (at != 0 && (word & ALL_ONES != 0 || !at.is_multiple_of(cluster)))
                || at >= file_len
            {
                return Err(bad(format!("the table entry 0x{word:016x} cannot be")));
            }
            if at != 0 {
                clusters.push(self.clusters_of(at, cluster));
            }
        }
        for (n, word) in (0u64..).zip(&words) {
            let at = word & OFFSET_MASK;
            let len = cluster.min(bits.bytes() - n * cluster);
            if at != 0 {
                let bytes = self.storage.read_owned(at, len).await?;
                bits.take_bytes(n * cluster, &bytes);
            } else if word & ALL_ONES != 0 {
                bits.take_bytes(n * cluster, &vec![0xff; len as usize]);
            }
        }
        Ok(bits)
    }

    /// The bitmaps of an image that nobody writes to, and what keeps each from being used, if anything.
    ///
    /// # Errors
    /// A directory that cannot be read or cannot be: nothing is known of any bitmap.
    pub(crate) async fn judged_bitmaps(&self) -> Result<Vec<(Described, Option<Fault>)>> {
        let mut header = read(&self.header).clone();
        if header.version < 3 {
            return Ok(Vec::new());
        }
        let stale = are_stale(&header);
        // What it says is of no use, but for the names.
        header.autoclear |= autoclear::BITMAPS;
        let mut judged = Vec::new();
        for entry in directory_on_disk(&self.storage, &header)? {
            let fault = if stale {
                Some(Fault::Stale)
            } else if entry.flags & flag::IN_USE != 0 {
                Some(Fault::Inconsistent)
            } else if !entry.is_usable() {
                Some(Fault::Unknown)
            } else {
                match self.read_bits(&entry, &mut Vec::new()).await {
                    Err(error) if is_trouble_of_host(&error) => return Err(error),
                    bits => bits.err().map(|_| Fault::Damaged),
                }
            };
            judged.push((describe(&entry, None), fault));
        }
        Ok(judged)
    }

    /// The bits of a bitmap of an image that nobody writes to.
    ///
    /// # Errors
    /// No such bitmap, one that cannot be used, a failed read.
    pub(crate) async fn stored_bits(&self, name: &str) -> Result<Bits> {
        let header = read(&self.header).clone();
        let entries = directory_on_disk(&self.storage, &header)?;
        let entry = entries.iter().find(|e| e.name == name.as_bytes());
        let entry = entry.ok_or_else(|| not_found(name))?;
        if !entry.is_usable() {
            return Err(inconsistent(name));
        }
        self.read_bits(entry, &mut Vec::new()).await
    }

    /// Brings everything to the disk at the end of the use of the image, when no request is
    /// inside: data, metadata, and then the bitmaps.
    ///
    /// # Errors
    /// As a flush: nothing is lost, and it can be tried again.
    pub(crate) async fn close(&self) -> Result<()> {
        self.settle().await?;
        if !self.bitmaps.unsaved.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.store_bitmaps().await?;
        if let Err(error) = self.settle().await {
            // Only counts of what the old bitmaps were in.
            tracing::warn!(%error, "clusters of old bitmaps stay counted");
        }
        Ok(())
    }

    /// Stores the bitmaps of an image that is about to be closed. Until the header points at what
    /// is new, the disk has what it had, marked as in use.
    ///
    /// # Errors
    /// A full disk, a failed write; the bitmaps are still in memory.
    async fn store_bitmaps(&self) -> Result<()> {
        let old = std::mem::take(&mut lock(&self.bitmaps.on_disk).clusters);
        let mut clusters = Vec::new();
        let stored = self.write_bitmaps(&mut clusters).await;
        let (place, entries) = match stored {
            Ok(stored) => stored,
            Err(e) => {
                lock(&self.bitmaps.on_disk).clusters = old;
                self.give_up(&clusters).await;
                return Err(e);
            }
        };
        self.bitmaps.unsaved.store(false, Ordering::Relaxed);
        for (record, entry) in write_lock(&self.bitmaps.records).iter_mut().zip(&entries) {
            record.entry = entry.clone();
            if let Some(live) = &record.live {
                live.changed.store(false, Ordering::Relaxed);
            }
        }
        // What is still in use is in both lists.
        let kept = |run: &(u64, u64)| clusters.contains(run);
        let gone: Vec<(u64, u64)> = old.into_iter().filter(|run| !kept(run)).collect();
        *lock(&self.bitmaps.on_disk) = OnDisk {
            place,
            entries,
            clusters,
        };
        self.bitmaps.refresh();
        self.give_up(&gone).await;
        self.collect_metadata();
        Ok(())
    }

    /// Gives clusters up that nothing refers to. What fails is lost space, not lost data.
    async fn give_up(&self, runs: &[(u64, u64)]) {
        for &(start, len) in runs {
            let run = crate::format::qcow2::refcount::Run {
                start,
                len,
                zero: false,
            };
            if let Err(error) = self.drop_run(run).await {
                tracing::warn!(%error, "clusters of an old bitmap stay counted");
            }
        }
    }

    /// Writes everything that is new and points the header at it. `clusters` gets what is in use.
    async fn write_bitmaps(
        &self,
        clusters: &mut Vec<(u64, u64)>,
    ) -> Result<(Option<Place>, Vec<Entry>)> {
        let records = read(&self.bitmaps.records).clone();
        let mut entries = Vec::new();
        for record in &records {
            let mut entry = record.entry.clone();
            let Some(live) = &record.live else {
                // Nobody recorded for it: what is stored of it stays, with its mark.
                let keep = self.read_bits(&entry, clusters).await;
                keep.map(drop).or_else(|e| {
                    if is_trouble_of_host(&e) {
                        Err(e)
                    } else {
                        Ok(())
                    }
                })?;
                entries.push(entry);
                continue;
            };
            let auto = live.enabled.load(Ordering::Relaxed);
            entry.flags &= flag::EXTRA_COMPATIBLE;
            entry.flags |= if auto { flag::AUTO } else { 0 };
            if live.changed.load(Ordering::Relaxed) || entry.table_offset == 0 {
                self.write_bits(&live.bits, &mut entry, clusters).await?;
            } else {
                self.read_bits(&entry, clusters).await?;
            }
            entries.push(entry);
        }
        let place = self.write_directory(&entries, clusters).await?;
        // The counts before anything refers to what they count.
        self.flush().await?;
        self.change_header(|h| match place {
            None => without_bitmaps(h),
            Some(place) => {
                let data = place.to_bytes();
                h.autoclear |= autoclear::BITMAPS;
                match h
                    .extensions
                    .iter_mut()
                    .find(|e| e.kind == extension::BITMAPS)
                {
                    Some(ext) => ext.data = data,
                    None => {
                        let kind = extension::BITMAPS;
                        h.extensions.push(Extension { kind, data });
                    }
                }
            }
        })
        .await?;
        Ok((place, entries))
    }

    async fn take(&self, len: u64, clusters: &mut Vec<(u64, u64)>) -> Result<u64> {
        let run = self.allocate_table(len).await?;
        self.grow_file((run.start + run.len) << self.geometry.cluster_bits);
        clusters.push((run.start, run.len));
        Ok(run.start << self.geometry.cluster_bits)
    }

    async fn write_bits(
        &self,
        bits: &Bits,
        entry: &mut Entry,
        clusters: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let cluster = self.geometry.cluster();
        let count = bits.bytes().div_ceil(cluster);
        let mut table = Vec::new();
        for n in 0..count {
            let bytes = bits.to_bytes(n * cluster, cluster);
            let at = if bytes.iter().all(|&b| b == 0) {
                0
            } else {
                let at = self.take(cluster, clusters).await?;
                self.storage
                    .write_owned(at, bytes.as_slice().into())
                    .await?;
                at
            };
            table.extend(at.to_be_bytes());
        }
        entry.table_len = count as u32;
        entry.table_offset = self.take(table.len() as u64, clusters).await?;
        self.storage
            .write_owned(entry.table_offset, table.as_slice().into())
            .await
    }

    async fn write_directory(
        &self,
        entries: &[Entry],
        clusters: &mut Vec<(u64, u64)>,
    ) -> Result<Option<Place>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes = directory::to_bytes(entries);
        let (count, size) = (entries.len() as u32, bytes.len() as u64);
        let offset = self.take(size, clusters).await?;
        self.storage
            .write_owned(offset, bytes.as_slice().into())
            .await?;
        Ok(Some(Place {
            count,
            size,
            offset,
        }))
    }
}

fn without_bitmaps(h: &mut Header) {
    h.extensions.retain(|e| e.kind != extension::BITMAPS);
    h.autoclear &= !autoclear::BITMAPS;
}
