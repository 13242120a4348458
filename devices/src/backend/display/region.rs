//! Rectangles of a picture, and the part of it that somebody has not seen yet.

/// Side of the squares in which damage is counted, in pixels.
pub const TILE: u32 = 64;

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// The whole of a picture.
    pub fn of(width: u32, height: u32) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }

    /// Whether there is something in it.
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Whether it lies in a picture of this size, edges included.
    pub fn is_within(&self, width: u32, height: u32) -> bool {
        let fits = |start: u32, length: u32, limit| {
            start.checked_add(length).is_some_and(|end| end <= limit)
        };
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }

    /// What both have in common; empty when nothing.
    pub fn common(&self, other: &Self) -> Self {
        let span = |a: u32, a_len: u32, b: u32, b_len: u32| {
            let start = a.max(b);
            let end = a.saturating_add(a_len).min(b.saturating_add(b_len));
            (start, end.saturating_sub(start))
        };
        let (x, width) = span(self.x, self.width, other.x, other.width);
        let (y, height) = span(self.y, self.height, other.y, other.height);
        Self {
            x,
            y,
            width,
            height,
        }
    }
}

/// Squares of a picture that have changed.
#[derive(Debug, Clone, Default)]
pub struct Region {
    width: u32,
    height: u32,
    columns: usize,
    tiles: Vec<bool>,
    any: bool,
}

impl Region {
    /// Nothing of a picture of this size.
    pub fn new(width: u32, height: u32) -> Self {
        let columns = width.div_ceil(TILE) as usize;
        Self {
            width,
            height,
            columns,
            tiles: vec![false; columns * height.div_ceil(TILE) as usize],
            any: false,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// Adds the squares that `rect` touches.
    pub fn add(&mut self, rect: Rect) {
        let rect = rect.common(&Rect::of(self.width, self.height));
        if rect.is_empty() {
            return;
        }
        self.any = true;
        let first = (rect.x / TILE) as usize;
        let last = ((rect.x + rect.width - 1) / TILE) as usize;
        for row in rect.y / TILE..=(rect.y + rect.height - 1) / TILE {
            let start = row as usize * self.columns;
            if let Some(tiles) = self.tiles.get_mut(start + first..=start + last) {
                tiles.fill(true);
            }
        }
    }

    /// Everything in it as rectangles, at most one per two squares; it is empty afterwards.
    pub fn take(&mut self) -> Vec<Rect> {
        if !std::mem::take(&mut self.any) {
            return Vec::new();
        }
        let whole = Rect::of(self.width, self.height);
        let mut rects: Vec<Rect> = Vec::new();
        for (row, tiles) in (0..).zip(self.tiles.chunks_mut(self.columns.max(1))) {
            let mut start = None;
            for (column, dirty) in (0..).zip(tiles.iter_mut()) {
                match (std::mem::take(dirty), start) {
                    (true, None) => start = Some(column),
                    (false, Some(from)) => {
                        push(&mut rects, run(row, from, column));
                        start = None;
                    }
                    _ => {}
                }
            }
            if let Some(from) = start {
                push(&mut rects, run(row, from, self.columns as u32));
            }
        }
        rects.iter().map(|rect| rect.common(&whole)).collect()
    }
}

fn run(row: u32, from: u32, to: u32) -> Rect {
    Rect {
        x: from * TILE,
        y: row * TILE,
        width: (to - from) * TILE,
        height: TILE,
    }
}

/// Adds a run, to the one above it where both have the same columns.
fn push(rects: &mut Vec<Rect>, rect: Rect) {
    let above = rects.iter_mut().rev().take(8).find(|above| {
        above.x == rect.x && above.width == rect.width && above.y + above.height == rect.y
    });
    match above {
        Some(above) => above.height += rect.height,
        None => rects.push(rect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rectangles_at_the_ends_of_numbers_are_compared_without_wrapping() {
        let far = Rect {
            x: u32::MAX,
            y: 1,
            width: 2,
            height: u32::MAX,
        };
        assert!(!far.is_within(u32::MAX, u32::MAX));
        assert!(far.common(&Rect::of(100, 100)).is_empty());
        assert!(Rect::of(100, 100).is_within(100, 100));
        assert!(!Rect::of(101, 100).is_within(100, 100));
    }

    fn rect() -> impl Strategy<Value = Rect> {
        (0_u32..400, 0_u32..400, 0_u32..300, 0_u32..300).prop_map(|(x, y, width, height)| Rect {
            x,
            y,
            width,
            height,
        })
    }

    proptest! {
        #[test]
        fn what_changed_is_taken_once_and_nothing_lies_outside(
            (width, height) in (1_u32..300, 1_u32..300),
            changed in prop::collection::vec(rect(), 0..12),
        ) {
            let mut region = Region::new(width, height);
            changed.iter().for_each(|rect| region.add(*rect));
            let taken = region.take();
            prop_assert!(region.is_empty() && region.take().is_empty());
            for rect in &taken {
                prop_assert!(!rect.is_empty() && rect.is_within(width, height));
            }
            let has = |rects: &[Rect], x, y| {
                let pixel = Rect { x, y, width: 1, height: 1 };
                rects.iter().filter(|rect| !rect.common(&pixel).is_empty()).count()
            };
            for y in (0..height).step_by(7) {
                for x in (0..width).step_by(7) {
                    let covered = has(&taken, x, y);
                    prop_assert!(covered <= 1, "{x},{y} is sent twice");
                    prop_assert!(has(&changed, x, y) == 0 || covered == 1, "{x},{y} is lost");
                }
            }
        }
    }
}
