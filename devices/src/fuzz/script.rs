//! Bytes read as a script: what to do next, where, and with what. After the end everything is zero.

/// Values at which arithmetic goes wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// A script and how far it has been read.
pub(super) struct Script<'b> {
    rest: &'b [u8],
}

impl<'b> Script<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let (taken, rest) = self.rest.split_at(self.rest.len().min(N));
        for (to, from) in array.iter_mut().zip(taken) {
            *to = *from;
        }
        self.rest = rest;
        array
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn long(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number below `limit`, which is not 0 and at most 256.
    pub(super) fn below(&mut self, limit: u16) -> u8 {
        (u16::from(self.byte()) % limit) as u8
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Any value, often one at an edge.
    pub(super) fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from_le_bytes(self.array()),
            1 => u64::from(self.byte()),
            2 => u64::from(self.word()),
            _ => self.pick(&EDGES),
        }
    }

    /// What an access moves: 1, 2, 4 or 8 bytes.
    pub(super) fn access(&mut self) -> Vec<u8> {
        let length = self.pick(&[1, 1, 2, 4, 4, 8]);
        self.value().to_le_bytes()[..length].to_vec()
    }
}
