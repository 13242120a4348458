//! Making new images.
use std::fs::File;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::qcow2::entry::COPIED;
use crate::format::qcow2::header::{
    Compression, Extension, Header, V2_LEN, V3_LEN, autoclear, compatible, extension, incompatible,
};
use crate::storage::lock::{self, LockMode};
use crate::storage::{Cache, Storage};

/// Space that a new image takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// None: the image grows with what is written.
    #[default]
    Off,
    /// All metadata; the data is a hole of the file. Only qcow2.
    Metadata,
    /// Metadata, and reserved space for the data.
    Falloc,
    /// Metadata, and zeroes written as data.
    Full,
}

/// The backing file of a new image: a name that is written into it, and its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name, as it will stand in the image; relative names are relative to the image.
    pub name: String,
    /// The format of the backing file.
    pub format: Format,
}

/// What a new image shall be.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// Its format.
    pub format: Format,
    /// Virtual size in bytes; rounded up to 512.
    pub size: u64,
    /// Space taken at once.
    pub preallocation: Preallocation,
    /// qcow2 version: 2 ("compat 0.10") or 3 ("1.1").
    pub version: u32,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two from 1 to 64; 16 in version 2.
    pub refcount_bits: u32,
    /// Subclusters.
    pub extended_l2: bool,
    /// The compatible feature bit "lazy refcounts".
    pub lazy_refcounts: bool,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// A backing file.
    pub backing: Option<Backing>,
    /// The name of a raw file that has the data, as it will stand in the image.
    pub data_file: Option<String>,
    /// The data file is to be a raw image by itself.
    pub data_file_raw: bool,
}

impl CreateOptions {
    /// A sparse image: qcow2 is version 3 with clusters of 64 KiB.
    pub fn new(format: Format, size: u64) -> CreateOptions {
        CreateOptions {
            format,
            size,
            preallocation: Preallocation::Off,
            version: 3,
            cluster_size: 65536,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
            data_file_raw: false,
        }
    }
}

/// Makes a file a new, empty image. What it contained is lost.
///
/// Blocking; needs no executor. The image is durable when it returns.
///
/// # Errors
/// Options that do not go together, a file that somebody else uses, a full disk.
pub fn create(file: &File, options: &CreateOptions) -> Result<()> {
    let own = file
        .try_clone()
        .map_err(|e| Error::io("cannot duplicate the descriptor", &e))?;
    let storage = Storage::file(own, Cache::Writeback)?;
    lock::take(file, LockMode::Writer, "the new image")?;
    let result = create_on(&storage, options);
    lock::give_up(file);
    result
}

/// As [`create`], on any storage.
///
/// # Errors
/// As [`create`].
pub fn create_on(storage: &Storage, options: &CreateOptions) -> Result<()> {
    let size = options
        .size
        .checked_next_multiple_of(512)
        .filter(|&s| i64::try_from(s).is_ok())
        .ok_or_else(|| Error::invalid(format!("{} bytes are too many", options.size)))?;
    match options.format {
        Format::Raw => create_raw(storage, size, options)?,
        Format::Qcow2 => create_qcow2(storage, size, options)?,
        Format::Vmdk => return Err(crate::format::vmdk::read_only()),
    }
    storage.sync_now()
}

fn create_raw(storage: &Storage, size: u64, options: &CreateOptions) -> Result<()> {
    if options.backing.is_some() || options.data_file.is_some() {
        return Err(Error::invalid(
            "a raw image has no backing file and no data file",
        ));
    }
    storage.set_len(0)?;
    storage.set_len(size)?;
    match options.preallocation {
        Preallocation::Off => Ok(()),
        Preallocation::Metadata => {
            Err(Error::invalid("a raw image has no metadata to preallocate"))
        }
        Preallocation::Falloc => storage.allocate_now(0, size),
        Preallocation::Full => write_zeroes(storage, 0, size),
    }
}

fn write_zeroes(storage: &Storage, offset: u64, len: u64) -> Result<()> {
    let piece = vec![0; 1 << 20];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(piece.len() as u64);
        storage.write_now(offset + done, piece.get(..n as usize).unwrap_or_default())?;
        done += n;
    }
    Ok(())
}

/// Where everything of a new qcow2 file goes, in clusters.
struct Layout {
    cluster: u64,
    reftable: u64,
    refblocks: u64,
    l1: u64,
    l2: u64,
    data: u64,
    l1_entries: u64,
    per_block: u64,
}

