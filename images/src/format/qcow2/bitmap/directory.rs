//! The bitmap directory: pure functions between bytes and entries.
//!
//! Source: the qcow2 specification, sections "Bitmaps extension" and "Bitmaps".
use crate::error::{Error, Result};
use crate::format::qcow2::header::{be16, be32, be64};

/// Flags of an entry.
pub(crate) mod flag {
    /// Not stored properly: somebody is using it, or had no chance to store it.
    pub(crate) const IN_USE: u32 = 1;
    /// Records all writes.
    pub(crate) const AUTO: u32 = 1 << 1;
    /// May be used although its extra data is not known.
    pub(crate) const EXTRA_COMPATIBLE: u32 = 1 << 2;
    pub(super) const KNOWN: u32 = IN_USE | AUTO | EXTRA_COMPATIBLE;
}

const MAX_BITMAPS: u32 = 65535;
const MAX_DIRECTORY: u64 = 64 << 20;
const MAX_NAME: usize = 1023;
const MAX_EXTRA: u32 = 1 << 16;
const ENTRY_LEN: usize = 24;
/// The only type there is: dirty tracking.
const DIRTY_TRACKING: u8 = 1;
/// Bytes of the header extension.
const EXTENSION_LEN: usize = 24;

/// Where the directory is, as the header extension says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) count: u32,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

impl Place {
    /// Reads the extension.
    ///
    /// # Errors
    /// A directory that cannot be where, or as long as, it is said to be.
    pub(crate) fn parse(extension: &[u8], cluster: u64, file_len: u64) -> Result<Place> {
        let bad = |what: &str| Err(Error::corrupt(format!("the bitmaps extension: {what}")));
        if extension.len() != EXTENSION_LEN || be32(extension, 4) != 0 {
            return bad("a shape that is not known");
        }
        let place = Place {
            count: be32(extension, 0),
            size: be64(extension, 8),
            offset: be64(extension, 16),
        };
        if place.count == 0 || place.count > MAX_BITMAPS {
            return bad(&format!("{} bitmaps cannot be", place.count));
        }
        if place.size == 0 || place.size > MAX_DIRECTORY {
            return bad(&format!("a directory of {} bytes cannot be", place.size));
        }
        let end = place.offset.checked_add(place.size);
        let inside = end.is_some_and(|end| end <= file_len.next_multiple_of(cluster));
        if place.offset == 0 || !place.offset.is_multiple_of(cluster) || !inside {
            return bad(&format!("no directory can be at {}", place.offset));
        }
        Ok(place)
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = self.count.to_be_bytes().to_vec();
        out.extend([0; 4]);
        out.extend(self.size.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out
    }
}

/// One bitmap of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) table_offset: u64,
    /// Entries of the table.
    pub(crate) table_len: u32,
    pub(crate) flags: u32,
    kind: u8,
    pub(crate) granularity_bits: u8,
    extra: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

impl Entry {
    /// An entry of a bitmap that is not stored yet.
    pub(crate) fn new(name: &str, granularity_bits: u32) -> Entry {
        Entry {
            kind: DIRTY_TRACKING,
            granularity_bits: granularity_bits as u8,
            name: name.as_bytes().to_vec(),
            ..Entry::default()
        }
    }

    /// The name for people.
    pub(crate) fn name_text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// True if its bits may be used: it was stored properly and nothing of it is unknown.
    pub(crate) fn is_usable(&self) -> bool {
        let extra = self.extra.is_empty() || self.flags & flag::EXTRA_COMPATIBLE != 0;
        let known = self.flags & !flag::KNOWN == 0 && self.kind == DIRTY_TRACKING;
        let name = std::str::from_utf8(&self.name).is_ok_and(|n| !n.is_empty());
        let granularity = (9..=31).contains(&self.granularity_bits);
        self.flags & flag::IN_USE == 0 && extra && known && name && granularity
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.table_offset.to_be_bytes().to_vec();
        out.extend(self.table_len.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend([self.kind, self.granularity_bits]);
        out.extend((self.name.len() as u16).to_be_bytes());
        out.extend((self.extra.len() as u32).to_be_bytes());
        out.extend(&self.extra);
        out.extend(&self.name);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }
}

/// The bytes of a directory.
pub(crate) fn to_bytes(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(Entry::to_bytes).collect()
}

/// Reads a directory of `count` entries.
///
/// # Errors
/// An entry that reaches over the end, or cannot be.
pub(crate) fn parse(bytes: &[u8], count: u32) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    for n in 0..count {
        let (entry, len) =
            parse_entry(rest).map_err(|e| e.context(format_args!("bitmap {n} of {count}")))?;
        rest = rest.get(len..).unwrap_or_default();
        entries.push(entry);
    }
    Ok(entries)
}

fn parse_entry(bytes: &[u8]) -> Result<(Entry, usize)> {
    let short = || Error::corrupt("the bitmap directory ends too early");
    let head = bytes.get(..ENTRY_LEN).ok_or_else(short)?;
    let (name_len, extra_len) = (usize::from(be16(head, 18)), be32(head, 20));
    if name_len > MAX_NAME || extra_len > MAX_EXTRA {
        return Err(Error::corrupt(format!(
            "a bitmap with a name of {name_len} bytes and {extra_len} bytes of extra data cannot be"
        )));
    }
    let name_at = ENTRY_LEN + extra_len as usize;
    let end = name_at + name_len;
    let kinds = head.get(16..18).unwrap_or_default();
    let entry = Entry {
        table_offset: be64(head, 0),
        table_len: be32(head, 8),
        flags: be32(head, 12),
        kind: kinds.first().copied().unwrap_or(0),
        granularity_bits: kinds.get(1).copied().unwrap_or(0),
        extra: bytes.get(ENTRY_LEN..name_at).ok_or_else(short)?.to_vec(),
        name: bytes.get(name_at..end).ok_or_else(short)?.to_vec(),
    };
    Ok((entry, end.next_multiple_of(8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn directories_read_back(names in proptest::collection::vec("[a-z]{1,30}", 1..6),
                                 bits in 9u32..32, offset in 0u64..1 << 40) {
            let entries: Vec<Entry> = names.iter().map(|n| Entry {
                table_offset: offset,
                extra: vec![1; n.len() % 3],
                ..Entry::new(n, bits)
            }).collect();
            let bytes = to_bytes(&entries);
            prop_assert_eq!(parse(&bytes, entries.len() as u32).unwrap(), entries);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..9) {
            let _ = parse(&bytes, count);
            let _ = Place::parse(&bytes, 65536, 1 << 30);
        }
    }
}
