//! A function's register file: 256 bytes, what the guest may change in them, and capabilities.
//!
//! Every byte has a mask of plain writable bits and a mask of write-one-to-clear bits; all others
//! never change by a guest's write. The extended space (0x100 and up) reads as zero, which says
//! "no extended capabilities".

use crate::state::{hex, unhex};
use serde::{Deserialize, Serialize};

/// Bytes of a register file.
pub const CONFIG_SIZE: usize = 256;

/// Offset of the command register.
pub const COMMAND: u16 = 0x04;
/// Command bit: the function answers on the memory bus.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command bits that a function without I/O ports lets the guest change: memory decoding, bus
/// mastering, parity and SERR reporting, INTx disable.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
/// Status bit: there is a capability list.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Offset of the first BAR.
pub const BAR0: u16 = 0x10;
/// First byte that capabilities may use.
const FIRST_CAPABILITY: usize = 0x40;

/// What a function says that it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, as 0xCCSSPP.
    pub class: u32,
    /// Subsystem vendor ID (type 0 headers only).
    pub subsystem_vendor: u16,
    /// Subsystem ID (type 0 headers only).
    pub subsystem: u16,
}

/// The register file of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    clearable: Box<[u8; CONFIG_SIZE]>,
    power_on: Box<[u8; CONFIG_SIZE]>,
}

/// Puts a register file together; nothing in here comes from a guest.
#[derive(Debug, Clone)]
pub struct ConfigBuilder {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    clearable: Box<[u8; CONFIG_SIZE]>,
    next_capability: usize,
    last_pointer: usize,
}

fn empty() -> Box<[u8; CONFIG_SIZE]> {
    Box::new([0; CONFIG_SIZE])
}

fn put(bytes: &mut [u8; CONFIG_SIZE], offset: usize, data: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(offset).zip(data) {
        *byte = *value;
    }
}

impl ConfigBuilder {
    /// A type 0 header (an endpoint).
    pub fn endpoint(identity: Identity) -> Self {
        let mut builder = Self::header(identity);
        builder.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        builder.set(0x2e, &identity.subsystem.to_le_bytes());
        builder
    }

    /// A type 1 header (a bridge) that leads to `secondary` (0: not numbered yet) and has the memory
    /// window `window` (first and last byte, 1 MiB granules); `None` closes it.
    pub fn bridge(identity: Identity, secondary: u8, window: Option<(u64, u64)>) -> Self {
        let mut builder = Self::header(identity);
        builder.set(0x0e, &[0x01]);
        // Primary, secondary and subordinate bus numbers.
        builder.set(0x18, &[0, secondary, secondary]);
        builder.allow(0x18, &[0xff; 3]);
        // Memory base and limit hold bits 31:20 in their upper twelve bits.
        let (base, limit) = window.map_or((0xfff0_u16, 0_u16), |(first, last)| {
            ((first >> 16) as u16 & 0xfff0, (last >> 16) as u16 & 0xfff0)
        });
        builder.set(0x20, &base.to_le_bytes());
        builder.set(0x22, &limit.to_le_bytes());
        builder.allow(0x20, &0xfff0_fff0_u32.to_le_bytes());
        // The prefetchable window is 64 bits wide and closed; there is no I/O window.
        builder.set(0x24, &[0xf1, 0xff, 0x01, 0x00]);
        builder.allow(0x24, &0xfff0_fff0_u32.to_le_bytes());
        builder.allow(0x28, &[0xff; 8]);
        // Bridge control: parity, SERR, VGA and secondary bus reset can be set and read back.
        builder.allow(0x3e, &[0x5b, 0x00]);
        builder
    }

    fn header(identity: Identity) -> Self {
        let mut builder = Self {
            bytes: empty(),
            writable: empty(),
            clearable: empty(),
            next_capability: FIRST_CAPABILITY,
            last_pointer: 0x34,
        };
        builder.set(0x00, &identity.vendor.to_le_bytes());
        builder.set(0x02, &identity.device.to_le_bytes());
        let class = (identity.class << 8) | u32::from(identity.revision);
        builder.set(0x08, &class.to_le_bytes());
        builder.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        builder.allow(0x0c, &[0xff]); // cache line size: scratch for the guest
        builder.allow(0x3c, &[0xff]); // interrupt line: scratch for the guest
        builder
    }

