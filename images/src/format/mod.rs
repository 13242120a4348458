//! Formats answer *where* data is; they move no bytes of the guest themselves.
pub(crate) mod qcow2;
pub(crate) mod raw;
pub(crate) mod vmdk;

use std::os::unix::fs::FileExt;

use crate::error::Result;
use crate::storage::{Gather, Storage};

/// The format of an image. Always said, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The bytes of the disk as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's format, which can only be read.
    Vmdk,
}

impl Format {
    /// The name that QEMU and libvirt use.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
        }
    }

    /// The format of a name.
    pub fn from_name(name: &str) -> Option<Format> {
        match name {
            "raw" => Some(Format::Raw),
            "qcow2" => Some(Format::Qcow2),
            "vmdk" => Some(Format::Vmdk),
            _ => None,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The first bytes of a qcow2 image.
pub(crate) const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// Looks at the first bytes of a file. Only for warnings ("a raw disk that looks like qcow2"):
/// a guest can write any magic to a raw disk, so a format must never be chosen this way.
pub fn detect(file: &std::fs::File) -> Option<Format> {
    // A whole block: the descriptor may be open for direct I/O.
    let mut block = crate::IoBuf::zeroed(4096);
    let n = file.read_at(&mut block, 0).ok()?;
    let is = |magic: &[u8]| n >= magic.len() && block.starts_with(magic);
    if is(&QCOW2_MAGIC) {
        return Some(Format::Qcow2);
    }
    (is(vmdk::MAGIC) || is(vmdk::TEXT)).then_some(Format::Vmdk)
}

/// Where a range of the virtual disk is.
pub(crate) enum Mapping<'a> {
    /// At an offset of a storage.
    Data(&'a Storage, u64),
    /// Reads as zeroes.
    Zero,
    /// In the compressed cluster of an L2 entry, from this byte of it on.
    Compressed(&'a qcow2::Qcow2, u64, u64),
    /// In the compressed grain at this offset of a storage, from this byte of it on.
    Grain(&'a vmdk::sparse::Sparse, &'a Storage, u64, u64),
    /// Not in this layer: in the backing file, or zero without one.
    Unallocated,
}

/// A range that is mapped in one way; its length is at least 1.
pub(crate) struct Extent<'a> {
    pub(crate) mapping: Mapping<'a>,
    pub(crate) len: u64,
}

/// Zeroes are written in pieces of this size.
const ZEROES: u64 = 1 << 20;

/// Writes zeroes as data.
pub(crate) async fn write_zeroes(storage: &Storage, offset: u64, len: u64) -> Result<()> {
    let mut done = 0;
    while done < len {
        let n = ZEROES.min(len - done);
        let mut zeroes = Gather::default();
        zeroes.push_zeroes(n);
        storage.write_gather(offset + done, zeroes).await?;
        done += n;
    }
    Ok(())
}
