//! qcow2, version 2 and 3: where guest data is, and how that changes.
//!
//! | file         | what                                                                  |
//! |--------------|-----------------------------------------------------------------------|
//! | `header`     | the header, as a pure function                                        |
//! | `entry`      | what one L2 entry says                                                |
//! | `table`      | one L2 table in memory                                                |
//! | `map`        | L1 and the L2 tables in memory, lookups                               |
//! | `refblock`, `refcount` | counters, allocation of host clusters                       |
//! | `write`      | writes: in place, allocating, copying on write                        |
//! | `plan`       | what a write finds in a table, as pure functions                      |
//! | `free`       | discards and zeroes                                                   |
//! | `commit`     | the order in which changed metadata reaches the disk                  |
//! | `lazy`       | counts that are postponed until the image is closed                   |
//! | `update`     | another header, in one step                                           |
//! | `snapshot`, `internal` | the table of internal snapshots; taking, deleting, applying them |
//! | `deletion`   | deleting an internal snapshot in steps                                |
//! | `resize`     | another size of the disk                                              |
//! | `compress`, `pack` | compressed clusters                                                   |
//! | `prealloc`   | places before there is data, and version 2 without zero clusters      |
//! | `bitmap`     | persistent dirty bitmaps                                              |
//! | `check`      | finding and repairing contradictions                                  |
pub(crate) mod bitmap;
pub(crate) mod check;
mod commit;
pub(crate) mod compress;
mod deletion;
pub(crate) mod entry;
mod free;
pub(crate) mod header;
mod internal;
mod lazy;
mod map;
mod pack;
mod plan;
mod prealloc;
pub(crate) mod refblock;
mod refcount;
mod resize;
pub(crate) mod snapshot;
mod table;
mod update;
mod write;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use super::{Extent, Mapping};
use crate::error::{Error, ErrorKind, Result};
use crate::requests::Requests;
use crate::storage::Storage;
use crate::sync::{RangeLocks, Turn, lock};
use commit::CommitState;
use entry::{Content, Geometry, OFFSET_MASK};
use header::{Header, MAX_HEADER_CLUSTER, autoclear, incompatible};
use map::Map;
pub(crate) use map::{read, write as write_lock};
use refcount::{Metadata, Refcounts, Run};

/// A qcow2 image.
pub(crate) struct Qcow2 {
    pub(crate) storage: Storage,
    /// The external data file, if the image has one.
    pub(crate) data: Option<Storage>,
    pub(crate) geometry: Geometry,
    pub(crate) header: RwLock<Header>,
    size: AtomicU64,
    pub(crate) map: Map,
    pub(crate) refcounts: Refcounts,
    /// Guest clusters whose mapping somebody is changing, or subclusters of one that keeps its place;
    /// in subclusters.
    claims: RangeLocks,
    commit: CommitState,
    requests: Arc<Requests>,
    /// Clusters of the file that hold metadata, of a writable image: no guest data may go there.
    metadata: Metadata,
    /// The length that the file was given so far.
    file_len: Mutex<u64>,
    pub(crate) read_only: AtomicBool,
    /// The id or name of the internal snapshot that is read instead of the disk.
    pub(crate) as_of: Mutex<Option<String>>,
    /// Metadata turned out to contradict itself: no more writes.
    corrupt: AtomicBool,
    pub(crate) unpacked: compress::Unpacked,
    packing: Mutex<pack::Packing>,
    packing_turn: Turn,
    lazy: lazy::Lazy,
    bitmaps: bitmap::Bitmaps,
}

/// Reads and checks the header of a qcow2 file.
///
/// # Errors
/// The field that cannot be.
pub(crate) fn read_header(storage: &Storage) -> Result<Header> {
    let len = usize::try_from(storage.len()?).unwrap_or(usize::MAX);
    let head = storage.read_sync(0, len.min(4096))?;
    let bits = header::be32(&head, 20);
    let wanted = if bits <= 21 {
        (1usize << bits).min(MAX_HEADER_CLUSTER)
    } else {
        0
    };
    if wanted <= head.len() || len <= head.len() {
        return Header::parse(&head);
    }
    Header::parse(&storage.read_sync(0, len.min(wanted))?)
}

