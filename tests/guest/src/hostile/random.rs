//! Attacks by chance, the same ones for the same seed.

use super::victim::{Descriptor, INDIRECT, NEXT, NOWHERE, SIZE, Victim, WRITE};
use crate::memory::store;
use crate::port;

/// A small generator (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 32) % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn descriptor(&mut self, v: &Victim) -> Descriptor {
        let address = match self.below(8) {
            0 => NOWHERE,
            1 => self.next(),
            2 => 0xfee0_0000,
            3 => v.table,
            4 => v.rings[self.below(3) as usize],
            _ => v.data + self.below(4096),
        };
        let length = match self.below(6) {
            0 => self.next() as u32,
            1 => 0,
            2 => 16 * self.below(64) as u32,
            _ => self.pick(&[1, 16, 512, 4096]),
        };
        let flags = match self.below(4) {
            0 => self.next() as u16,
            1 => self.pick(&[INDIRECT, INDIRECT | NEXT]),
            _ => self.pick(&[0, NEXT, WRITE, NEXT | WRITE]),
        };
        let next = match self.below(4) {
            0 => self.next() as u16,
            _ => self.below(u64::from(SIZE)) as u16,
        };
        (address, length, flags, next)
    }

    /// Descriptors, indices and registers at random.
    pub fn attack(&mut self, v: &mut Victim) {
        for at in 0..SIZE {
            v.describe(at, self.descriptor(v));
            v.describe_indirect(at, self.descriptor(v));
        }
        for _ in 0..8 {
            // What the device takes for a header: often one that it knows.
            store(
                v.data,
                self.pick(&[0u32, 1, 4, 8, 11, 13, 0x101, 0x105, 0x106, 0xffff_ffff]),
            );
            store(v.data + 8, self.pick(&[0, 1, 0xffff, u64::MAX]));
            match self.below(6) {
                0 => v.publish(self.next() as u16),
                1 => {
                    let value = self.next();
                    self.register(v, value);
                }
                _ => v.offer(self.below(u64::from(SIZE)) as u16),
            }
        }
        v.wait();
    }

    fn register(&mut self, v: &Victim, value: u64) {
        let at = self.below(0x40);
        match self.below(3) {
            0 => v.device().register(at, value as u8),
            1 => v.device().register(at & !1, value as u16),
            _ => v.device().register(at & !3, value as u32),
        }
    }
}

/// Ports that end or reset the machine, or carry what it says.
fn is_needed(port: u16) -> bool {
    matches!(port, 0xf4 | 0x64 | 0x92 | 0xcf9 | 0x3f8..=0x3ff | 0x600..=0x6ff)
}

/// Bytes to ports, and from them.
pub fn ports(random: &mut Random) {
    for _ in 0..4000 {
        let port = match random.below(4) {
            0 => random.next() as u16,
            _ => random.below(0x400) as u16,
        };
        if is_needed(port) {
            continue;
        }
        if random.below(2) == 0 {
            port::in8(port);
        } else {
            port::out8(port, random.next() as u8);
        }
    }
}

/// Writes to configuration space of each device.
pub const WRITES: u32 = 10_000;

/// [`WRITES`] writes to the function's configuration space and MSI-X table, which keep its BARs
/// moving, going and coming back.
pub fn configuration(random: &mut Random, victim: &mut Victim) {
    let kept = victim.device().configuration();
    for _ in 0..WRITES {
        let at = 4 * random.below(64) as u16;
        victim.device().configure(at, random.next() as u32);
    }
    victim.device().set_configuration(&kept);
    for entry in 0..64 {
        victim.device().write_vector(entry % 4, random.next());
    }
}
