//! The header of a qcow2 image: a pure function from bytes to a checked description, and back.
//!
//! Source: the qcow2 specification (QEMU, docs/interop/qcow2), sections "Header" and
//! "Header extensions". Everything is big-endian.
use crate::error::{Error, Result};

/// Incompatible feature bits.
pub(crate) mod incompatible {
    /// Refcounts may be wrong and must be rebuilt before the first write.
    pub(crate) const DIRTY: u64 = 1;
    /// Metadata was found to be corrupt: no writes.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// Guest data is in another file.
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not zlib.
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries have subclusters.
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Compatible feature bits.
pub(crate) mod compatible {
    /// Refcount updates may be postponed (the dirty bit says so).
    pub(crate) const LAZY_REFCOUNTS: u64 = 1;
}

/// Autoclear feature bits: cleared by whoever writes without knowing them.
pub(crate) mod autoclear {
    /// The bitmaps extension is consistent with the image.
    pub(crate) const BITMAPS: u64 = 1;
    /// The data file can be used as a raw image by itself.
    pub(crate) const DATA_FILE_RAW: u64 = 1 << 1;
}

/// Header extension types.
pub(crate) mod extension {
    pub(crate) const END: u32 = 0;
    pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(crate) const BITMAPS: u32 = 0x2385_2875;
    pub(crate) const DATA_FILE: u32 = 0x4441_5441;
}

/// Bytes of a version 2 header, and where the fields of version 3 begin.
pub(crate) const V2_LEN: u32 = 72;
/// Bytes of a version 3 header with the compression type.
pub(crate) const V3_LEN: u32 = 112;
/// The shortest version 3 header.
const V3_MIN: u32 = 104;

const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_NAME: u32 = 1023;

/// The longest first cluster: the header and all it points at inside the first cluster fit.
pub(crate) const MAX_HEADER_CLUSTER: usize = 2 << 20;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate streams.
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

/// A header extension: type and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// A checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    pub(crate) l1_size: u32,
    pub(crate) l1_offset: u64,
    pub(crate) reftable_offset: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) refcount_order: u32,
    pub(crate) header_length: u32,
    pub(crate) compression: Compression,
    pub(crate) backing: Option<String>,
    pub(crate) extensions: Vec<Extension>,
    /// Fields of the header that are newer than this engine, kept as they are.
    pub(crate) rest: Vec<u8>,
}

/// Big-endian numbers at an offset; zero beyond the end, which no caller reaches unchecked.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    let part = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
    part.map_or(0, |b| u64::from_be_bytes(*b))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|b| b.first_chunk::<4>());
    part.map_or(0, |b| u32::from_be_bytes(*b))
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    let part = bytes.get(at..).and_then(|b| b.first_chunk::<2>());
    part.map_or(0, |b| u16::from_be_bytes(*b))
}

