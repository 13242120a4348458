//! Pixel formats of clients (RFC 6143 §7.4). Pure.

use devices::backend::display::PIXEL;

/// A colour: how much of it there may be, and where it is in a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Channel {
    most: u16,
    shift: u8,
}

impl Channel {
    fn place(self, value: u8) -> u32 {
        let scaled = (u32::from(value) * u32::from(self.most) + 127) / 255;
        scaled << self.shift
    }

    fn mask(self) -> u64 {
        u64::from(self.most) << self.shift
    }
}

/// A pixel format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    bytes: usize,
    depth: u8,
    big_endian: bool,
    red: Channel,
    green: Channel,
    blue: Channel,
}

/// A format that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadFormat(pub(super) &'static str);

impl Default for Format {
    /// As the display has pixels.
    fn default() -> Self {
        let channel = |shift| Channel { most: 255, shift };
        Self {
            bytes: 4,
            depth: 24,
            big_endian: false,
            red: channel(16),
            green: channel(8),
            blue: channel(0),
        }
    }
}

impl Format {
    /// The format in 16 bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadFormat> {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let most = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
        let channel = |at: usize, shift: usize| Channel {
            most: most(at),
            shift: byte(shift),
        };
        let bits = byte(0);
        if !matches!(bits, 8 | 16 | 32) {
            return Err(BadFormat("pixels have 8, 16 or 32 bits"));
        }
        if byte(3) == 0 {
            return Err(BadFormat("colour maps cannot be had"));
        }
        let format = Self {
            bytes: usize::from(bits / 8),
            depth: byte(1),
            big_endian: byte(2) != 0,
            red: channel(4, 10),
            green: channel(6, 11),
            blue: channel(8, 12),
        };
        for channel in [format.red, format.green, format.blue] {
            if channel.most == 0 || channel.shift > 31 || channel.mask() >= 1 << bits {
                return Err(BadFormat("a colour lies outside of its pixel"));
            }
        }
        Ok(format)
    }

    /// The same in 16 bytes.
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let head = [
            (self.bytes * 8) as u8,
            self.depth,
            u8::from(self.big_endian),
            1,
        ];
        let channels = [self.red, self.green, self.blue];
        let all = head
            .into_iter()
            .chain(channels.into_iter().flat_map(|c| c.most.to_be_bytes()))
            .chain(channels.into_iter().map(|channel| channel.shift));
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Appends pixels of the display in this format.
    pub(super) fn convert(&self, pixels: &[u8], out: &mut Vec<u8>) {
        if *self == Self::default() {
            out.extend_from_slice(pixels);
            return;
        }
        for pixel in pixels.chunks_exact(PIXEL) {
            out.extend_from_slice(self.pixel(pixel).get(..self.bytes).unwrap_or_default());
        }
    }

    /// One pixel; its first bytes count.
    fn pixel(&self, pixel: &[u8]) -> [u8; 4] {
        let [blue, green, red, _] = *pixel else {
            return [0; 4];
        };
        let value = self.red.place(red) | self.green.place(green) | self.blue.place(blue);
        if self.big_endian {
            // The last bytes of a big-endian word are the lowest.
            (value << (8 * (4 - self.bytes))).to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    /// One pixel as ZRLE has it: without the byte that says nothing (RFC 6143 §7.7.5).
    pub(super) fn compact(&self, pixel: &[u8], out: &mut Vec<u8>) {
        let bytes = self.pixel(pixel);
        out.extend_from_slice(bytes.get(self.compact_part()).unwrap_or_default());
    }

    fn compact_part(&self) -> std::ops::Range<usize> {
        let mask = self.red.mask() | self.green.mask() | self.blue.mask();
        if self.bytes != 4 || self.depth > 24 {
            return 0..self.bytes;
        }
        let (low, high) = (mask >> 24 == 0, mask & 0xff == 0);
        match (low, high, self.big_endian) {
            (true, _, false) | (false, true, true) => 0..3,
            (true, _, true) | (false, true, false) => 1..4,
            (false, false, _) => 0..4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIXEL: [u8; 4] = [0x33, 0x80, 0xff, 0];

    fn converted(format: &Format) -> (Vec<u8>, Vec<u8>) {
        let (mut whole, mut compact) = (Vec::new(), Vec::new());
        format.convert(&PIXEL, &mut whole);
        format.compact(&PIXEL, &mut compact);
        (whole, compact)
    }

    #[test]
    fn pixels_come_as_the_client_wants_them() {
        let usual = Format::default();
        assert_eq!(Format::parse(&usual.to_bytes()), Ok(usual));
        assert_eq!(converted(&usual), (PIXEL.to_vec(), PIXEL[..3].to_vec()));
        let bgr_big = [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
        let (whole, compact) = converted(&Format::parse(&bgr_big).expect("a format"));
        assert_eq!(whole, [0, 0x33, 0x80, 0xff]);
        assert_eq!(compact, [0x33, 0x80, 0xff]);
        let rgb565 = [16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0];
        let (whole, compact) = converted(&Format::parse(&rgb565).expect("a format"));
        let expected = (31_u16 << 11 | 32 << 5 | 6).to_le_bytes();
        assert_eq!(
            (whole.as_slice(), compact.as_slice()),
            (&expected[..], &expected[..])
        );
        let rgb332 = [8, 8, 1, 1, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0];
        let (whole, _) = converted(&Format::parse(&rgb332).expect("a format"));
        assert_eq!(whole, [0b1111_0001]);
    }

    #[test]
    fn formats_that_cannot_be_are_refused() {
        let good = Format::default().to_bytes();
        for (at, value) in [(0, 24), (3, 0), (5, 0), (10, 32), (10, 25)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Format::parse(&bad).is_err(), "{at} {value}");
        }
        assert!(Format::parse(&[]).is_err());
    }
}