impl Qcow2 {
    /// Opens an image whose header was read, without writing.
    pub(crate) fn open(
        storage: Storage,
        data: Option<Storage>,
        header: Header,
        read_only: bool,
        requests: Arc<Requests>,
    ) -> Qcow2 {
        Qcow2 {
            storage,
            data,
            geometry: Geometry::of(&header),
            size: AtomicU64::new(header.size),
            header: RwLock::new(header),
            map: Map::new(),
            refcounts: Refcounts::default(),
            claims: RangeLocks::default(),
            commit: CommitState::default(),
            requests,
            metadata: Metadata::default(),
            file_len: Mutex::default(),
            read_only: AtomicBool::new(read_only),
            as_of: Mutex::default(),
            corrupt: AtomicBool::new(false),
            unpacked: compress::Unpacked::default(),
            packing: Mutex::default(),
            packing_turn: Turn::default(),
            lazy: lazy::Lazy::default(),
            bitmaps: bitmap::Bitmaps::default(),
        }
    }

    /// An image that is only checked and repaired: no guest data moves, so a data file stays
    /// closed.
    pub(crate) fn for_check(storage: Storage, header: Header) -> Qcow2 {
        Qcow2::open(storage, None, header, true, Arc::default())
    }

    /// Clears the dirty and the corrupt bit after a repair.
    pub(crate) async fn clear_trouble(&self) -> Result<()> {
        let features = {
            let mut h = write_lock(&self.header);
            let trouble = incompatible::DIRTY | incompatible::CORRUPT;
            if h.incompatible & trouble == 0 {
                return Ok(());
            }
            h.incompatible &= !trouble;
            [h.incompatible, h.compatible, h.autoclear]
        };
        self.write_features(features).await
    }

    /// The header on disk has got a new refcount table.
    pub(crate) fn adopt_reftable(&self, offset: u64, clusters: u32) {
        let mut h = write_lock(&self.header);
        h.reftable_offset = offset;
        h.reftable_clusters = clusters;
    }

    /// True if the header names a backing file.
    pub(crate) fn names_backing(&self) -> bool {
        read(&self.header).backing.is_some()
    }

    /// True if it has nothing of its own.
    pub(crate) fn is_empty(&self) -> bool {
        read(&self.map.l1).entries.iter().all(|&e| e == 0)
    }

    /// Virtual size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Forgets what is cached, reads the metadata again and, for a writable image, makes it fit to
    /// be written: refcounts rebuilt if they are marked dirty, unknown autoclear bits cleared.
    ///
    /// # Errors
    /// What is wrong with the image; a header that changed its shape since it was opened.
    pub(crate) async fn activate(&self) -> Result<()> {
        let header = read_header(&self.storage)?;
        let old = read(&self.header).clone();
        if Geometry::of(&header) != self.geometry
            || header.backing != old.backing
            || header.data_file()? != old.data_file()?
        {
            return Err(Error::corrupt(
                "the image was replaced by another one after it was opened: open it again",
            ));
        }
        let read_only = self.read_only.load(Ordering::Relaxed);
        if !read_only && header.incompatible & incompatible::CORRUPT != 0 {
            return Err(Error::corrupt(
                "the image is marked corrupt: it can be read, and must be repaired before it is \
                 written",
            ));
        }
        let (l1_offset, l1_size, size) = self.disk_wanted(&header)?;
        let l1 = Map::read_l1(&self.storage, l1_offset, l1_size.into()).await?;
        self.size.store(size, Ordering::Release);
        self.map.reset(l1, l1_offset);
        self.unpacked.clear();
        self.close_packing(None);
        self.lazy.reset(&header);
        self.corrupt.store(false, Ordering::Relaxed);
        *write_lock(&self.header) = header;
        if read_only {
            return Ok(());
        }
        self.activate_writable().await
    }

