//! Where the data of an image is, as far as metadata and the file system tell.
use serde::Serialize;

use crate::error::Result;
use crate::format::Mapping;
use crate::image::Image;
use crate::node::{Kind, Node};
use crate::storage::Storage;

/// A range of the virtual disk; the JSON has the names that qemu-img uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MapEntry {
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// In which layer it is; 0 is the image itself.
    pub depth: usize,
    /// False if no layer has it.
    pub present: bool,
    /// True if it reads as zeroes.
    pub zero: bool,
    /// True if it is stored as data.
    pub data: bool,
    /// True if it is stored compressed.
    pub compressed: bool,
    /// Where it is in the layer's file, if it is there as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Maps what [`access`](crate::access) would read from `start` to `end`, in bytes, without reading
/// it.
///
/// # Errors
/// A mapping that cannot be; a failed read of metadata.
pub async fn map(
    image: &Image,
    (start, end): (u64, u64),
    mut each: impl FnMut(&MapEntry),
) -> Result<()> {
    let size = image.virtual_size().min(end);
    let mut pending: Option<MapEntry> = None;
    let mut at = start;
    while at < size {
        let entry = status(&image.chain(), at, size - at).await?;
        at += entry.length.max(1);
        match &mut pending {
            Some(last) if continues(last, &entry) => last.length += entry.length,
            _ => {
                if let Some(done) = pending.replace(entry) {
                    each(&done);
                }
            }
        }
    }
    if let Some(last) = pending {
        each(&last);
    }
    Ok(())
}

fn continues(last: &MapEntry, next: &MapEntry) -> bool {
    let place = match (last.offset, next.offset) {
        (Some(a), Some(b)) => a + last.length == b,
        (None, None) => true,
        _ => false,
    };
    let same = |e: &MapEntry| (e.depth, e.present, e.zero, e.data, e.compressed);
    place && same(last) == same(next)
}

/// The first range at `offset`, at most `len` bytes.
pub(crate) async fn status(chain: &[Node], offset: u64, len: u64) -> Result<MapEntry> {
    let mut len = len;
    let entry = |length: u64, depth: usize, zero: bool, at: Option<u64>| MapEntry {
        start: offset,
        length,
        depth,
        present: true,
        zero,
        data: !zero,
        compressed: false,
        offset: at,
    };
    for (depth, node) in chain.iter().enumerate() {
        let size = node.size();
        if size <= offset {
            // Shorter than the layers above: nobody has what is behind its end.
            break;
        }
        len = len.min(size - offset);
        let extent = node.map(offset, len).await?;
        let n = extent.len.min(len);
        match extent.mapping {
            Mapping::Zero => return Ok(entry(n, depth, true, None)),
            Mapping::Compressed(..) | Mapping::Grain(..) => {
                return Ok(MapEntry {
                    compressed: true,
                    ..entry(n, depth, false, None)
                });
            }
            Mapping::Data(storage, at) => {
                let (data, n) = data_extent(node, storage, at, n);
                return Ok(entry(n, depth, !data, Some(at)));
            }
            Mapping::Unallocated => len = n,
        }
    }
    Ok(MapEntry {
        present: false,
        ..entry(len, 0, true, None)
    })
}

/// A hole of the file reads as zeroes.
fn data_extent(node: &Node, storage: &Storage, at: u64, len: u64) -> (bool, u64) {
    let extent = storage.extent(at, len);
    match (&node.kind, extent) {
        // Holes at the end of a mapped range are common and cheap to ask for; of a qcow2 layer
        // only whole answers are used, so that ranges stay as the mapping has them.
        (Kind::Qcow2(_), (false, n)) if n < len => (true, len),
        (Kind::Qcow2(_), (true, _)) => (true, len),
        (_, extent) => extent,
    }
}
