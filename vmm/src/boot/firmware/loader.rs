//! The script by which firmware places tables that point to each other (QEMU's table loader): commands
//! of 128 bytes each, little-endian, names of files in 56 bytes.

/// Bytes of a command.
const COMMAND: usize = 128;
/// Bytes of a name with its zero.
const NAME: usize = 56;

/// Where a file is placed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zone {
    /// Anywhere in RAM below 4 GiB.
    High = 1,
    /// From 0xf0000 to 1 MiB, where the RSDP is looked for.
    LowRom = 2,
}

/// Commands so far.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<u8>);

impl Script {
    /// Loads `file` to a multiple of `align`. Before anything else is done with it.
    pub(super) fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(1, &[&name(file), &align.to_le_bytes(), &[zone as u8]]);
    }

    /// Adds the address of `target` to the little-endian number at `field`: file, offset, bytes.
    pub(super) fn add_pointer(&mut self, field: (&str, usize, u8), target: &str) {
        let (file, offset, len) = field;
        let parts: [&[u8]; 4] = [&name(file), &name(target), &word(offset), &[len]];
        self.command(2, &parts);
    }

    /// Makes the sum of the bytes at `span` (offset, length) zero by the byte at `at`.
    pub(super) fn add_checksum(&mut self, file: &str, at: usize, span: (usize, usize)) {
        let parts: [&[u8]; 4] = [&name(file), &word(at), &word(span.0), &word(span.1)];
        self.command(3, &parts);
    }

    /// The file that firmware reads.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn command(&mut self, number: u32, parts: &[&[u8]]) {
        let end = self.0.len() + COMMAND;
        self.0.extend(number.to_le_bytes());
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.0.resize(end, 0);
    }
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    // The last byte stays zero.
    for (byte, letter) in name.iter_mut().take(NAME - 1).zip(text.bytes()) {
        *byte = letter;
    }
    name
}
