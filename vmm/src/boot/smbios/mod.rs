//! SMBIOS 3.0 (DMTF DSP0134): what `dmidecode` shows, above all the domain's UUID.
//!
//! ```text
//! 0xf0000  "_SM3_" entry point, 24 bytes
//! 0xf0020  type 0 BIOS, 1 system, 3 chassis, 4 one per socket, 16 memory array,
//!          17 one per memory device, 19 one per RAM span, 32 boot, 127 end
//! ```
//!
//! Texts come from the domain and are cut to what a string may hold; a zero byte ends them. There is
//! no 32-bit `_SM_` entry: what boots by our own loader reads the 64-bit one. Firmware gets the 32-bit one.

mod structures;

use super::acpi::checksum;
use super::{BootBoard, BootError, layout};

/// Where the structures begin, from the entry point.
const STRUCTURES: u64 = 0x20;
/// Longest text that is kept; older readers copy into buffers of this size.
const MAX_TEXT: usize = 64;

/// The entry point and the structures, to be written at [`layout::SMBIOS`].
///
/// # Errors
/// A machine that has no room for its description.
pub(super) fn build(input: &BootBoard<'_>) -> Result<Vec<u8>, BootError> {
    let table = describe(input);
    let len = u32::try_from(table.bytes.len()).unwrap_or(u32::MAX);
    let mut image = b"_SM3_".to_vec();
    image.extend([0, 24, 3, 0, 0, 1, 0]); // checksum, length, version 3.0.0, revision 1, reserved
    image.extend(len.to_le_bytes());
    image.extend((layout::SMBIOS.base + STRUCTURES).to_le_bytes());
    let sum = checksum(&image);
    if let Some(place) = image.get_mut(5) {
        *place = sum;
    }
    image.resize(usize::try_from(STRUCTURES).unwrap_or(32), 0);
    image.extend(table.bytes);
    if image.len() as u64 > layout::SMBIOS.len {
        return Err(BootError::Machine(format!(
            "its SMBIOS tables have {} bytes; there is room for {}",
            image.len(),
            layout::SMBIOS.len
        )));
    }
    Ok(image)
}

/// The entry point in its older form (DSP0134 §5.2.1) without the table's address and without
/// checksums, and the structures: firmware places them, fills that in, and every reader knows this form.
pub(super) fn movable(board: &BootBoard<'_>) -> (Vec<u8>, Vec<u8>) {
    const LENGTH: u8 = 31;
    let table = describe(board);
    let word = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let mut entry = b"_SM_".to_vec();
    entry.extend([0, LENGTH, 2, 8]); // checksum, length, version 2.8
    entry.extend(word(table.longest));
    entry.extend([0; 6]); // revision, formatted area
    entry.extend(b"_DMI_");
    entry.push(0); // checksum of this half
    entry.extend(word(table.bytes.len()));
    entry.extend([0; 4]); // address
    entry.extend(word(table.count));
    entry.push(0x28); // version 2.8
    (entry, table.bytes)
}

fn describe(input: &BootBoard<'_>) -> Table {
    let mut table = Table::default();
    structures::bios(&mut table, input);
    structures::system(&mut table, input);
    structures::chassis(&mut table, input);
    structures::processors(&mut table, input);
    structures::memory(&mut table, input);
    structures::end(&mut table);

    table
}

/// Structures in the making.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: usize,
    /// Bytes of the longest structure with its strings.
    longest: usize,
}

impl Table {
    /// Appends a structure: header, formatted part, strings, and the double zero that ends them.
    fn add(&mut self, kind: u8, handle: u16, parts: &[&[u8]], texts: &Texts) {
        let start = self.bytes.len();
        let formatted: usize = parts.iter().map(|part| part.len()).sum();
        self.bytes.push(kind);
        self.bytes
            .push(u8::try_from(formatted + 4).unwrap_or(u8::MAX));
        self.bytes.extend(handle.to_le_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend(&texts.bytes);
        self.bytes.push(0);
        if texts.bytes.is_empty() {
            self.bytes.push(0);
        }
        self.count += 1;
        self.longest = self.longest.max(self.bytes.len() - start);
    }
}

/// The strings of one structure, which names them by number from 1; 0 is none.
#[derive(Default)]
struct Texts {
    bytes: Vec<u8>,
    count: u8,
}

impl Texts {
    fn add(&mut self, text: &str) -> u8 {
        let text = text.split('\0').next().unwrap_or_default().trim();
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        if text.is_empty() {
            return 0;
        }
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests;