    async fn activate_writable(&self) -> Result<()> {
        let (reftable, incompatible, autoclear) = {
            let h = read(&self.header);
            (
                (h.reftable_offset, h.reftable_clusters),
                h.incompatible,
                h.autoclear,
            )
        };
        let len = self.storage.len()?;
        *lock(&self.file_len) = len;
        let zero_from = if self.storage.grows_with_zeroes() {
            len
        } else {
            u64::MAX >> 1
        };
        self.commit.reset();
        let (storage, metadata) = (&self.storage, &self.metadata);
        self.refcounts
            .reset(storage, &self.geometry, reftable, zero_from, metadata)
            .await?;
        self.collect_metadata();
        if incompatible & incompatible::DIRTY != 0 {
            check::rebuild(self).await?;
            // The repair went past everything that is cached.
            let h = read(&self.header).clone();
            let l1 = Map::read_l1(storage, h.l1_offset, h.l1_size.into()).await?;
            self.map.reset(l1, h.l1_offset);
            let len = storage.len()?;
            *lock(&self.file_len) = len;
            let reftable = (h.reftable_offset, h.reftable_clusters);
            let zero_from = if zero_from == u64::MAX >> 1 {
                zero_from
            } else {
                len
            };
            self.refcounts
                .reset(storage, &self.geometry, reftable, zero_from, metadata)
                .await?;
            self.collect_metadata();
        }
        let keep = autoclear::DATA_FILE_RAW | autoclear::BITMAPS;
        if incompatible & incompatible::DIRTY != 0 || autoclear & !keep != 0 {
            let features = {
                let mut h = write_lock(&self.header);
                h.incompatible &= !incompatible::DIRTY;
                h.autoclear &= keep;
                [h.incompatible, h.compatible, h.autoclear]
            };
            self.write_features(features).await?;
        }
        self.load_bitmaps().await?;
        self.collect_metadata();
        Ok(())
    }

    async fn write_features(&self, features: [u64; 3]) -> Result<()> {
        if self.geometry.version < 3 {
            return Ok(());
        }
        let bytes: Vec<u8> = features.iter().flat_map(|f| f.to_be_bytes()).collect();
        self.storage
            .write_owned(72, bytes.as_slice().into())
            .await?;
        self.storage.sync().await
    }

    /// Collects which clusters hold metadata.
    fn collect_metadata(&self) {
        let bits = self.geometry.cluster_bits;
        let mut set = BTreeSet::from([0]);
        let mut add = |offset: u64, len: u64| {
            if len > 0 {
                set.extend(offset >> bits..=(offset + len - 1) >> bits);
            }
        };
        {
            let h = read(&self.header);
            add(h.l1_offset, u64::from(h.l1_size) * 8);
            // The exact length is known to the snapshot code; its start is enough here.
            add(h.snapshots_offset, u64::from(h.snapshots > 0));
        }
        let l1 = read(&self.map.l1);
        let tables = l1
            .entries
            .iter()
            .map(|e| e & OFFSET_MASK)
            .filter(|&o| o != 0);
        tables.for_each(|o| add(o, 1));
        let refs = lock(&self.refcounts.state);
        add(refs.table_offset, refs.table.len() as u64 * 8);
        refs.table
            .iter()
            .filter(|&&o| o != 0)
            .for_each(|&o| add(o, 1));
        drop(refs);
        drop(l1);
        for (first, count) in self.bitmaps.clusters() {
            set.extend(first..first.saturating_add(count));
        }
        *write_lock(&self.metadata) = set;
    }

    /// Notes clusters that hold metadata from now on.
    fn add_metadata(&self, run: Run) {
        write_lock(&self.metadata).extend(run.start..run.start + run.len);
    }