impl Layout {
    fn new(size: u64, header: &Header, preallocate: bool) -> Result<Layout> {
        let cluster = header.cluster_size();
        let l1_entries = size.div_ceil(header.bytes_per_l2());
        if l1_entries * 8 > 32 << 20 {
            return Err(Error::invalid(format!(
                "an image of {size} bytes needs larger clusters than {cluster} bytes"
            )));
        }
        let l1 = (l1_entries * 8).div_ceil(cluster);
        let (l2, data) = match (
            preallocate,
            header.incompatible & incompatible::DATA_FILE != 0,
        ) {
            (false, _) => (0, 0),
            (true, true) => (l1_entries, 0),
            (true, false) => (l1_entries, size.div_ceil(cluster)),
        };
        let per_block = (cluster * 8) >> header.refcount_order;
        let (mut reftable, mut refblocks) = (1, 1);
        loop {
            let total = 1 + reftable + refblocks + l1 + l2 + data;
            let blocks = total.div_ceil(per_block);
            let table = (blocks * 8).div_ceil(cluster).max(1);
            if (table, blocks) == (reftable, refblocks) {
                break;
            }
            (reftable, refblocks) = (table, blocks);
        }
        if reftable * cluster > 8 << 20 {
            return Err(Error::invalid(
                "the refcount table would be too large: larger clusters",
            ));
        }
        Ok(Layout {
            cluster,
            reftable,
            refblocks,
            l1,
            l2,
            data,
            l1_entries,
            per_block,
        })
    }

    fn refblocks_at(&self) -> u64 {
        1 + self.reftable
    }

    fn l1_at(&self) -> u64 {
        self.refblocks_at() + self.refblocks
    }

    fn l2_at(&self) -> u64 {
        self.l1_at() + self.l1
    }

    fn data_at(&self) -> u64 {
        self.l2_at() + self.l2
    }

    fn total(&self) -> u64 {
        self.data_at() + self.data
    }
}

fn create_qcow2(storage: &Storage, size: u64, options: &CreateOptions) -> Result<()> {
    let mut header = qcow2_header(size, options)?;
    let preallocate = options.preallocation != Preallocation::Off;
    if preallocate && options.backing.is_some() {
        return Err(Error::invalid(
            "an image with a backing file cannot be preallocated",
        ));
    }
    // A data file that is a raw disk by itself has every cluster in its place.
    let mapped = preallocate || options.data_file_raw;
    let layout = Layout::new(size, &header, mapped)?;
    header.reftable_offset = layout.cluster;
    header.reftable_clusters = layout.reftable as u32;
    header.l1_offset = layout.l1_at() * layout.cluster;
    header.l1_size = layout.l1_entries as u32;
    let bytes = header.to_bytes()?;
    storage.set_len(0)?;
    storage.set_len(layout.total() * layout.cluster)?;
    write_refcounts(storage, &layout, &header)?;
    write_mapping(storage, &layout, &header, size)?;
    let (data_offset, data_len) = (
        layout.data_at() * layout.cluster,
        layout.data * layout.cluster,
    );
    match options.preallocation {
        Preallocation::Off | Preallocation::Metadata => {}
        Preallocation::Falloc => storage.allocate_now(data_offset, data_len)?,
        Preallocation::Full => write_zeroes(storage, data_offset, data_len)?,
    }
    // The header last: before it is there, the file is no image.
    storage.sync_now()?;
    let mut first = vec![0; layout.cluster as usize];
    if let Some(target) = first.get_mut(..bytes.len()) {
        target.copy_from_slice(&bytes);
    }
    storage.write_now(0, &first)
}

/// Bytes of the metadata of an image whose clusters are all in use.
pub(crate) fn metadata_size(options: &CreateOptions) -> Result<u64> {
    let header = qcow2_header(options.size, options)?;
    let layout = Layout::new(options.size, &header, true)?;
    Ok((layout.total() - layout.data) * layout.cluster)
}

fn qcow2_header(size: u64, options: &CreateOptions) -> Result<Header> {
    check_options(options)?;
    let mut features = 0;
    let mut extensions = Vec::new();
    if let Some(backing) = &options.backing {
        let data = backing.format.name().as_bytes().to_vec();
        extensions.push(Extension {
            kind: extension::BACKING_FORMAT,
            data,
        });
    }
    if let Some(name) = &options.data_file {
        features |= incompatible::DATA_FILE;
        extensions.push(Extension {
            kind: extension::DATA_FILE,
            data: name.clone().into_bytes(),
        });
    }
    if options.extended_l2 {
        features |= incompatible::EXTENDED_L2;
    }
    if options.compression == Compression::Zstd {
        features |= incompatible::COMPRESSION;
    }
    // The names are a courtesy, and do not fit beside a backing file's name in a small cluster.
    if options.version >= 3 && options.cluster_size >= 4096 {
        extensions.push(Extension {
            kind: extension::FEATURE_NAMES,
            data: feature_names(),
        });
    }
    Ok(Header {
        version: options.version,
        cluster_bits: options.cluster_size.trailing_zeros(),
        size,
        l1_size: 0,
        l1_offset: 0,
        reftable_offset: 0,
        reftable_clusters: 0,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: features,
        compatible: if options.lazy_refcounts {
            compatible::LAZY_REFCOUNTS
        } else {
            0
        },
        autoclear: if options.data_file_raw {
            autoclear::DATA_FILE_RAW
        } else {
            0
        },
        refcount_order: options.refcount_bits.trailing_zeros(),
        header_length: if options.version >= 3 { V3_LEN } else { V2_LEN },
        compression: options.compression,
        backing: options.backing.as_ref().map(|b| b.name.clone()),
        extensions,
        rest: Vec::new(),
    })
}

