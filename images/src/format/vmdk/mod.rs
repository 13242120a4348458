//! vmdk, to be read only: disks that come from elsewhere.
//!
//! | file         | what                                                             |
//! |--------------|------------------------------------------------------------------|
//! | `descriptor` | the text that says what a disk is made of, as a pure function    |
//! | `sparse`     | a file of grains: header, directory, tables, compressed grains   |
//!
//! A disk is one sparse file with its descriptor inside (monolithicSparse, streamOptimized), or a
//! descriptor that names files. Those are asked from the caller's gate like everything that an image
//! names. Nothing is ever written.
pub(crate) mod descriptor;
pub(crate) mod sparse;

use super::{Extent, Mapping};
use crate::error::{Error, Result};
use crate::storage::Storage;
use descriptor::{Descriptor, Kind, Line};
use sparse::{Header, Kept, Place, Sparse};
use std::sync::Arc;

/// The first bytes of a file of grains.
pub(crate) const MAGIC: &[u8; 4] = b"KDMV";
/// The first bytes of a descriptor by itself.
pub(crate) const TEXT: &[u8] = b"# Disk DescriptorFile";
/// Longest descriptor, in bytes.
const MAX_DESCRIPTOR: u64 = 64 << 10;
const SECTOR: u64 = 512;

/// Finds the file of a part that a descriptor names.
pub(crate) type Opener<'a> = &'a mut dyn FnMut(&Line) -> Result<Storage>;

/// The error of everything that would change such a disk.
pub(crate) fn read_only() -> Error {
    Error::unsupported(
        "writing vmdk",
        "vmdk disks can only be read: convert it to qcow2 or raw first",
    )
}

enum Body {
    Zero,
    /// In a file (by number), from an offset on.
    Flat(usize, u64),
    Grains(usize, Box<Sparse>),
}

struct Part {
    /// Where it begins and ends in the disk, in bytes.
    start: u64,
    end: u64,
    body: Body,
}

/// A disk.
pub(crate) struct Vmdk {
    /// The file that was opened, then those that it names.
    pub(crate) files: Vec<Storage>,
    parts: Vec<Part>,
    kept: Arc<Kept>,
}

/// What the first file says, without looking at others.
pub(crate) struct Front {
    pub(crate) descriptor: Descriptor,
    /// The header, of a file of grains.
    pub(crate) header: Option<Header>,
}

impl Front {
    /// Reads the descriptor by itself or inside a file of grains.
    ///
    /// # Errors
    /// What is wrong with either; a disk that nobody supports.
    pub(crate) fn read(storage: &Storage) -> Result<Front> {
        let len = storage.len()?;
        let start = storage.read_sync(0, TEXT.len())?;
        if start.starts_with(MAGIC) {
            let header = sparse::read_header(storage)?;
            let (at, size) = header.descriptor;
            let descriptor = if at == 0 || size == 0 {
                Descriptor::default()
            } else {
                let bytes = storage.read_sync(at, size.min(MAX_DESCRIPTOR) as usize)?;
                Descriptor::parse(&bytes)?
            };
            let header = Some(header);
            return Ok(Front { descriptor, header });
        }
        if !start.starts_with(TEXT) {
            return Err(Error::corrupt(
                "neither a vmdk descriptor nor a file of grains (KDMV)",
            ));
        }
        if len > MAX_DESCRIPTOR {
            return Err(Error::corrupt(format!("a vmdk descriptor of {len} bytes")));
        }
        let descriptor = Descriptor::parse(&storage.read_sync(0, len as usize)?)?;
        if descriptor.lines.is_empty() {
            return Err(Error::corrupt(
                "the vmdk descriptor names no part of the disk",
            ));
        }
        Ok(Front {
            descriptor,
            header: None,
        })
    }

