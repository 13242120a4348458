//! Collecting every reference to a cluster.
use super::Scan;
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::directory_on_disk;
use crate::format::qcow2::entry::{COPIED, Entry, OFFSET_MASK};
use crate::format::qcow2::header::{autoclear, be64, extension};
use crate::format::qcow2::map::{Map, read, read_table};
use crate::format::qcow2::snapshot;

impl Scan<'_> {
    /// Counts references to a range of the file.
    fn add(&mut self, what: &str, offset: u64, len: u64, times: u32) {
        if len == 0 {
            return;
        }
        let bits = self.image.geometry.cluster_bits;
        let last = offset.saturating_add(len - 1) >> bits;
        for cluster in offset >> bits..=last {
            if !self.refs.add(cluster, times) {
                self.found.corrupt(|| {
                    format!("{what} at offset {offset} ({len} bytes) is behind the end of the file")
                });
                return;
            }
        }
    }

    pub(super) async fn references(&mut self) -> Result<()> {
        let header = read(&self.image.header).clone();
        let cluster = header.cluster_size();
        self.add("the header", 0, cluster, 1);
        self.l1(
            "the active L1 table",
            header.l1_offset,
            header.l1_size.into(),
            true,
        )
        .await?;
        if header.snapshots > 0 {
            match snapshot::read_table(&self.image.storage, &header) {
                Ok((snapshots, end)) => {
                    let start = header.snapshots_offset;
                    self.add("the snapshot table", start, end - start, 1);
                    for s in snapshots {
                        let what = format!("the L1 table of snapshot {}", s.id_text());
                        self.l1(&what, s.l1_offset, s.l1_size.into(), false).await?;
                    }
                }
                Err(e) => self.found.corrupt(|| e.to_string()),
            }
        }
        self.bitmaps().await?;
        self.l2_tables().await?;
        let len = u64::from(header.reftable_clusters) * cluster;
        self.add("the refcount table", header.reftable_offset, len, 1);
        let bytes = self
            .image
            .storage
            .read_owned(header.reftable_offset, len)
            .await?;
        self.reftable = (0..len as usize / 8).map(|i| be64(&bytes, i * 8)).collect();
        for i in 0..self.reftable.len() {
            let offset = self.reftable.get(i).copied().unwrap_or(0) & OFFSET_MASK;
            if offset == 0 {
                continue;
            }
            if !offset.is_multiple_of(cluster) {
                self.found
                    .corrupt(|| format!("refcount block {i} cannot be at offset {offset}"));
            } else {
                self.add("a refcount block", offset, cluster, 1);
            }
        }
        Ok(())
    }

    /// Counts an L1 table, and collects the L2 tables that it refers to.
    async fn l1(&mut self, what: &str, offset: u64, entries: u64, active: bool) -> Result<()> {
        self.l1_bytes += entries * 8;
        if self.l1_bytes > self.file_len {
            // Tables do not overlap, so this cannot be; and it bounds the work.
            return Err(Error::corrupt(format!(
                "{what}: the L1 tables are larger than the file"
            )));
        }
        self.add(what, offset, entries * 8, 1);
        let table = Map::read_l1(&self.image.storage, offset, entries).await?;
        for (i, entry) in table.into_iter().enumerate() {
            let l2 = entry & OFFSET_MASK;
            if l2 == 0 {
                continue;
            }
            if !l2.is_multiple_of(self.image.geometry.cluster()) || l2 >= self.file_len {
                self.found
                    .corrupt(|| format!("{what}, entry {i}: no L2 table can be at {l2}"));
                continue;
            }
            let known = self.tables.entry(l2).or_default();
            if active && known.1 {
                self.found
                    .corrupt(|| format!("{what}, entry {i}: L2 table {l2} is used twice"));
            }
            let known = self.tables.entry(l2).or_default();
            known.0 = known.0.saturating_add(1);
            known.1 |= active;
        }
        Ok(())
    }

    async fn l2_tables(&mut self) -> Result<()> {
        let g = self.image.geometry;
        let tables = std::mem::take(&mut self.tables);
        for (&offset, &(times, active)) in &tables {
            self.add("an L2 table", offset, g.cluster(), times);
            let table = read_table(&self.image.storage, &g, offset).await?;
            self.next_data = 0;
            for index in 0..g.l2_entries() {
                let entry = table.get(index);
                if entry != Entry::default() {
                    self.entry(entry, (offset, index), times, active);
                }
            }
        }
        self.tables = tables;
        Ok(())
    }

    fn entry(&mut self, entry: Entry, place: (u64, u64), times: u32, active: bool) {
        let g = self.image.geometry;
        let granules = g.cluster() / g.granule();
        let bad = (0..granules).find_map(|n| entry.content(&g, n).err());
        if let Some(e) = bad {
            self.found
                .corrupt(|| format!("L2 table {}, entry {}: {e}", place.0, place.1));
            return;
        }
        if entry.is_compressed() {
            if entry.word & COPIED != 0 {
                self.found.corrupt(|| {
                    format!(
                        "L2 table {}, entry {}: compressed and COPIED",
                        place.0, place.1
                    )
                });
            }
            let (offset, len) = g.compressed_range(entry.word);
            // The length is in sectors and may reach over the end of the file.
            let len = len.min(self.file_len.saturating_sub(offset)).max(1);
            self.add("a compressed cluster", offset, len, times);
            self.found.compressed += u64::from(active);
            self.found.allocated += u64::from(active);
            // Compressed clusters count as out of line.
            self.found.fragmented += u64::from(active);
            return;
        }
        let Some(host) = entry.host(&g) else { return };
        if !g.data_file {
            self.add("a data cluster", host, g.cluster(), times);
        }
        if active {
            self.found.allocated += 1;
            if self.next_data != 0 && self.next_data != host {
                self.found.fragmented += 1;
            }
            self.next_data = host + g.cluster();
        }
    }

    /// Counts what the bitmaps extension refers to.
    async fn bitmaps(&mut self) -> Result<()> {
        let header = read(&self.image.header).clone();
        let Some(ext) = header.extension(extension::BITMAPS) else {
            return Ok(());
        };
        // Bitmaps that are not valid refer to nothing: what they were in is lost space.
        if header.autoclear & autoclear::BITMAPS == 0 {
            return Ok(());
        }
        let entries = match directory_on_disk(&self.image.storage, &header) {
            Ok(entries) => entries,
            Err(e) => {
                self.found.corrupt(|| e.to_string());
                return Ok(());
            }
        };
        self.add("the bitmap directory", be64(ext, 16), be64(ext, 8), 1);
        for entry in entries {
            self.bitmap_table(entry.table_offset, entry.table_len.into())
                .await?;
        }
        Ok(())
    }

    async fn bitmap_table(&mut self, offset: u64, entries: u64) -> Result<()> {
        if entries * 8 > self.file_len || offset > self.file_len {
            self.found
                .corrupt(|| "a bitmap table is behind the end of the file".into());
            return Ok(());
        }
        self.bitmap_bytes += entries * 8;
        if self.bitmap_bytes > self.file_len {
            // Tables do not overlap, so this cannot be; and it bounds the work.
            return Err(Error::corrupt("the bitmap tables are larger than the file"));
        }
        self.add("a bitmap table", offset, entries * 8, 1);
        let table = self.image.storage.read_owned(offset, entries * 8).await?;
        for i in 0..entries as usize {
            let data = be64(&table, i * 8) & OFFSET_MASK;
            if data != 0 {
                self.add("bitmap data", data, self.image.geometry.cluster(), 1);
            }
        }
        Ok(())
    }
}