fn check_options(o: &CreateOptions) -> Result<()> {
    let fail = |why: String| Err(Error::invalid(why));
    if !o.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&o.cluster_size) {
        return fail(format!(
            "a cluster size of {} bytes is not a power of two from 512 to 2 MiB",
            o.cluster_size
        ));
    }
    if !o.refcount_bits.is_power_of_two() || o.refcount_bits > 64 {
        return fail(format!(
            "{} refcount bits are not a power of two up to 64",
            o.refcount_bits
        ));
    }
    if o.extended_l2 && o.cluster_size < 16384 {
        return fail("extended L2 entries need clusters of at least 16 KiB".to_owned());
    }
    if !(2..=3).contains(&o.version) {
        return fail(format!("there is no qcow2 version {}", o.version));
    }
    let newer = o.extended_l2
        || o.lazy_refcounts
        || o.refcount_bits != 16
        || o.compression != Compression::Zlib
        || o.data_file.is_some();
    if o.version == 2 && newer {
        return fail(
            "extended L2 entries, lazy refcounts, a refcount width other than 16, zstd and data \
             files need qcow2 version 3 (compat 1.1)"
                .to_owned(),
        );
    }
    if o.data_file_raw && (o.data_file.is_none() || o.backing.is_some()) {
        return fail("a raw data file needs a data file and allows no backing file".to_owned());
    }
    let names = o.backing.iter().map(|b| &b.name).chain(&o.data_file);
    for name in names {
        if name.is_empty() || name.contains('\0') || name.len() > 1023 {
            return fail(format!("{name:?} cannot be the name of a file in an image"));
        }
    }
    Ok(())
}

/// Names of the feature bits, so that an engine that does not know one can say what it is.
pub(crate) fn feature_names() -> Vec<u8> {
    let names: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, 0, "bitmaps"),
        (2, 1, "raw external data"),
    ];
    let mut table = Vec::new();
    for (kind, bit, name) in names {
        let start = table.len();
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(start + 48, 0);
    }
    table
}

fn write_refcounts(storage: &Storage, layout: &Layout, header: &Header) -> Result<()> {
    let table: Vec<u8> = (0..layout.refblocks)
        .flat_map(|i| ((layout.refblocks_at() + i) * layout.cluster).to_be_bytes())
        .collect();
    storage.write_now(layout.cluster, &table)?;
    for n in 0..layout.refblocks {
        let block = refblock(layout, header, n);
        storage.write_now((layout.refblocks_at() + n) * layout.cluster, &block)?;
    }
    Ok(())
}

fn refblock(layout: &Layout, header: &Header, n: u64) -> Vec<u8> {
    let used = layout
        .total()
        .saturating_sub(n * layout.per_block)
        .min(layout.per_block);
    let mut block = crate::format::qcow2::refblock::RefBlock::new(
        vec![0; layout.cluster as usize],
        header.refcount_order,
        0,
    );
    (0..used).for_each(|i| block.set(i, 1));
    block.into_bytes()
}

/// Writes the L1 table, and the L2 tables of a preallocated image.
fn write_mapping(storage: &Storage, layout: &Layout, header: &Header, size: u64) -> Result<()> {
    if layout.l2 == 0 {
        return Ok(());
    }
    let cluster = layout.cluster;
    let table: Vec<u8> = (0..layout.l1_entries)
        .flat_map(|i| (((layout.l2_at() + i) * cluster) | COPIED).to_be_bytes())
        .collect();
    storage.write_now(layout.l1_at() * cluster, &table)?;
    let extended = header.incompatible & incompatible::EXTENDED_L2 != 0;
    let base = if layout.data == 0 {
        0
    } else {
        layout.data_at()
    };
    let per_table = cluster / if extended { 16 } else { 8 };
    let clusters = size.div_ceil(cluster);
    for n in 0..layout.l2 {
        let first = n * per_table;
        let count = clusters.saturating_sub(first).min(per_table);
        let mut bytes = Vec::with_capacity(cluster as usize);
        for i in first..first + count {
            bytes.extend((((base + i) * cluster) | COPIED).to_be_bytes());
            if extended {
                bytes.extend(0xffff_ffffu64.to_be_bytes());
            }
        }
        storage.write_now((layout.l2_at() + n) * cluster, &bytes)?;
    }
    Ok(())
}
