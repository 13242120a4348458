//! A file of grains: a directory points at tables, and these at grains, which may be compressed.
//!
//! Source: VMware, "Virtual Disk Format 5.0", hosted sparse extents and stream-optimized ones.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::sync::lock;

const SECTOR: u64 = 512;
/// The directory is behind the data, named by a footer: what a writer of a stream cannot know before.
const AT_END: u64 = u64::MAX;
/// Grain tables of a disk that are kept, of at most 2 KiB each.
const KEPT: usize = 512;
/// Most bytes of all grain directories of a disk: 64 TiB of usual grains.
const MAX_DIRECTORY: u64 = 8 << 20;

/// Bits of the header's flags.
mod flag {
    pub(super) const ZEROED: u32 = 1 << 2;
    pub(super) const COMPRESSED: u32 = 1 << 16;
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    field.map_or(0, u64::from_le_bytes)
}

/// The header of such a file. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) capacity: u64,
    pub(crate) grain: u64,
    /// Where the descriptor is, and its length; 0 for none.
    pub(crate) descriptor: (u64, u64),
    entries: u64,
    directory: u64,
    flags: u32,
}

impl Header {
    /// Reads and checks a header.
    ///
    /// # Errors
    /// The field that cannot be, or is not supported.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header> {
        let bad = |what: String| Err(Error::corrupt(format!("the vmdk header: {what}")));
        if !bytes.starts_with(super::MAGIC) {
            return bad("no KDMV magic".into());
        }
        let (version, flags) = (le32(bytes, 4), le32(bytes, 8));
        if !(1..=3).contains(&version) {
            return Err(Error::unsupported(
                &format!("vmdk version {version}"),
                format!("version {version} is not known (1 to 3 are)"),
            ));
        }
        if flags & 1 != 0 && bytes.get(73..77) != Some(b"\n \r\n") {
            return bad("its line ends were changed, as by a transfer as text".into());
        }
        let algorithm = bytes.get(77..79).unwrap_or_default();
        let compressed = flags & flag::COMPRESSED != 0;
        if compressed && algorithm != [1, 0] {
            return bad(format!("compression {algorithm:?} is not known"));
        }
        let (sectors, grain) = (le64(bytes, 12), le64(bytes, 20));
        if !grain.is_power_of_two() || grain > 4096 {
            return bad(format!("a grain of {grain} sectors"));
        }
        let entries = u64::from(le32(bytes, 44));
        if entries == 0 || entries > 512 {
            return bad(format!("grain tables of {entries} entries"));
        }
        let bytes_of = |sectors: u64| sectors.checked_mul(SECTOR).filter(|&b| b < 1 << 62);
        let place = |field: usize| bytes_of(le64(bytes, field));
        let (Some(capacity), Some(offset), Some(len)) = (bytes_of(sectors), place(28), place(36))
        else {
            return bad("sizes beyond what a file has".into());
        };
        let directory = match le64(bytes, 56) {
            AT_END => AT_END,
            sectors => match bytes_of(sectors) {
                Some(at) if at > 0 => at,
                _ => return bad(format!("no grain directory can be at sector {sectors}")),
            },
        };
        Ok(Header {
            capacity,
            grain: grain * SECTOR,
            descriptor: (offset, len),
            entries,
            directory,
            flags,
        })
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & flag::COMPRESSED != 0
    }
}

/// Reads the header of a file, and the footer if the header says so.
///
/// # Errors
/// As [`Header::parse`]; a failed read.
pub(crate) fn read_header(storage: &Storage) -> Result<Header> {
    let header = Header::parse(&storage.read_sync(0, SECTOR as usize)?)?;
    if header.directory != AT_END {
        return Ok(header);
    }
    let Some(at) = storage.len()?.checked_sub(2 * SECTOR) else {
        return Err(Error::corrupt("the vmdk file ends before its footer"));
    };
    let footer = Header::parse(&storage.read_sync(at, SECTOR as usize)?);
    let footer = footer.map_err(|e| e.context("the footer of the stream"))?;
    if footer.directory == AT_END {
        return Err(Error::corrupt(
            "the vmdk footer does not say where the grain directory is",
        ));
    }
    Ok(Header {
        descriptor: header.descriptor,
        ..footer
    })
}

