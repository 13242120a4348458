//! Pictures of a domain's screen as files of other kinds than the PPM that its process writes.
//!
//! The process may have been taken over by its guest: what it wrote is not trusted to be a picture.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use vmm_api::spec::MAX_RESOLUTION;

/// What a picture is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    /// Binary PPM.
    Ppm,
    /// PNG.
    Png,
}

impl PictureFormat {
    /// Its MIME type.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Ppm => "image/x-portable-pixmap",
            Self::Png => "image/png",
        }
    }

    /// How its file names end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Ppm => "ppm",
            Self::Png => "png",
        }
    }
}

/// Most bytes of a line of a PPM's head: two numbers.
const HEAD: u64 = 32;

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    io::Read::take(&mut *from, HEAD).read_until(b'\n', &mut line)?;
    let text = line.strip_suffix(b"\n").map(<[u8]>::to_vec);
    let text = text.and_then(|text| String::from_utf8(text).ok());
    text.ok_or_else(|| invalid("the picture has no head"))
}

/// Columns and rows of the binary PPM whose head comes next, with a byte per colour.
fn head(from: &mut impl BufRead) -> io::Result<(u32, u32)> {
    let (magic, size, depth) = (line(from)?, line(from)?, line(from)?);
    let sides = size.split_once(' ').and_then(|(width, height)| {
        let side = |text: &str| {
            text.parse()
                .ok()
                .filter(|side| (1..=MAX_RESOLUTION).contains(side))
        };
        side(width).zip(side(height))
    });
    match (magic.as_str(), sides, depth.as_str()) {
        ("P6", Some(sides), "255") => Ok(sides),
        _ => Err(invalid("the picture is no PPM")),
    }
}

/// Reads the head of the PPM in a file, and holds the file's length against it: nobody reads or makes
/// room for pixels before that. What comes next are the pixels.
///
/// # Errors
/// Those of the file; `InvalidData` where it is no PPM, or one of another length than it says.
fn open(file: &File) -> io::Result<(BufReader<&File>, (u32, u32))> {
    let mut from = BufReader::new(file);
    from.rewind()?;
    let (width, height) = head(&mut from)?;
    let pixels = u64::from(width) * u64::from(height) * 3;
    let length = file.metadata()?.len();
    if from.stream_position()?.checked_add(pixels) != Some(length) {
        return Err(invalid(format!(
            "the picture of {width}x{height} pixels has {length} bytes, which does not fit"
        )));
    }
    Ok((from, (width, height)))
}

/// Whether a file is a PPM, whole and no more.
///
/// # Errors
/// As those of [`to_png`].
pub(super) fn check(file: &File) -> io::Result<()> {
    open(file).map(drop)
}

/// Makes a PNG of a PPM, row by row.
///
/// # Errors
/// Those of reader and writer; `InvalidData` where the file is no PPM, has sides beyond
/// [`MAX_RESOLUTION`], or another length than it says.
pub(super) fn to_png(plain: &File, to: impl Write) -> io::Result<()> {
    let (mut from, (width, height)) = open(plain)?;
    let mut encoder = png::Encoder::new(BufWriter::new(to), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    let mut pixels = writer.stream_writer()?;
    let mut row = vec![0; width as usize * 3];
    for _ in 0..height {
        io::Read::read_exact(&mut from, &mut row)?;
        pixels.write_all(&row)?;
    }
    pixels.finish()?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_png_has_the_pixels_of_the_ppm() {
        let pixels: Vec<u8> = (0..37 * 5 * 3).map(|n| (n * 7 % 251) as u8).collect();
        let ppm = [&b"P6\n37 5\n255\n"[..], &pixels].concat();
        let mut file = Vec::new();
        to_png(&stored(&ppm), &mut file).unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(file))
            .read_info()
            .unwrap();
        let mut read = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut read).unwrap();
        assert_eq!((info.width, info.height), (37, 5));
        assert_eq!(info.color_type, png::ColorType::Rgb);
        assert_eq!(read, pixels);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        for text in [
            "",
            "P6\n",
            "P5\n1 1\n255\n\0",
            "P6\n1 0\n255\n",
            "P6\n1 99999999\n255\n",
            "P6\n1 1\n65535\n\0\0\0",
            "P6\n1 2\n255\n\0\0\0\0\0",
            "P6\n1 1\n255\n\0\0\0more",
            "P6\n4095 4096\n255\n\0\0\0",
            "P6\n1                                        1\n255\n\0\0\0",
        ] {
            let file = stored(text.as_bytes());
            assert!(check(&file).is_err(), "{text:?}");
            assert!(to_png(&file, Vec::new()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_picture_that_claims_more_than_there_is_is_not_read() {
        let huge = stored(b"P6\n4095 4095\n255\n");
        // Sparse: it has the length of another picture, and nothing in it.
        huge.set_len(1 << 40).unwrap();
        let error = to_png(&huge, Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