    /// Refuses to put anything where metadata is.
    ///
    /// # Errors
    /// The image contradicts itself; it takes no more writes.
    fn check_overlap(&self, host: u64, len: u64) -> Result<()> {
        if self.data.is_some() || len == 0 {
            return Ok(());
        }
        let bits = self.geometry.cluster_bits;
        let (first, last) = (host >> bits, host.saturating_add(len - 1) >> bits);
        let hit = read(&self.metadata).range(first..=last).next().copied();
        match hit {
            None => Ok(()),
            Some(cluster) => {
                self.corrupt.store(true, Ordering::Relaxed);
                Err(Error::corrupt(format!(
                    "guest data would overwrite metadata at file offset {}: the image is corrupt \
                     and takes no more writes",
                    cluster << bits
                )))
            }
        }
    }

    /// Refuses changes to an image that was found to be corrupt.
    fn check_sound(&self) -> Result<()> {
        if self.corrupt.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the image was found to be corrupt and takes no more writes",
            ));
        }
        Ok(())
    }

    /// Where guest data is kept.
    pub(crate) fn data_storage(&self) -> &Storage {
        self.data.as_ref().unwrap_or(&self.storage)
    }

    /// Where `offset` is; the answer covers at most `len` bytes and one L2 table.
    ///
    /// # Errors
    /// A mapping that cannot be; a failed read of metadata.
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Extent<'_>> {
        let g = &self.geometry;
        let (l1_index, index) = g.indices(offset);
        let cluster = g.cluster();
        let to_table_end = (g.l2_entries() - index) * cluster - offset % cluster;
        let len = len.min(to_table_end);
        let Some(slot) = self.map.get(&self.storage, g, l1_index).await? else {
            return Ok(Extent {
                mapping: Mapping::Unallocated,
                len,
            });
        };
        let state = read(&slot.table);
        let (content, entry, n) = extent(&state.table, g, offset, len)
            .map_err(|e| e.context(format_args!("guest offset {offset}")))?;
        let mapping = match content {
            Content::Unallocated => Mapping::Unallocated,
            Content::Zero => Mapping::Zero,
            Content::Data(host) => Mapping::Data(self.data_storage(), host),
            Content::Compressed => Mapping::Compressed(self, entry.word, offset % cluster),
        };
        Ok(Extent { mapping, len: n })
    }
}

/// The content at a guest offset, its entry, and for how many bytes it goes on (at most `len`).
/// The offset in `Data` is that of the byte asked for.
fn extent(
    table: &table::Table,
    g: &Geometry,
    offset: u64,
    len: u64,
) -> Result<(Content, entry::Entry, u64)> {
    let (_, index) = g.indices(offset);
    let (cluster, granule) = (g.cluster(), g.granule());
    let entry = table.get(index);
    let within = offset % cluster;
    let first = entry.content(g, within / granule)?;
    if first == Content::Compressed {
        return Ok((first, entry, len.min(cluster - within)));
    }
    let into = offset % granule;
    let mut n = granule - into;
    let (mut at_index, mut at_granule) = (index, within / granule + 1);
    while n < len {
        if at_granule * granule == cluster {
            at_index += 1;
            at_granule = 0;
            if at_index == g.l2_entries() {
                break;
            }
        }
        let next = table.get(at_index).content(g, at_granule);
        let continues = match (first, next) {
            (Content::Data(a), Ok(Content::Data(b))) => b == a + into + n,
            (a, Ok(b)) => a == b,
            _ => false,
        };
        if !continues {
            break;
        }
        // A run that is known to go on needs no look at each entry.
        let (run, step) = table.run_len(at_index, cluster);
        let whole = !g.extended
            && run > 1
            && matches!((first, step), (Content::Data(_), s) if s == cluster);
        let entries = if whole { run } else { 1 };
        n += granule * entries;
        at_index += entries - 1;
        at_granule += 1;
    }
    let content = match first {
        Content::Data(host) => Content::Data(host + into),
        other => other,
    };
    Ok((content, entry, n.min(len)))
}