    /// Sets the power-on value of bytes from `offset` on.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        put(&mut self.bytes, usize::from(offset), data);
    }

    /// Lets the guest write the bits of `mask` from `offset` on.
    pub fn allow(&mut self, offset: u16, mask: &[u8]) {
        put(&mut self.writable, usize::from(offset), mask);
    }

    /// Lets the guest clear the bits of `mask` from `offset` on by writing ones.
    pub fn clear_by_ones(&mut self, offset: u16, mask: &[u8]) {
        put(&mut self.clearable, usize::from(offset), mask);
    }

    /// Makes BAR 0 and 1 a 64-bit memory BAR of `size` bytes (a power of two from 16 on) at `base`,
    /// and switches memory decoding on.
    pub fn memory_bar(&mut self, base: u64, size: u64) {
        // Type: memory, 64 bits, not prefetchable (ISR reads have side effects).
        self.set(BAR0, &((base & !0xf) | 0x4).to_le_bytes());
        self.allow(BAR0, &(!(size - 1) & !0xf).to_le_bytes());
        self.set(COMMAND, &COMMAND_MEMORY.to_le_bytes());
    }

    /// The same without an address and with decoding off, for firmware to place.
    pub fn unplaced_memory_bar(&mut self, size: u64) {
        self.memory_bar(0, size);
        self.set(COMMAND, &[0; 2]);
    }

    /// Appends a capability: `body` without its two header bytes, `writable` masks for the body.
    /// Returns its offset, or `None` when the register file is full.
    pub fn capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u16> {
        let offset = self.next_capability;
        let end = offset.checked_add(2 + body.len())?;
        if end > CONFIG_SIZE {
            return None;
        }
        let pointer = u8::try_from(offset).ok()?;
        put(&mut self.bytes, self.last_pointer, &[pointer]);
        put(&mut self.bytes, offset, &[id, 0]);
        put(&mut self.bytes, offset + 2, body);
        put(&mut self.writable, offset + 2, writable);
        put(&mut self.bytes, 0x06, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_pointer = offset + 1;
        // Capabilities start at multiples of four.
        self.next_capability = end.next_multiple_of(4);
        Some(u16::from(pointer))
    }

    /// The register file at power-on.
    pub fn build(self) -> ConfigSpace {
        ConfigSpace {
            power_on: self.bytes.clone(),
            bytes: self.bytes,
            writable: self.writable,
            clearable: self.clearable,
        }
    }
}

impl ConfigSpace {
    /// Fills `data` from `offset`; bytes behind the register file read as zero.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let mut bytes = self.bytes.iter().skip(usize::from(offset));
        for byte in data {
            *byte = bytes.next().copied().unwrap_or(0);
        }
    }

    /// Takes a guest's write through the masks.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let offset = usize::from(offset);
        let masks = self.writable.iter().zip(self.clearable.iter());
        for ((byte, (writable, clearable)), value) in
            self.bytes.iter_mut().zip(masks).skip(offset).zip(data)
        {
            *byte = (*byte & !writable) | (value & writable);
            *byte &= !(value & clearable);
        }
    }

    /// Sets bytes without masks: for registers that the device itself changes.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        put(&mut self.bytes, usize::from(offset), data);
    }

    /// One byte.
    pub fn u8(&self, offset: u16) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or(0)
    }

    /// Two bytes.
    pub fn u16(&self, offset: u16) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// Four bytes.
    pub fn u32(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Where the 64-bit memory BAR at [`BAR0`] is, or `None` while decoding is off.
    pub fn decoded_bar(&self) -> Option<u64> {
        let mut data = [0; 8];
        self.read(BAR0, &mut data);
        (self.u16(COMMAND) & COMMAND_MEMORY != 0).then_some(u64::from_le_bytes(data) & !0xf)
    }

    /// Back to the power-on values.
    pub fn reset(&mut self) {
        self.bytes.clone_from(&self.power_on);
    }

    /// What is worth saving.
    pub fn state(&self) -> ConfigState {
        ConfigState(hex(self.bytes.as_slice()))
    }

    /// Takes saved values; only bits that a guest or the device may change are taken, so that a
    /// damaged file cannot turn a function into another one.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), String> {
        let saved = unhex(&state.0).ok_or("configuration space is not hexadecimal")?;
        if saved.len() != CONFIG_SIZE {
            return Err(format!(
                "configuration space has {} bytes, not {CONFIG_SIZE}",
                saved.len()
            ));
        }
        let masks = self.writable.iter().zip(self.clearable.iter());
        for ((byte, (writable, clearable)), value) in self.bytes.iter_mut().zip(masks).zip(saved) {
            let changing = writable | clearable;
            *byte = (*byte & !changing) | (value & changing);
        }
        Ok(())
    }
}

/// The register file as saved: 256 bytes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigState(String);
