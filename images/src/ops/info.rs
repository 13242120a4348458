//! What an image is, without using it.
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::qcow2::header::{Compression, Header, autoclear, compatible, incompatible};
use crate::format::qcow2::{bitmap, read_header, snapshot};
use crate::format::vmdk;
use crate::ops::bitmap::BitmapInfo;
use crate::storage::{Cache, Storage};

/// A description of an image; the JSON has the names that qemu-img uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// The image as its opener called it.
    pub filename: String,
    /// The format.
    pub format: &'static str,
    /// Bytes that the file takes on its file system.
    pub actual_size: u64,
    /// Bytes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The backing file's name as it stands in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The path that the name means, seen from the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's format as it stands in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// True if the image was not closed and must be repaired before it is written.
    pub dirty_flag: bool,
}

/// What only one format has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatSpecific {
    /// The format.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its data.
    pub data: FormatData,
}

/// The data of one format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FormatData {
    /// Of qcow2.
    Qcow2(Box<Qcow2Info>),
    /// Of vmdk.
    Vmdk(VmdkInfo),
}

/// What only vmdk has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmdkInfo {
    /// The id of its content.
    pub cid: u32,
    /// That of its parent: always that of none.
    pub parent_cid: u32,
    /// What made it is: "monolithicSparse", "streamOptimized", "monolithicFlat" and more.
    pub create_type: String,
    /// The names of the files that a descriptor names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// What only qcow2 has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Info {
    /// "0.10" for version 2, "1.1" for version 3.
    pub compat: &'static str,
    /// "zlib" or "zstd".
    pub compression_type: &'static str,
    /// The feature bit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Persistent dirty bitmaps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bitmaps: Vec<BitmapInfo>,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// True if the image is marked corrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// True with subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// The data file's name as it stands in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// True if the data file is a raw disk by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// The id: a number in practice.
    pub id: String,
    /// The name.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// When it was taken, seconds since 1970.
    pub date_sec: u32,
    /// Nanoseconds of that.
    pub date_nsec: u32,
    /// Guest time since its start, seconds.
    pub vm_clock_sec: u64,
    /// Nanoseconds of that.
    pub vm_clock_nsec: u32,
    /// Instructions executed, if the machine counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// Size of the virtual disk when it was taken, in bytes.
    #[serde(skip)]
    pub disk_size: Option<u64>,
}

/// Describes an image. Takes no locks and asks no gate: only this file is looked at.
///
/// # Errors
/// What is wrong with the image, by field.
pub fn info(file: File, name: &str, format: Format) -> Result<Info> {
    let meta = file.metadata().map_err(|e| Error::io(name, &e))?;
    let actual_size = if meta.file_type().is_block_device() {
        0
    } else {
        meta.blocks() * 512
    };
    let storage = Storage::file(file, Cache::Writeback).map_err(|e| e.context(name))?;
    describe(&storage, name, format, actual_size).map_err(|e| e.context(name))
}

fn describe(storage: &Storage, name: &str, format: Format, actual_size: u64) -> Result<Info> {
    let mut info = Info {
        virtual_size: storage.len()?.next_multiple_of(512),
        filename: name.to_owned(),
        format: format.name(),
        actual_size,
        cluster_size: None,
        backing_filename: None,
        full_backing_filename: None,
        backing_filename_format: None,
        snapshots: Vec::new(),
        format_specific: None,
        dirty_flag: false,
    };
    if format == Format::Raw {
        return Ok(info);
    }
    if format == Format::Vmdk {
        return describe_vmdk(storage, info);
    }
    let header = read_header(storage)?;
    info.virtual_size = header.size;
    info.cluster_size = Some(header.cluster_size());
    info.backing_filename = header.backing.clone();
    info.full_backing_filename = header.backing.as_ref().map(|b| {
        crate::gate::PathGate::resolve(b, name)
            .display()
            .to_string()
    });
    info.backing_filename_format = header.backing_format()?;
    info.dirty_flag = header.incompatible & incompatible::DIRTY != 0;
    let (snapshots, _) = snapshot::read_table(storage, &header)?;
    info.snapshots = snapshots.iter().map(SnapshotInfo::from).collect();
    info.format_specific = Some(FormatSpecific {
        kind: "qcow2",
        data: FormatData::Qcow2(Box::new(qcow2_info(storage, &header)?)),
    });
    Ok(info)
}

fn describe_vmdk(storage: &Storage, mut info: Info) -> Result<Info> {
    let front = vmdk::Front::read(storage)?;
    info.virtual_size = front.size()?;
    info.cluster_size = front.header.map(|header| header.grain);
    let named = front.header.is_none();
    let lines = front.descriptor.lines.into_iter();
    let files = lines
        .map(|line| line.file)
        .filter(|f| named && !f.is_empty());
    info.format_specific = Some(FormatSpecific {
        kind: "vmdk",
        data: FormatData::Vmdk(VmdkInfo {
            cid: front.descriptor.cid,
            parent_cid: u32::MAX,
            create_type: front.descriptor.create_type,
            files: files.collect(),
        }),
    });
    Ok(info)
}

impl From<&snapshot::Snapshot> for SnapshotInfo {
    fn from(s: &snapshot::Snapshot) -> SnapshotInfo {
        SnapshotInfo {
            id: s.id_text(),
            name: s.name_text(),
            vm_state_size: s.vm_state_size,
            date_sec: s.seconds,
            date_nsec: s.nanoseconds,
            vm_clock_sec: s.vm_clock / 1_000_000_000,
            vm_clock_nsec: (s.vm_clock % 1_000_000_000) as u32,
            icount: s.icount(),
            disk_size: s.disk_size,
        }
    }
}

fn qcow2_info(storage: &Storage, header: &Header) -> Result<Qcow2Info> {
    let v3 = header.version >= 3;
    let bit = |set: bool| v3.then_some(set);
    Ok(Qcow2Info {
        compat: if v3 { "1.1" } else { "0.10" },
        compression_type: match header.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        },
        lazy_refcounts: bit(header.compatible & compatible::LAZY_REFCOUNTS != 0),
        bitmaps: bitmap::described_on_disk(storage, header)?
            .iter()
            .map(BitmapInfo::from)
            .collect(),
        refcount_bits: 1 << header.refcount_order,
        corrupt: bit(header.incompatible & incompatible::CORRUPT != 0),
        extended_l2: bit(header.incompatible & incompatible::EXTENDED_L2 != 0),
        data_file_raw: header
            .data_file()?
            .map(|_| header.autoclear & autoclear::DATA_FILE_RAW != 0),
        data_file: header.data_file()?,
    })
}
