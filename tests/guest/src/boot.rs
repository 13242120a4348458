//! What the loader tells: the command line and where RAM is (PVH start info, version 1).

use core::slice;

use crate::memory;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const MAX_LINE: usize = 4096;

/// The machine as the loader describes it.
pub struct Boot {
    line: &'static str,
    /// End of the RAM that starts at 1 MiB.
    pub ram_end: u64,
    /// The memory map and its entries.
    table: u64,
    entries: u64,
}

impl Boot {
    /// Reads the start info at `address`.
    pub fn read(address: u64) -> Self {
        let magic: u32 = memory::load(address);
        assert!(magic == MAGIC, "no start info at {address:#x}");
        let version: u32 = memory::load(address + 4);
        let line = memory::load::<u64>(address + 24);
        let mut this = Self {
            line: text_at(line),
            ram_end: 64 << 20,
            table: 0,
            entries: 0,
        };
        if version >= 1 {
            this.table = memory::load(address + 40);
            this.entries = u64::from(memory::load::<u32>(address + 48));
            let mut end = this.ram_end;
            this.ram(|start, size| {
                if start <= 0x10_0000 && start + size > 0x10_0000 {
                    end = start + size;
                }
            });
            this.ram_end = end;
        }
        this
    }

    /// Every part of RAM: its start and its size.
    pub fn ram(&self, mut each: impl FnMut(u64, u64)) {
        for entry in (0..self.entries).map(|at| self.table + at * 24) {
            if memory::load::<u32>(entry + 16) == RAM {
                each(memory::load(entry), memory::load(entry + 8));
            }
        }
    }

    /// The value of `key=value` on the command line.
    pub fn option(&self, key: &str) -> Option<&'static str> {
        self.line
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// A numeric option, decimal.
    pub fn number(&self, key: &str, otherwise: u64) -> u64 {
        match self.option(key) {
            None => otherwise,
            Some(text) => match text.parse() {
                Ok(value) => value,
                Err(_) => panic!("{key}={text} is no number"),
            },
        }
    }
}

fn text_at(address: u64) -> &'static str {
    if address == 0 {
        return "";
    }
    let length = (0..MAX_LINE as u64)
        .find(|at| memory::load::<u8>(address + at) == 0)
        .unwrap_or(0);
    // SAFETY: the loader put the line into RAM that nobody writes while the guest runs.
    let bytes = unsafe { slice::from_raw_parts(address as *const u8, length as usize) };
    core::str::from_utf8(bytes).unwrap_or("")
}