impl Header {
    /// Reads the header from the start of the file: all of the first cluster, or what there is.
    ///
    /// # Errors
    /// The field that cannot be, with its value.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header> {
        if !bytes.starts_with(&super::super::QCOW2_MAGIC) {
            return Err(Error::corrupt(
                "not a qcow2 image: the magic number is missing",
            ));
        }
        if bytes.len() < V2_LEN as usize {
            return Err(Error::corrupt("the file ends inside the qcow2 header"));
        }
        let version = be32(bytes, 4);
        if !(2..=3).contains(&version) {
            let what = format!("qcow2 version {version}");
            return Err(Error::unsupported(
                &what,
                format!("{what} is not known (2 and 3 are)"),
            ));
        }
        let cluster_bits = be32(bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::corrupt(format!(
                "cluster_bits is {cluster_bits}: clusters must have 512 bytes to 2 MiB"
            )));
        }
        let mut header = Header {
            version,
            cluster_bits,
            size: be64(bytes, 24),
            l1_size: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            reftable_offset: be64(bytes, 48),
            reftable_clusters: be32(bytes, 56),
            snapshots: be32(bytes, 60),
            snapshots_offset: be64(bytes, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_length: V2_LEN,
            compression: Compression::Zlib,
            backing: None,
            extensions: Vec::new(),
            rest: Vec::new(),
        };
        let crypt = be32(bytes, 32);
        if version >= 3 {
            header.parse_v3(bytes)?;
        }
        header.parse_extensions(bytes)?;
        header.check_features()?;
        check_encryption(crypt)?;
        header.parse_backing(bytes)?;
        header.check_tables()?;
        Ok(header)
    }

    fn parse_v3(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() < V3_MIN as usize {
            return Err(Error::corrupt("the file ends inside the qcow2 header"));
        }
        self.incompatible = be64(bytes, 72);
        self.compatible = be64(bytes, 80);
        self.autoclear = be64(bytes, 88);
        self.refcount_order = be32(bytes, 96);
        self.header_length = be32(bytes, 100);
        if self.header_length < V3_MIN {
            return Err(Error::corrupt(format!(
                "header_length is {}, version 3 has at least {V3_MIN}",
                self.header_length
            )));
        }
        if u64::from(self.header_length) > self.cluster_size() {
            return Err(Error::corrupt(format!(
                "header_length {} is longer than a cluster",
                self.header_length
            )));
        }
        let end = (self.header_length as usize).min(bytes.len());
        self.rest = bytes.get(V3_LEN as usize..end).unwrap_or_default().to_vec();
        let named = if self.header_length > V3_MIN {
            bytes.get(104).copied()
        } else {
            None
        };
        let named = named.unwrap_or(0);
        let expected = self.incompatible & incompatible::COMPRESSION != 0;
        self.compression = match (named, expected) {
            (0, false) => Compression::Zlib,
            (1, true) => Compression::Zstd,
            (0 | 1, _) => {
                return Err(Error::corrupt(format!(
                    "compression type {named} contradicts the incompatible feature bit 3"
                )));
            }
            _ => {
                let what = format!("compression type {named}");
                return Err(Error::unsupported(&what, format!("{what} is not known")));
            }
        };
        Ok(())
    }

    fn parse_extensions(&mut self, bytes: &[u8]) -> Result<()> {
        let backing = usize::try_from(be64(bytes, 8)).unwrap_or(0);
        let first_cluster = (self.cluster_size() as usize).min(bytes.len());
        let end = if backing == 0 {
            first_cluster
        } else {
            backing.min(first_cluster)
        };
        let mut at = self.header_length as usize;
        while at + 8 <= end {
            let (kind, len) = (be32(bytes, at), be32(bytes, at + 4) as usize);
            if kind == extension::END {
                break;
            }
            let data = bytes
                .get(at + 8..)
                .and_then(|b| b.get(..len))
                .filter(|_| at + 8 + len <= end)
                .ok_or_else(|| {
                    Error::corrupt(format!(
                        "header extension 0x{kind:08x} at {at} with {len} bytes reaches over the \
                         space for extensions"
                    ))
                })?;
            self.extensions.push(Extension {
                kind,
                data: data.to_vec(),
            });
            at += 8 + len.next_multiple_of(8);
        }
        Ok(())
    }

    fn parse_backing(&mut self, bytes: &[u8]) -> Result<()> {
        let (offset, len) = (be64(bytes, 8), be32(bytes, 16));
        if offset == 0 {
            return Ok(());
        }
        let fits = offset
            .checked_add(u64::from(len))
            .is_some_and(|end| end <= self.cluster_size());
        if len > MAX_NAME || !fits {
            return Err(Error::corrupt(format!(
                "the backing file name ({len} bytes at {offset}) is not inside the first cluster \
                 or longer than {MAX_NAME} bytes"
            )));
        }
        let name = bytes
            .get(offset as usize..)
            .and_then(|b| b.get(..len as usize))
            .ok_or_else(|| Error::corrupt("the file ends inside the backing file name"))?;
        self.backing = match text(name, "the backing file name")? {
            name if name.is_empty() => None,
            name => Some(name),
        };
        Ok(())
    }

    fn check_features(&self) -> Result<()> {
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let names: Vec<String> = (0..64)
                .filter(|bit| unknown & (1 << bit) != 0)
                .map(|bit| self.feature_name(bit))
                .collect();
            let names = names.join(", ");
            return Err(Error::unsupported(
                &names,
                format!("the image uses features that are not known: {names}"),
            ));
        }
        if self.incompatible & incompatible::EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return Err(Error::corrupt(
                "extended L2 entries need clusters of at least 16 KiB",
            ));
        }
        Ok(())
    }

    /// The name that the image itself gives to an incompatible feature bit.
    fn feature_name(&self, bit: u8) -> String {
        let table = self.extension(extension::FEATURE_NAMES).unwrap_or_default();
        let entry = table.chunks_exact(48).find(|e| e.starts_with(&[0, bit]));
        let name = entry.map(|e| {
            let name: Vec<u8> = e.iter().skip(2).copied().take_while(|&b| b != 0).collect();
            String::from_utf8_lossy(&name).into_owned()
        });
        match name {
            Some(name) if !name.is_empty() => format!("{name:?} (bit {bit})"),
            _ => format!("incompatible feature bit {bit}"),
        }
    }

    fn check_tables(&self) -> Result<()> {
        let cluster = self.cluster_size();
        if i64::try_from(self.size).is_err() {
            return Err(Error::corrupt(format!(
                "the virtual size {} is impossible",
                self.size
            )));
        }
        if self.refcount_order > 6 {
            return Err(Error::corrupt(format!(
                "refcount_order is {}, at most 6 (64 bits) is possible",
                self.refcount_order
            )));
        }
        check_table(
            "L1 table",
            self.l1_offset,
            u64::from(self.l1_size) * 8,
            MAX_L1_BYTES,
            cluster,
        )?;
        let needed = self.size.div_ceil(self.bytes_per_l2());
        if u64::from(self.l1_size) < needed {
            return Err(Error::corrupt(format!(
                "the L1 table has {} entries, the virtual size needs {needed}",
                self.l1_size
            )));
        }
        let reftable = u64::from(self.reftable_clusters) * cluster;
        if self.reftable_clusters == 0 {
            return Err(Error::corrupt("the image has no refcount table"));
        }
        check_table(
            "refcount table",
            self.reftable_offset,
            reftable,
            MAX_REFTABLE_BYTES,
            cluster,
        )?;
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Error::corrupt(format!(
                "{} snapshots are more than the possible {MAX_SNAPSHOTS}",
                self.snapshots
            )));
        }
        if self.snapshots > 0 {
            check_table("snapshot table", self.snapshots_offset, 0, 0, cluster)?;
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the virtual disk that one L2 table maps.
    pub(crate) fn bytes_per_l2(&self) -> u64 {
        let entry_bits = if self.incompatible & incompatible::EXTENDED_L2 != 0 {
            4
        } else {
            3
        };
        1 << (2 * self.cluster_bits - entry_bits)
    }

    /// The content of the first extension of a type.
    pub(crate) fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions
            .iter()
            .find(|e| e.kind == kind)
            .map(|e| e.data.as_slice())
    }

    /// The backing file's format as the image says it.
    ///
    /// # Errors
    /// A name that is no text.
    pub(crate) fn backing_format(&self) -> Result<Option<String>> {
        self.extension(extension::BACKING_FORMAT)
            .map(|b| text(b, "the backing format"))
            .transpose()
    }

    /// The name of the external data file.
    ///
    /// # Errors
    /// A name that is no text.
    pub(crate) fn data_file(&self) -> Result<Option<String>> {
        self.extension(extension::DATA_FILE)
            .map(|b| text(b, "the data file name"))
            .transpose()
    }

    /// The bytes of the header, its extensions and the backing name: the start of the file.
    ///
    /// # Errors
    /// When they do not fit into the first cluster.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend(super::super::QCOW2_MAGIC);
        out.extend(self.version.to_be_bytes());
        out.extend([0; 12]); // the backing name: known at the end
        out.extend(self.cluster_bits.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend(0u32.to_be_bytes()); // no encryption
        out.extend(self.l1_size.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.reftable_offset.to_be_bytes());
        out.extend(self.reftable_clusters.to_be_bytes());
        out.extend(self.snapshots.to_be_bytes());
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            let len = (V3_LEN as usize + self.rest.len()).next_multiple_of(8) as u32;
            out.extend(self.incompatible.to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            out.extend(self.refcount_order.to_be_bytes());
            out.extend(len.to_be_bytes());
            out.push(u8::from(self.compression == Compression::Zstd));
            out.extend([0; 7]);
            out.extend(&self.rest);
            out.resize(len as usize, 0);
        }
        for ext in &self.extensions {
            out.extend(ext.kind.to_be_bytes());
            out.extend((ext.data.len() as u32).to_be_bytes());
            out.extend(&ext.data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend([0; 8]);
        if let Some(name) = &self.backing {
            let offset = out.len() as u64;
            out.extend(name.as_bytes());
            set(&mut out, 8, &offset.to_be_bytes());
            set(&mut out, 16, &(name.len() as u32).to_be_bytes());
        }
        let name_len = self.backing.as_ref().map_or(0, String::len);
        if out.len() as u64 > self.cluster_size() || name_len > MAX_NAME as usize {
            return Err(Error::invalid(
                "the header with its extensions and the backing file name does not fit",
            ));
        }
        Ok(out)
    }
}

/// Puts a value at an offset.
pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

/// A name from an image: UTF-8 without a NUL, because a shortened name would be another file.
fn text(bytes: &[u8], what: &str) -> Result<String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::corrupt(format!("{what} is not valid UTF-8")))?;
    if text.contains('\0') {
        return Err(Error::corrupt(format!("{what} contains a NUL")));
    }
    Ok(text.to_owned())
}

fn check_encryption(method: u32) -> Result<()> {
    match method {
        0 => Ok(()),
        1 => Err(Error::unsupported(
            "AES encryption",
            "the image is encrypted (legacy AES)",
        )),
        2 => Err(Error::unsupported(
            "LUKS encryption",
            "the image is encrypted (LUKS)",
        )),
        n => Err(Error::unsupported(
            &format!("encryption method {n}"),
            format!("the image is encrypted with the unknown method {n}"),
        )),
    }
}

/// Alignment, length and position of a table in the file.
pub(crate) fn check_table(what: &str, offset: u64, len: u64, max: u64, cluster: u64) -> Result<()> {
    if len > max {
        return Err(Error::corrupt(format!(
            "the {what} has {len} bytes, more than {max}"
        )));
    }
    if !offset.is_multiple_of(cluster) || offset.checked_add(len).is_none_or(|e| e >= 1 << 63) {
        return Err(Error::corrupt(format!(
            "the {what} cannot be at offset {offset}"
        )));
    }
    if offset == 0 && len > 0 {
        return Err(Error::corrupt(format!(
            "the {what} cannot be where the header is"
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