/// Where a part of the disk is.
pub(crate) enum Place {
    Unallocated,
    Zero,
    /// At this offset of the file.
    Data(u64),
    /// In the compressed grain at this offset, from this byte of it on.
    Packed(u64, u64),
}

/// Places of grains.
type Table = Arc<Vec<u32>>;
/// The bytes of one.
type Grain = Arc<Vec<u8>>;

/// What is kept of all files of a disk, however many they are.
#[derive(Default)]
pub(crate) struct Kept {
    /// Bytes of grain directories.
    directories: AtomicU64,
    /// Grain tables, by the number of their file and their own.
    tables: Mutex<HashMap<(usize, usize), Table>>,
    /// What was unpacked last, with its file and place: a sequential reader comes back to it.
    unpacked: Mutex<Option<(usize, u64, Grain)>>,
}

/// The grains of one file.
pub(crate) struct Sparse {
    header: Header,
    directory: Vec<u32>,
    file_len: u64,
    /// Its number among the files of the disk.
    number: usize,
    kept: Arc<Kept>,
}

impl Sparse {
    /// Reads the directory of file `number` of a disk.
    ///
    /// # Errors
    /// A directory that is too large, alone or with the others of the disk, or outside of the file; a
    /// failed read.
    pub(crate) fn open(
        storage: &Storage,
        header: Header,
        number: usize,
        kept: &Arc<Kept>,
    ) -> Result<Sparse> {
        let file_len = storage.len()?;
        let span = header.grain * header.entries;
        let len = header.capacity.div_ceil(span) * 4;
        let end = header.directory.checked_add(len);
        if len > MAX_DIRECTORY || end.is_none_or(|end| end > file_len) {
            return Err(Error::corrupt(format!(
                "no grain directory of {len} bytes can be at offset {}",
                header.directory
            )));
        }
        let all = kept.directories.fetch_add(len, Ordering::Relaxed) + len;
        if all > MAX_DIRECTORY {
            return Err(Error::corrupt(format!(
                "the grain directories of the disk have more than {MAX_DIRECTORY} bytes together"
            )));
        }
        let bytes = storage.read_sync(header.directory, len as usize)?;
        Ok(Sparse {
            directory: (0..len as usize / 4).map(|i| le32(&bytes, i * 4)).collect(),
            header,
            file_len,
            number,
            kept: Arc::clone(kept),
        })
    }

    /// Where `offset` is, and for how many bytes, at most `len`.
    ///
    /// # Errors
    /// A table or a grain outside of the file; a failed read.
    pub(crate) async fn map(
        &self,
        storage: &Storage,
        offset: u64,
        len: u64,
    ) -> Result<(Place, u64)> {
        let h = &self.header;
        let (number, within) = (offset / h.grain, offset % h.grain);
        let table = (number / h.entries) as usize;
        let rest = (h.entries - number % h.entries) * h.grain - within;
        let len = len.min(rest);
        let Some(entries) = self.table(storage, table).await? else {
            return Ok((Place::Unallocated, len));
        };
        let index = (number % h.entries) as usize;
        let entry = entries.get(index).copied().unwrap_or(0);
        let place = match entry {
            0 => Place::Unallocated,
            1 if h.flags & flag::ZEROED != 0 => Place::Zero,
            sector => {
                let at = u64::from(sector) * SECTOR;
                if at >= self.file_len {
                    return Err(Error::corrupt(format!(
                        "a grain at offset {at} is behind the end of the file"
                    )));
                }
                match h.is_compressed() {
                    true => return Ok((Place::Packed(at, within), len.min(h.grain - within))),
                    false => Place::Data(at + within),
                }
            }
        };
        // Grains that go on in the same way are one answer.
        let step = match place {
            Place::Data(_) => h.grain / SECTOR,
            _ => 0,
        };
        let mut n = h.grain - within;
        let following = entries.get(index + 1..).unwrap_or_default();
        for (i, &next) in (1u64..).zip(following) {
            if n >= len || u64::from(next) != u64::from(entry) + i * step {
                break;
            }
            n += h.grain;
        }
        Ok((place, n.min(len)))
    }

