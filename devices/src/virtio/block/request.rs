//! Parsing a block request (virtio 1.3 §5.2.6): bytes in, a typed operation or a status out.
//!
//! A request is a 16-byte header and data to write, then room for data to read and a status byte.
//! Where descriptors are cut does not matter. Everything here is guest input: every function is
//! total, allocates at most [`MAX_SEGMENTS`] entries, and never looks at guest memory.

/// Unit of every sector number, in bytes.
pub const SECTOR: u64 = 512;
/// Bytes of the header.
pub const HEADER: usize = 16;
/// Bytes of one range of a discard or write-zeroes request.
pub const SEGMENT: usize = 16;
/// Ranges that one such request may have.
pub const MAX_SEGMENTS: usize = 16;
/// Sectors that one range may have: it ends in bounded time.
pub const MAX_RANGE_SECTORS: u32 = 4_194_303;
/// Bytes that one request may move.
pub const MAX_TRANSFER: u64 = 64 << 20;
/// Bytes of a serial.
pub const ID_LENGTH: usize = 20;

/// Status bytes.
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// It failed, or makes no sense.
    pub const IOERR: u8 = 1;
    /// The device has no such request.
    pub const UNSUPP: u8 = 2;
}

mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Flag of a write-zeroes range: its space may be given back.
const FLAG_UNMAP: u32 = 1;

/// What the disk allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the disk, a multiple of [`SECTOR`].
    pub capacity: u64,
    /// The guest may not write.
    pub read_only: bool,
    /// Discards were offered.
    pub discard: bool,
}

/// A request's outer shape.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes that the device may read: header and data.
    pub readable: u64,
    /// Bytes that the device may write: data and status.
    pub writable: u64,
}

/// A range in bytes, inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub len: u64,
    /// Its space may be given back.
    pub unmap: bool,
}

/// What the guest asks for; every range lies inside the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Read into the writable bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// Write what follows the header.
    Write {
        /// First byte.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// Make completed writes durable.
    Flush,
    /// Tell the serial.
    GetId,
    /// Forget the content of ranges.
    Discard(Vec<Range>),
    /// Zero ranges.
    WriteZeroes(Vec<Range>),
}

/// A request that is answered without the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such request, or no such flag.
    #[error("not supported")]
    Unsupported,
    /// It makes no sense.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Refusal {
    /// The status byte for it.
    pub fn status(self) -> u8 {
        match self {
            Self::Unsupported => status::UNSUPP,
            Self::Malformed(_) => status::IOERR,
        }
    }
}

/// How many bytes of ranges follow the header of a request with this shape; what is to be read
/// before [`parse`].
pub fn segment_bytes(shape: Shape) -> usize {
    let data = shape.readable.saturating_sub(HEADER as u64);
    // At most MAX_SEGMENTS * SEGMENT: a usize.
    data.min((MAX_SEGMENTS * SEGMENT) as u64) as usize
}

/// Parses a request from its readable bytes: the header and, for requests with ranges, what follows
/// ([`segment_bytes`] of it).
///
/// # Errors
/// [`Refusal`], with the status for the guest.
pub fn parse(bytes: &[u8], shape: Shape, limits: Limits) -> Result<Operation, Refusal> {
    let Some((header, segments)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(Refusal::Malformed("the header is cut short"));
    };
    let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = *header;
    let sector = u64::from_le_bytes(sector);
    let data_out = shape.readable.saturating_sub(HEADER as u64);
    let data_in = shape.writable.saturating_sub(1);
    match u32::from_le_bytes([k0, k1, k2, k3]) {
        kind::IN => {
            let (offset, len) = transfer(sector, data_in, limits)?;
            Ok(Operation::Read { offset, len })
        }
        kind::OUT => {
            writable(limits)?;
            let (offset, len) = transfer(sector, data_out, limits)?;
            Ok(Operation::Write { offset, len })
        }
        kind::FLUSH => Ok(Operation::Flush),
        kind::GET_ID => Ok(Operation::GetId),
        kind::DISCARD if limits.discard => {
            writable(limits)?;
            ranges(segments, data_out, limits, 0).map(Operation::Discard)
        }
        kind::WRITE_ZEROES => {
            writable(limits)?;
            ranges(segments, data_out, limits, FLAG_UNMAP).map(Operation::WriteZeroes)
        }
        _ => Err(Refusal::Unsupported),
    }
}

fn writable(limits: Limits) -> Result<(), Refusal> {
    if limits.read_only {
        return Err(Refusal::Malformed("the disk is read-only"));
    }
    Ok(())
}

/// Offset and length of a transfer of `len` bytes at `sector`.
fn transfer(sector: u64, len: u64, limits: Limits) -> Result<(u64, u64), Refusal> {
    if !len.is_multiple_of(SECTOR) {
        return Err(Refusal::Malformed("the data is no whole number of sectors"));
    }
    if len > MAX_TRANSFER {
        return Err(Refusal::Malformed("the data is larger than 64 MiB"));
    }
    Ok((inside(sector, len, limits)?, len))
}

/// The byte offset of `sector`, if `len` bytes from there on are inside the disk.
fn inside(sector: u64, len: u64, limits: Limits) -> Result<u64, Refusal> {
    let outside = Refusal::Malformed("it reaches over the end of the disk");
    let offset = sector.checked_mul(SECTOR).ok_or(outside)?;
    let end = offset.checked_add(len).ok_or(outside)?;
    if end > limits.capacity {
        return Err(outside);
    }
    Ok(offset)
}

/// The ranges of a discard or write-zeroes request with `data` bytes, where `allowed` flags may be
/// set.
fn ranges(bytes: &[u8], data: u64, limits: Limits, allowed: u32) -> Result<Vec<Range>, Refusal> {
    if data == 0 || !data.is_multiple_of(SEGMENT as u64) {
        return Err(Refusal::Malformed("its ranges are cut short"));
    }
    if data > (MAX_SEGMENTS * SEGMENT) as u64 || bytes.len() as u64 != data {
        return Err(Refusal::Malformed("it has too many ranges"));
    }
    let (segments, _) = bytes.as_chunks::<SEGMENT>();
    segments
        .iter()
        .map(|segment| range(segment, limits, allowed))
        .collect()
}

fn range(segment: &[u8; SEGMENT], limits: Limits, allowed: u32) -> Result<Range, Refusal> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = *segment;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    // virtio 1.3 §5.2.6.2: unknown flags, and unmap in a discard, are not supported.
    if flags & !allowed != 0 {
        return Err(Refusal::Unsupported);
    }
    if sectors > MAX_RANGE_SECTORS {
        return Err(Refusal::Malformed("a range is longer than allowed"));
    }
    let len = u64::from(sectors) * SECTOR;
    Ok(Range {
        offset: inside(sector, len, limits)?,
        len,
        unmap: flags & FLAG_UNMAP != 0,
    })
}

#[cfg(test)]
mod tests;
