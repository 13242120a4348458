//! The ZRLE encoding (RFC 6143 §7.7.6): squares of 64 pixels, each one colour, a palette or plain, in
//! one stream of zlib per client.

use super::pixels::Format;
use devices::backend::display::{PIXEL, TILE};
use flate2::{Compress, Compression, FlushCompress, Status};

/// Colours of a palette, at most: what one half byte can say.
const MOST_COLOURS: usize = 16;

/// The stream of one client.
pub(super) struct Zrle {
    stream: Compress,
}

impl Zrle {
    pub(super) fn new() -> Self {
        Self {
            stream: Compress::new(Compression::fast(), true),
        }
    }

    /// Appends the length and the data of a rectangle of `width` columns; `None` when the stream has
    /// failed, and the client cannot be served any more.
    pub(super) fn encode(
        &mut self,
        pixels: &[u8],
        width: u32,
        format: &Format,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let packed = self.pack(&tiles(pixels, width as usize, format))?;
        out.extend(u32::try_from(packed.len()).ok()?.to_be_bytes());
        out.extend(packed);
        Some(())
    }

    /// Puts bytes through the stream and flushes it.
    fn pack(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut packed = Vec::with_capacity(plain.len() / 4 + 64);
        let start = self.stream.total_in();
        loop {
            let done = usize::try_from(self.stream.total_in() - start).ok()?;
            let rest = plain.get(done..)?;
            if packed.len() == packed.capacity() {
                packed.reserve(packed.len().max(256));
            }
            let status = self
                .stream
                .compress_vec(rest, &mut packed, FlushCompress::Sync)
                .ok()?;
            let all = usize::try_from(self.stream.total_in() - start).ok()? == plain.len();
            // Room that is left says that nothing waits inside.
            if all && packed.len() < packed.capacity() {
                return Some(packed);
            }
            if status == Status::StreamEnd {
                return None;
            }
        }
    }
}

/// All squares of a rectangle, before they are packed.
fn tiles(pixels: &[u8], width: usize, format: &Format) -> Vec<u8> {
    let side = TILE as usize;
    let mut out = Vec::new();
    let mut tile = Vec::with_capacity(side * side * PIXEL);
    for band in pixels.chunks(width.max(1) * PIXEL * side) {
        for left in (0..width).step_by(side) {
            let columns = left * PIXEL..(left + side).min(width) * PIXEL;
            tile.clear();
            for row in band.chunks_exact(width * PIXEL) {
                tile.extend_from_slice(row.get(columns.clone()).unwrap_or_default());
            }
            encode_tile(&tile, columns.len() / PIXEL, format, &mut out);
        }
    }
    out
}

fn encode_tile(tile: &[u8], width: usize, format: &Format, out: &mut Vec<u8>) {
    match palette(tile) {
        Some(colours) if colours.len() == 1 => {
            out.push(1);
            compact(&colours, format, out);
        }
        Some(colours) => {
            out.push(colours.len() as u8);
            compact(&colours, format, out);
            indices(tile, width, &colours, out);
        }
        None => {
            out.push(0);
            for pixel in tile.chunks_exact(PIXEL) {
                format.compact(pixel, out);
            }
        }
    }
}

fn compact(colours: &[[u8; 3]], format: &Format, out: &mut Vec<u8>) {
    for [blue, green, red] in colours {
        format.compact(&[*blue, *green, *red, 0], out);
    }
}

fn colour(pixel: &[u8]) -> [u8; 3] {
    pixel.first_chunk().copied().unwrap_or_default()
}

/// The colours of a square, when they are few.
fn palette(tile: &[u8]) -> Option<Vec<[u8; 3]>> {
    let mut colours: Vec<[u8; 3]> = Vec::new();
    for pixel in tile.chunks_exact(PIXEL) {
        let colour = colour(pixel);
        if colours.last() != Some(&colour) && !colours.contains(&colour) {
            if colours.len() == MOST_COLOURS {
                return None;
            }
            colours.push(colour);
        }
    }
    Some(colours)
}

/// Each pixel as its place in the palette; every row begins with a new byte.
fn indices(tile: &[u8], width: usize, colours: &[[u8; 3]], out: &mut Vec<u8>) {
    let bits = match colours.len() {
        2 => 1,
        3 | 4 => 2,
        _ => 4,
    };
    for row in tile.chunks_exact(width.max(1) * PIXEL) {
        let (mut byte, mut used) = (0_u8, 0);
        for pixel in row.chunks_exact(PIXEL) {
            let colour = colour(pixel);
            let index = colours.iter().position(|other| *other == colour);
            byte = byte << bits | index.unwrap_or(0) as u8;
            used += bits;
            if used == 8 {
                out.push(byte);
                (byte, used) = (0, 0);
            }
        }
        if used > 0 {
            out.push(byte << (8 - used));
        }
    }
}
