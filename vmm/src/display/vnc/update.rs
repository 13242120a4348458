//! Framebuffer updates (RFC 6143 §7.6): what a client has not seen, as bytes.

use super::message::encoding;
use super::pixels::Format;
use super::zrle::Zrle;
use devices::backend::display::{Cursor, Display, News, PIXEL, Rect, TILE};

/// Pixels of one update, at most; the rest comes with the next one.
pub(super) const MOST_PIXELS: u64 = 1 << 20;
/// Pixels of one rectangle, at most: encoding it is one turn of the thread.
const MOST_AT_ONCE: u32 = 1 << 17;
/// Opacity from which a pixel of the pointer is drawn: there is only yes and no.
const OPAQUE: u8 = 128;

/// What a client can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) zrle: bool,
    pub(super) desktop_size: bool,
    pub(super) extended_size: bool,
    pub(super) cursor: bool,
    pub(super) scancodes: bool,
}

impl Abilities {
    pub(super) fn of(encodings: &[i32]) -> Self {
        let has = |number| encodings.contains(&number);
        Self {
            zrle: has(encoding::ZRLE),
            desktop_size: has(encoding::DESKTOP_SIZE),
            extended_size: has(encoding::EXTENDED_DESKTOP_SIZE),
            cursor: has(encoding::CURSOR),
            scancodes: has(encoding::EXTENDED_KEYS),
        }
    }

    /// Whether its picture may change its size.
    pub(super) fn resizes(&self) -> bool {
        self.desktop_size || self.extended_size
    }
}

/// Rectangles of one update as they are made.
#[derive(Debug, Default)]
pub(super) struct Update {
    count: u16,
    bytes: Vec<u8>,
}