    /// Size of the disk in bytes.
    ///
    /// # Errors
    /// More than a disk can have.
    pub(crate) fn size(&self) -> Result<u64> {
        if let Some(header) = &self.header {
            return Ok(header.capacity);
        }
        let mut sectors = self.descriptor.lines.iter().map(|line| line.sectors);
        sectors
            .try_fold(0u64, u64::checked_add)
            .and_then(|sectors| sectors.checked_mul(SECTOR))
            .filter(|&size| size < 1 << 62)
            .ok_or_else(|| Error::corrupt("the vmdk descriptor: a disk beyond all sizes"))
    }
}

impl Vmdk {
    /// Opens a disk with the files that it names.
    ///
    /// # Errors
    /// What is wrong with the disk; what the opener refuses.
    pub(crate) fn open(storage: Storage, opener: Opener<'_>) -> Result<Vmdk> {
        let front = Front::read(&storage)?;
        let size = front.size()?;
        let mut disk = Vmdk {
            files: vec![storage],
            parts: Vec::new(),
            kept: Arc::default(),
        };
        if let Some(header) = front.header {
            let [own] = disk.files.as_slice() else {
                return Err(Error::corrupt("a vmdk without a file"));
            };
            let body = Body::Grains(0, Box::new(Sparse::open(own, header, 0, &disk.kept)?));
            disk.add(size, body);
            return Ok(disk);
        }
        for line in &front.descriptor.lines {
            let body = disk.body(line, opener)?;
            disk.add(line.sectors * SECTOR, body);
        }
        Ok(disk)
    }

    fn add(&mut self, len: u64, body: Body) {
        let start = self.size();
        let end = start + len;
        self.parts.push(Part { start, end, body });
    }

    fn body(&mut self, line: &Line, opener: Opener<'_>) -> Result<Body> {
        if line.kind == Kind::Zero {
            return Ok(Body::Zero);
        }
        let storage = opener(line)?;
        let number = self.files.len();
        let body = if line.kind == Kind::Flat {
            let offset = line.offset.checked_mul(SECTOR).filter(|&at| at < 1 << 62);
            let offset = offset.ok_or_else(|| {
                Error::corrupt(format!(
                    "{}: no part can begin at sector {}",
                    line.file, line.offset
                ))
            })?;
            Body::Flat(number, offset)
        } else {
            let header = sparse::read_header(&storage).map_err(|e| e.context(&line.file))?;
            if header.capacity < line.sectors * SECTOR {
                return Err(Error::corrupt(format!(
                    "{} has {} bytes, but the descriptor says {} sectors",
                    line.file, header.capacity, line.sectors
                )));
            }
            let grains = Sparse::open(&storage, header, number, &self.kept);
            let grains = grains.map_err(|e| e.context(&line.file))?;
            Body::Grains(number, Box::new(grains))
        };
        self.files.push(storage);
        Ok(body)
    }

    /// Virtual size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.end)
    }

    /// Where `offset` is; `len` bounds the answer and is not zero.
    ///
    /// # Errors
    /// A mapping that cannot be; a failed read of metadata.
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Extent<'_>> {
        let number = self.parts.partition_point(|part| part.end <= offset);
        let Some(part) = self.parts.get(number) else {
            let mapping = Mapping::Zero;
            return Ok(Extent { mapping, len });
        };
        let (within, len) = (offset - part.start, len.min(part.end - offset));
        let file = |number: usize| {
            let file = self.files.get(number);
            file.ok_or_else(|| Error::corrupt("a part of the vmdk without a file"))
        };
        let (mapping, len) = match &part.body {
            Body::Zero => (Mapping::Zero, len),
            Body::Flat(number, at) => (Mapping::Data(file(*number)?, at + within), len),
            Body::Grains(number, grains) => {
                let storage = file(*number)?;
                let (place, n) = grains.map(storage, within, len).await?;
                let mapping = match place {
                    Place::Unallocated => Mapping::Unallocated,
                    Place::Zero => Mapping::Zero,
                    Place::Data(at) => Mapping::Data(storage, at),
                    Place::Packed(at, within) => Mapping::Grain(grains, storage, at, within),
                };
                (mapping, n)
            }
        };
        Ok(Extent { mapping, len })
    }
}
