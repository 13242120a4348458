//! The picture of this moment as a file: binary PPM, which every viewer of pictures knows.

use devices::backend::display::{Display, PIXEL, Rect};
use std::io::{self, BufWriter, Write};

/// Writes the picture.
///
/// # Errors
/// Those of the writer.
pub fn write(display: &Display, to: impl Write) -> io::Result<()> {
    let (width, height) = display.size();
    let pixels = display.copy(Rect::of(width, height));
    let mut to = BufWriter::new(to);
    write!(to, "P6\n{width} {height}\n255\n")?;
    for pixel in pixels.chunks_exact(PIXEL) {
        let [blue, green, red, _] = *pixel else {
            continue;
        };
        to.write_all(&[red, green, blue])?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_written_red_first() {
        let display = Display::default();
        display.resize(2, 1);
        display.paint(Rect::of(2, 1), |_, row| {
            row.copy_from_slice(&[1, 2, 3, 0, 4, 5, 6, 0]);
        });
        let mut file = Vec::new();
        write(&display, &mut file).expect("memory");
        assert_eq!(file, b"P6\n2 1\n255\n\x03\x02\x01\x06\x05\x04");
    }
}