impl Update {
    fn head(&mut self, rect: Rect, encoding: i32) {
        self.count = self.count.saturating_add(1);
        for number in [rect.x, rect.y, rect.width, rect.height] {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            self.bytes.extend(number.to_be_bytes());
        }
        self.bytes.extend(encoding.to_be_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The whole message.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut message = vec![0, 0];
        message.extend(self.count.to_be_bytes());
        message.extend(self.bytes);
        message
    }

    /// The picture has this size. `why` is a reason and a status of the extension.
    pub(super) fn size(&mut self, size: (u32, u32), extended: bool, why: (u16, u16)) {
        let whole = Rect::of(size.0, size.1);
        if !extended {
            self.head(whole, encoding::DESKTOP_SIZE);
            return;
        }
        let rect = Rect {
            x: why.0.into(),
            y: why.1.into(),
            ..whole
        };
        self.head(rect, encoding::EXTENDED_DESKTOP_SIZE);
        // One screen, number 0, at 0,0, no flags.
        self.bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for side in [size.0, size.1] {
            let side = u16::try_from(side).unwrap_or(u16::MAX);
            self.bytes.extend(side.to_be_bytes());
        }
        self.bytes.extend([0; 4]);
    }

    /// Keys may be told by their place.
    pub(super) fn scancodes(&mut self) {
        self.head(Rect::default(), encoding::EXTENDED_KEYS);
    }

    /// What the pointer looks like.
    pub(super) fn cursor(&mut self, cursor: Option<&Cursor>, format: &Format) {
        let Some(cursor) = cursor else {
            self.head(Rect::default(), encoding::CURSOR);
            return;
        };
        let rect = Rect {
            x: cursor.hot.0,
            y: cursor.hot.1,
            width: cursor.width,
            height: cursor.height,
        };
        self.head(rect, encoding::CURSOR);
        format.convert(&cursor.pixels, &mut self.bytes);
        for row in cursor
            .pixels
            .chunks_exact(cursor.width.max(1) as usize * PIXEL)
        {
            for eight in row.chunks(8 * PIXEL) {
                let pixels = (0..).zip(eight.chunks_exact(PIXEL));
                let byte = pixels.fold(0, |byte, (at, pixel)| {
                    let drawn = pixel.last().is_some_and(|opacity| *opacity >= OPAQUE);
                    byte | u8::from(drawn) << (7 - at)
                });
                self.bytes.push(byte);
            }
        }
    }

    /// A part of the picture. `None` when the client's stream has failed.
    pub(super) fn part(
        &mut self,
        rect: Rect,
        display: &Display,
        format: &Format,
        zrle: Option<&mut Zrle>,
    ) -> Option<()> {
        let pixels = display.copy(rect);
        match zrle {
            Some(zrle) => {
                self.head(rect, encoding::ZRLE);
                zrle.encode(&pixels, rect.width, format, &mut self.bytes)
            }
            None => {
                self.head(rect, encoding::RAW);
                format.convert(&pixels, &mut self.bytes);
                Some(())
            }
        }
    }
}

/// The rectangles of `news` that fit a picture of `size` and one update, in small pieces, and those
/// that have to wait. Those below the row `from`, where the last update stopped, go first: of a picture
/// that changes all the time every part has its turn.
pub(super) fn share(news: &News, size: (u32, u32), from: u32) -> (Vec<Rect>, Vec<Rect>) {
    let whole = Rect::of(size.0, size.1);
    let mut pieces = Vec::new();
    for rect in &news.rects {
        let rect = rect.common(&whole);
        if rect.is_empty() {
            continue;
        }
        let rows = (MOST_AT_ONCE / rect.width).clamp(1, TILE);
        let end = rect.y + rect.height;
        pieces.extend((rect.y..end).step_by(rows as usize).map(|y| Rect {
            y,
            height: rows.min(end - y),
            ..rect
        }));
    }
    pieces.sort_by_key(|piece| (piece.y < from, piece.y));
    let (mut now, mut later) = (Vec::new(), Vec::new());
    let mut pixels = 0;
    for piece in pieces {
        let area = u64::from(piece.width) * u64::from(piece.height);
        if later.is_empty() && pixels + area <= MOST_PIXELS && now.len() < 4096 {
            pixels += area;
            now.push(piece);
        } else {
            later.push(piece);
        }
    }
    (now, later)
}

/// The row of squares at which an update stopped that leaves these for later.
pub(super) fn stopped(later: &[Rect]) -> u32 {
    later.first().map_or(0, |piece| piece.y - piece.y % TILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_picture_comes_in_several_updates_and_nothing_is_lost() {
        let mut left = vec![Rect::of(4000, 3000)];
        let (mut area, mut updates) = (0, 0);
        while !left.is_empty() {
            let news = News {
                rects: left,
                ..News::default()
            };
            let (now, later) = share(&news, (4000, 3000), 0);
            assert!(!now.is_empty());
            let of = |rect: &Rect| u64::from(rect.width) * u64::from(rect.height);
            let pixels: u64 = now.iter().map(of).sum();
            assert!(pixels <= MOST_PIXELS);
            area += pixels;
            updates += 1;
            left = later;
        }
        assert_eq!((area, updates), (12_000_000, 12));
        // What lies outside of the client's picture is not sent.
        let news = News {
            rects: vec![Rect::of(100, 100)],
            ..News::default()
        };
        assert_eq!(share(&news, (50, 20), 0).0, [Rect::of(50, 20)]);
    }

    #[test]
    fn of_a_picture_that_always_changes_every_part_is_sent() {
        let size = (1920, 1080);
        let mut shown = vec![false; size.1 as usize];
        let mut from = 0;
        for _ in 0..3 {
            let news = News {
                rects: vec![Rect::of(size.0, size.1)],
                ..News::default()
            };
            let (now, later) = share(&news, size, from);
            for piece in now {
                shown[piece.y as usize..(piece.y + piece.height) as usize].fill(true);
            }
            from = stopped(&later);
        }
        assert!(shown.iter().all(|row| *row));
    }

    #[test]
    fn a_pointer_is_its_pixels_and_a_mask() {
        let mut update = Update::default();
        let cursor = Cursor {
            width: 9,
            height: 1,
            hot: (3, 0),
            pixels: (0..9_u8).flat_map(|at| [at, at, at, at * 30]).collect(),
        };
        update.cursor(Some(&cursor), &Format::default());
        let bytes = update.finish();
        assert_eq!(bytes[..12], [0, 0, 0, 1, 0, 3, 0, 0, 0, 9, 0, 1]);
        assert_eq!(bytes[12..16], (-239_i32).to_be_bytes());
        assert_eq!(bytes.len(), 16 + 36 + 2);
        assert_eq!(bytes[52..], [0b0000_0111, 0b1000_0000]);
    }
}
