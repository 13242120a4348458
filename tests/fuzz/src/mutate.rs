//! Changing inputs by chance, the same way for the same seed.

/// Bytes that an input grows to at most.
const LONGEST: usize = 64 << 10;

/// Numbers at which arithmetic goes wrong, of one to eight bytes.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 63,
    u64::MAX,
];

/// A small generator (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() >> 32) as usize % limit.max(1)
    }

    /// Some bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.draw() as u8).collect()
    }
}

/// A changed copy of one of `inputs`, perhaps crossed with another.
pub fn mutate(random: &mut Random, inputs: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| {
        inputs
            .get(random.below(inputs.len()))
            .cloned()
            .unwrap_or_default()
    };
    let mut bytes = pick(random);
    for _ in 0..=random.below(6) {
        change(random, &mut bytes);
    }
    if random.below(8) == 0 {
        let other = pick(random);
        let (at, from) = (random.below(bytes.len()), random.below(other.len()));
        bytes.truncate(at);
        bytes.extend_from_slice(other.get(from..).unwrap_or_default());
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    let length = random.below(16).min(bytes.len() - at);
    let range = at..at + length;
    match random.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.draw() as u8;
            }
        }
        2 => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let big = random.below(2) == 0;
            let count = length.min(8);
            for (step, byte) in bytes.iter_mut().skip(at).take(count).enumerate() {
                *byte = edge[if big { count - 1 - step } else { step }];
            }
        }
        3 => drop(bytes.drain(range)),
        4 => {
            let piece = bytes[range].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        5 => {
            let count = random.below(32);
            let new = random.bytes(count);
            bytes.splice(at..at, new);
        }
        6 => {
            // A number in digits, as text formats have them.
            if let Some(digit) = bytes.iter_mut().skip(at).find(|byte| byte.is_ascii_digit()) {
                *digit = b"0123456789-.e"[random.below(13)];
            }
        }
        _ => {
            let to = random.below(bytes.len() - length + 1);
            bytes.copy_within(range, to);
        }
    }
}
