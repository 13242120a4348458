//! The EDID of the output: what a monitor would say of itself (VESA E-EDID 1.4). Pure.

/// Bytes of an EDID without extensions.
#[cfg(test)]
const LENGTH: usize = 128;
/// Refresh rate of the preferred mode, in hertz.
const REFRESH: u64 = 60;
/// Columns that are not seen (reduced blanking), and where the pulse lies in them.
const BLANK_COLUMNS: u32 = 160;
const BLANK_ROWS_LEAST: u32 = 15;
/// Dots per inch that the size in millimetres follows from.
const DPI: u32 = 96;

/// The EDID of a monitor whose best picture has this size; sides of 1 to 4095 pixels.
pub(super) fn generate(width: u32, height: u32) -> Vec<u8> {
    let (width, height) = (width.clamp(1, 4095), height.clamp(1, 4095));
    let millimetres = |pixels: u32| pixels * 254 / (DPI * 10);
    let mut edid = vec![0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    // Maker "VMM", product 1, serial 0, week 0 of 2026, version 1.4.
    edid.extend(maker(*b"VMM"));
    edid.extend([1, 0, 0, 0, 0, 0, 0, 36, 1, 4]);
    // Digital, 8 bits; size in centimetres; gamma 2.2; sRGB, the preferred mode is native.
    let centimetres = |pixels| u8::try_from(millimetres(pixels) / 10).unwrap_or(u8::MAX);
    edid.extend([0xa0, centimetres(width), centimetres(height), 120, 0x06]);
    // The chromaticities of sRGB.
    edid.extend([0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // 640x480, 800x600 and 1024x768 at 60 Hz work too; no standard timings.
    edid.extend([0x21, 0x08, 0x00]);
    edid.extend([1; 16]);
    edid.extend(timing(
        width,
        height,
        millimetres(width),
        millimetres(height),
    ));
    edid.extend(text(0xfc, b"vm display"));
    // Ranges: 50 to 125 Hz, 15 to 160 kHz, up to 650 MHz, no formula.
    edid.extend([0, 0, 0, 0xfd, 0, 50, 125, 15, 160, 65, 1, 10]);
    edid.extend([0x20; 6]);
    edid.extend(text(0xff, b"0"));
    edid.push(0);
    let sum = edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    edid.push(0_u8.wrapping_sub(sum));
    edid
}

/// Three letters in fifteen bits.
fn maker(letters: [u8; 3]) -> [u8; 2] {
    let letter = |letter: u8| u16::from(letter - b'@');
    let [a, b, c] = letters.map(letter);
    (a << 10 | b << 5 | c).to_be_bytes()
}

/// A detailed timing: 18 bytes.
fn timing(width: u32, height: u32, wide: u32, high: u32) -> [u8; 18] {
    // At least 460 microseconds between two pictures.
    let blank_rows = (height * 3 / 100).max(BLANK_ROWS_LEAST);
    let total = u64::from(width + BLANK_COLUMNS) * u64::from(height + blank_rows);
    let clock = u16::try_from(total * REFRESH / 10_000).unwrap_or(u16::MAX);
    let [clock_low, clock_high] = clock.to_le_bytes();
    let low = |number: u32| number.to_le_bytes()[0];
    let high_bits = |number: u32, other: u32| low((number >> 8 & 15) << 4 | other >> 8 & 15);
    // The pulses: 48 columns behind the picture and 32 long, 3 rows behind it and 6 long.
    [
        clock_low,
        clock_high,
        low(width),
        low(BLANK_COLUMNS),
        high_bits(width, BLANK_COLUMNS),
        low(height),
        low(blank_rows),
        high_bits(height, blank_rows),
        48,
        32,
        3 << 4 | 6,
        0,
        low(wide),
        low(high),
        high_bits(wide, high),
        0,
        0,
        0x1a,
    ]
}

/// A descriptor with a text of at most 13 letters.
fn text(kind: u8, words: &[u8]) -> [u8; 18] {
    let mut bytes = [0x20; 18];
    let head = [0, 0, 0, kind, 0];
    let all = head.iter().chain(words.iter().take(12)).chain(b"\n");
    bytes.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edid_says_the_preferred_size_and_its_sum_is_zero() {
        for (width, height) in [(1, 1), (640, 480), (1280, 800), (3840, 2160), (4095, 4095)] {
            let edid = generate(width, height);
            assert_eq!(edid.len(), LENGTH);
            let sum = edid.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{width}x{height}");
            let timing = &edid[54..72];
            let number = |low: usize, high: usize| {
                u32::from(timing[low]) | u32::from(timing[high] >> 4) << 8
            };
            assert_eq!((number(2, 4), number(5, 7)), (width, height));
            assert_ne!((timing[0], timing[1]), (0, 0), "no clock is no timing");
        }
        assert_eq!(generate(1280, 800)[8..10], [0x59, 0xad]);
    }
}
