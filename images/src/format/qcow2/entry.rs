//! What one L2 entry says, and the shape of an image.
//!
//! Source: the qcow2 specification, sections "Cluster mapping" and "Extended L2 entries".
use super::header::{Compression, Header, incompatible};
use crate::error::{Error, Result};

/// Set if the refcount of the cluster is exactly one: it may be written in place.
pub(crate) const COPIED: u64 = 1 << 63;
/// The entry describes a compressed cluster.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeroes (version 3 without extended L2 entries).
pub(crate) const ZERO: u64 = 1;
/// The host offset in an entry.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Subclusters of a cluster with extended L2 entries.
pub(crate) const SUBCLUSTERS: u64 = 32;

/// The numbers that follow from the header and never change while the image is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) refcount_order: u32,
    pub(crate) extended: bool,
    pub(crate) data_file: bool,
    pub(crate) compression: Compression,
}

impl Geometry {
    pub(crate) fn of(header: &Header) -> Geometry {
        Geometry {
            version: header.version,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            extended: header.incompatible & incompatible::EXTENDED_L2 != 0,
            data_file: header.incompatible & incompatible::DATA_FILE != 0,
            compression: header.compression,
        }
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The unit in which content is allocated: a cluster, or a subcluster.
    pub(crate) fn granule(&self) -> u64 {
        if self.extended {
            self.cluster() / SUBCLUSTERS
        } else {
            self.cluster()
        }
    }

    /// Words of 64 bits per L2 entry.
    pub(crate) fn entry_words(&self) -> usize {
        if self.extended { 2 } else { 1 }
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster() / (8 * self.entry_words() as u64)
    }

    /// The L1 index and the index in the L2 table of a guest offset.
    pub(crate) fn indices(&self, guest: u64) -> (u64, u64) {
        let cluster = guest >> self.cluster_bits;
        (cluster / self.l2_entries(), cluster % self.l2_entries())
    }

    /// Refcounts in a refcount block.
    pub(crate) fn refcounts_per_block(&self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }

    /// The file range of a compressed cluster: offset, and the most bytes that it can have.
    pub(crate) fn compressed_range(&self, entry: u64) -> (u64, u64) {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & !(COPIED | COMPRESSED)) >> offset_bits;
        (offset, (sectors + 1) * 512 - offset % 512)
    }

    /// The entry of a compressed cluster, or None if it cannot be described.
    pub(crate) fn compressed_entry(&self, offset: u64, len: u64) -> Option<u64> {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let sectors = (offset % 512 + len).div_ceil(512).checked_sub(1)?;
        if offset >> offset_bits != 0 || sectors >> (self.cluster_bits - 8) != 0 {
            return None;
        }
        Some(COMPRESSED | (sectors << offset_bits) | offset)
    }
}

/// An L2 entry with its subcluster bitmap (zero without extended entries).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) word: u64,
    pub(crate) bitmap: u64,
}

/// How a granule reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// From the backing file, or as zeroes without one.
    Unallocated,
    /// As zeroes.
    Zero,
    /// From this offset of the host cluster's file; the offset is that of the granule.
    Data(u64),
    /// From a compressed cluster.
    Compressed,
}

impl Entry {
    pub(crate) fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    /// The host cluster that the entry holds on to, also when the cluster reads as zeroes.
    pub(crate) fn host(self, geometry: &Geometry) -> Option<u64> {
        let offset = self.word & OFFSET_MASK;
        // With a data file, offset zero is a place like any other if the entry says "allocated".
        let at_zero = geometry.data_file && self.word & COPIED != 0;
        (!self.is_compressed() && (offset != 0 || at_zero)).then_some(offset)
    }

    /// True if the host cluster belongs to this entry alone.
    pub(crate) fn is_owned(self, geometry: &Geometry) -> bool {
        self.word & COPIED != 0 && self.host(geometry).is_some()
    }

    /// How the granule reads that is `granule` granules into the cluster.
    ///
    /// # Errors
    /// An entry that points between clusters, or contradicts itself.
    pub(crate) fn content(self, geometry: &Geometry, granule: u64) -> Result<Content> {
        if self.is_compressed() {
            if self.bitmap != 0 {
                return Err(self.bad("a compressed cluster has no subclusters"));
            }
            return Ok(Content::Compressed);
        }
        let host = self.host(geometry);
        if host.is_some_and(|h| !h.is_multiple_of(geometry.cluster())) {
            return Err(self.bad("the host offset is not at the start of a cluster"));
        }
        if geometry.extended {
            let (allocated, zero) = (
                self.bitmap >> granule & 1 != 0,
                self.bitmap >> (granule + 32) & 1 != 0,
            );
            return match (host, allocated, zero) {
                (_, true, true) => Err(self.bad("a subcluster is both allocated and zero")),
                (_, false, true) => Ok(Content::Zero),
                (_, false, false) => Ok(Content::Unallocated),
                (Some(host), true, false) => Ok(Content::Data(host + granule * geometry.granule())),
                (None, true, false) => Err(self.bad("an allocated subcluster without a cluster")),
            };
        }
        if geometry.version >= 3 && self.word & ZERO != 0 {
            return Ok(Content::Zero);
        }
        Ok(host.map_or(Content::Unallocated, Content::Data))
    }

    fn bad(self, why: &str) -> Error {
        Error::corrupt(format!(
            "the L2 entry 0x{:016x}/0x{:016x}: {why}",
            self.word, self.bitmap
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry(cluster_bits: u32) -> Geometry {
        Geometry {
            version: 3,
            cluster_bits,
            refcount_order: 4,
            extended: false,
            data_file: false,
            compression: Compression::Zlib,
        }
    }

    proptest! {
        #[test]
        fn compressed_entries_describe_their_range(
            bits in 9u32..=21, offset in 0u64..1 << 40, len in 1u64..1 << 21
        ) {
            let g = geometry(bits);
            let len = len.min(g.cluster());
            if let Some(entry) = g.compressed_entry(offset, len) {
                let (at, n) = g.compressed_range(entry);
                prop_assert_eq!(at, offset);
                prop_assert!(n >= len && n < len + 512);
            }
        }

        #[test]
        fn no_entry_panics(word: u64, bitmap: u64, granule in 0u64..32, extended: bool) {
            let g = Geometry { extended, ..geometry(16) };
            let _ = Entry { word, bitmap }.content(&g, if extended { granule } else { 0 });
            let _ = g.compressed_range(word);
        }
    }
}