    async fn table(&self, storage: &Storage, index: usize) -> Result<Option<Arc<Vec<u32>>>> {
        let at = u64::from(self.directory.get(index).copied().unwrap_or(0)) * SECTOR;
        if at == 0 {
            return Ok(None);
        }
        let place = (self.number, index);
        if let Some(table) = lock(&self.kept.tables).get(&place) {
            return Ok(Some(table.clone()));
        }
        let len = self.header.entries * 4;
        if at + len > self.file_len {
            return Err(Error::corrupt(format!(
                "a grain table at offset {at} is behind the end of the file"
            )));
        }
        let bytes = storage.read_owned(at, len).await?;
        let entries = (0..self.header.entries as usize).map(|i| le32(&bytes, i * 4));
        let table = Arc::new(entries.collect::<Vec<_>>());
        let mut tables = lock(&self.kept.tables);
        if tables.len() >= KEPT {
            tables.clear();
        }
        tables.insert(place, table.clone());
        Ok(Some(table))
    }

    /// Unpacks the compressed grain at an offset of the file.
    ///
    /// # Errors
    /// A length that cannot be, data that is no deflate stream; a failed read.
    pub(crate) async fn unpack(&self, storage: &Storage, at: u64) -> Result<Arc<Vec<u8>>> {
        let unpacked = &self.kept.unpacked;
        if let Some((number, place, bytes)) = lock(unpacked).as_ref()
            && (*number, *place) == (self.number, at)
        {
            return Ok(bytes.clone());
        }
        // The grain's first sector, 64 bits, and the length of what follows.
        let marker = storage.read_owned(at, 12).await?;
        let len = u64::from(le32(&marker, 8));
        let most = self.header.grain * 2 + 4096;
        if len == 0 || len > most || at + 12 + len > self.file_len {
            return Err(Error::corrupt(format!(
                "a compressed grain of {len} bytes cannot be at offset {at}"
            )));
        }
        let packed = storage.read_owned(at + 12, len).await?;
        let mut out = vec![0; self.header.grain as usize];
        libdeflater::Decompressor::new()
            .zlib_decompress(&packed, &mut out)
            .map_err(|e| Error::corrupt(format!("compressed grain at offset {at}: {e}")))?;
        let bytes = Arc::new(out);
        *lock(unpacked) = Some((self.number, at, bytes.clone()));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// A header of a file whose directory has so many bytes, behind the first sector.
    fn header(directory: u64) -> Header {
        let mut bytes = [0; 512];
        bytes[..4].copy_from_slice(super::super::MAGIC);
        let mut put =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(4, 1);
        let (grain, entries) = (128, 512);
        put(12, directory / 4 * entries * grain);
        put(20, grain);
        put(44, entries);
        put(56, 1);
        Header::parse(&bytes).unwrap()
    }

    #[test]
    fn directories_of_all_parts_together_are_bounded() {
        let half = MAX_DIRECTORY / 2;
        let memory = MemoryStorage::new();
        memory.apply(&crate::storage::Event::Write(half + 512, vec![0]));
        let storage = Storage::from(memory);
        let kept = Arc::default();
        for number in 0..2 {
            assert!(Sparse::open(&storage, header(half), number, &kept).is_ok());
        }
        let error = Sparse::open(&storage, header(4), 2, &kept).err().unwrap();
        assert!(error.to_string().contains("together"), "{error}");
        assert!(Sparse::open(&storage, header(4), 0, &Arc::default()).is_ok());
    }
}
