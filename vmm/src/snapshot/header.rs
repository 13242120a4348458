//! The fixed parts of a container: header and region table. They must never change; a new version
//! gets a new number and this code stays beside it.

use super::SnapshotError;

/// First bytes of every container.
const MAGIC: [u8; 8] = *b"vmstate\0";
/// The version that this build writes, and reads.
pub(super) const VERSION: u32 = 1;
/// Bytes of the header proper.
pub(super) const LENGTH: usize = 96;
/// Bytes of one entry of the region table.
pub(super) const REGION_LENGTH: usize = 32;
/// Where the region table starts.
pub(super) const TABLE_OFFSET: u64 = 4096;
/// x86-64.
const ARCHITECTURE: u32 = 1;
/// RAM in the file starts at multiples of this.
pub(super) const ALIGNMENT: u64 = 2 << 20;
/// More regions than any machine has.
pub(super) const MAX_REGIONS: u32 = 1024;
/// More sections than any machine has.
pub(super) const MAX_SECTIONS: u32 = 1 << 16;
/// More bytes of sections than any machine has.
pub(super) const MAX_SECTION_BYTES: u64 = 1 << 30;

/// The header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sections: u32,
    pub(super) sections_offset: u64,
    pub(super) sections_length: u64,
    pub(super) regions: u32,
    pub(super) file_length: u64,
    /// The version of the program that wrote it, at most 24 bytes; for messages only.
    pub(super) creator: String,
}

/// Where a span of RAM lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Guest physical address.
    pub(super) start: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Offset in the file.
    pub(super) offset: u64,
}

/// Writes little-endian fields one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
    /// Ends with the checksum of everything before it.
    fn sealed(mut self) -> Vec<u8> {
        self.u32(crc32c::crc32c(&self.0));
        self.0
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    four.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    eight.map_or(0, u64::from_le_bytes)
}

/// Whether the last four bytes are the checksum of those before.
fn is_sealed(bytes: &[u8]) -> bool {
    let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
        return false;
    };
    crc32c::crc32c(body) == u32::from_le_bytes(*sum)
}

impl Header {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.bytes(&MAGIC);
        fields.u32(VERSION);
        fields.u32(96);
        fields.u32(ARCHITECTURE);
        fields.u32(self.sections);
        fields.u64(self.sections_offset);
        fields.u64(self.sections_length);
        fields.u64(TABLE_OFFSET);
        fields.u32(self.regions);
        fields.u32(2 << 20);
        fields.u64(self.file_length);
        let mut creator = [0; 24];
        for (slot, byte) in creator.iter_mut().zip(self.creator.bytes()) {
            *slot = byte;
        }
        fields.bytes(&creator);
        fields.u32(0);
        fields.sealed()
    }

    /// Parses the first [`LENGTH`] bytes of a file of `file_length` bytes.
    pub(super) fn parse(bytes: &[u8], file_length: u64) -> Result<Self, SnapshotError> {
        let not = |text: &str| Err(SnapshotError::NotAContainer(text.into()));
        if bytes.len() < LENGTH || bytes.iter().all(|byte| *byte == 0) {
            return not("it holds no saved state: saving was not finished, or never started");
        }
        if !bytes.starts_with(&MAGIC) {
            return not("it is not a file with saved state");
        }
        let found = u32_at(bytes, 8);
        if found != VERSION {
            return Err(SnapshotError::Version {
                found,
                known: VERSION,
            });
        }
        let damaged = |text: String| Err(SnapshotError::Damaged(text));
        if !is_sealed(bytes.get(..LENGTH).unwrap_or_default()) {
            return damaged("the checksum of the header is wrong".into());
        }
        if u32_at(bytes, 16) != ARCHITECTURE {
            return damaged(format!("architecture {} is not x86-64", u32_at(bytes, 16)));
        }
        let creator = bytes.get(64..88).unwrap_or_default();
        let creator = creator.iter().take_while(|byte| **byte != 0);
        let header = Self {
            sections: u32_at(bytes, 20),
            sections_offset: u64_at(bytes, 24),
            sections_length: u64_at(bytes, 32),
            regions: u32_at(bytes, 48),
            file_length: u64_at(bytes, 56),
            creator: creator.map(|byte| char::from(*byte)).collect(),
        };
        header.check(u64_at(bytes, 40), file_length)?;
        Ok(header)
    }

    fn check(&self, table_offset: u64, file_length: u64) -> Result<(), SnapshotError> {
        let end = self.sections_offset.checked_add(self.sections_length);
        let good = table_offset == TABLE_OFFSET
            && self.regions <= MAX_REGIONS
            && self.sections <= MAX_SECTIONS
            && self.sections_length <= MAX_SECTION_BYTES
            && end.is_some_and(|end| end <= self.file_length);
        if !good {
            return Err(SnapshotError::Damaged(
                "the header names parts that cannot be".into(),
            ));
        }
        if self.file_length > file_length {
            return Err(SnapshotError::Damaged(format!(
                "the file has {file_length} bytes, its header says {}",
                self.file_length
            )));
        }
        Ok(())
    }
}

impl Region {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut fields = Fields::default();
        fields.u64(self.start);
        fields.u64(self.length);
        fields.u64(self.offset);
        fields.u32(0);
        fields.sealed()
    }

    pub(super) fn parse(bytes: &[u8], header: &Header) -> Result<Self, SnapshotError> {
        let region = Self {
            start: u64_at(bytes, 0),
            length: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
        };
        let end = region.offset.checked_add(region.length);
        let inside = end.is_some_and(|end| end <= header.file_length);
        let good = bytes.len() == REGION_LENGTH
            && is_sealed(bytes)
            && region.offset.is_multiple_of(ALIGNMENT)
            && region.start.checked_add(region.length).is_some()
            && inside;
        if good {
            Ok(region)
        } else {
            let text = format!("an entry of the region table is wrong: {region:x?}");
            Err(SnapshotError::Damaged(text))
        }
    }
}
