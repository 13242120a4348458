//! A picture of the guest: our copy of its pixels, and where in guest memory it comes from.

use super::command::Failure;
use crate::backend::display::{PIXEL, Rect};
use crate::memory::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

/// Longest side of a picture, in pixels.
pub(super) const MAX_SIDE: u32 = 16384;

/// Where blue, green, red and opacity are in the four bytes of a pixel (virtio 1.3 §5.7.6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format([usize; 4]);

impl Format {
    /// The format with this number.
    pub(super) fn known(number: u32) -> Option<Self> {
        match number {
            // B8G8R8A8, B8G8R8X8
            1 | 2 => Some(Self([0, 1, 2, 3])),
            // A8R8G8B8, X8R8G8B8
            3 | 4 => Some(Self([3, 2, 1, 0])),
            // R8G8B8A8, R8G8B8X8
            67 | 134 => Some(Self([2, 1, 0, 3])),
            // X8B8G8R8, A8B8G8R8
            68 | 121 => Some(Self([1, 2, 3, 0])),
            _ => None,
        }
    }

    /// Turns pixels into blue, green, red, opacity.
    fn convert(self, from: &[u8], to: &mut [u8]) {
        if self.0 == [0, 1, 2, 3] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            return;
        }
        for (to, from) in to.chunks_exact_mut(PIXEL).zip(from.chunks_exact(PIXEL)) {
            for (to, at) in to.iter_mut().zip(self.0) {
                *to = from.get(at).copied().unwrap_or(0);
            }
        }
    }
}

/// Pieces of guest memory that a picture comes from, as if they were one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backing {
    pieces: Vec<(u64, u32)>,
    /// Where each piece ends, counted from the first byte of all.
    ends: Vec<u64>,
}

impl Backing {
    pub(super) fn new(pieces: Vec<(u64, u32)>) -> Self {
        let mut end = 0_u64;
        let ends = pieces.iter().map(|(_, length)| {
            end += u64::from(*length);
            end
        });
        let ends = ends.collect();
        Self { pieces, ends }
    }

    pub(super) fn pieces(&self) -> &[(u64, u32)] {
        &self.pieces
    }

    /// Copies what is at `offset`; false when there is less, or no RAM.
    fn read(&self, memory: &GuestMemory, offset: u64, mut to: &mut [u8]) -> bool {
        let mut offset = offset;
        let first = self.ends.partition_point(|end| *end <= offset);
        for at in first..self.pieces.len() {
            if to.is_empty() {
                return true;
            }
            let (Some((address, length)), Some(end)) = (self.pieces.get(at), self.ends.get(at))
            else {
                return false;
            };
            let inside = u64::from(*length).saturating_sub(end.saturating_sub(offset));
            let here = (u64::from(*length) - inside).min(to.len() as u64);
            let (part, rest) = to.split_at_mut(here as usize);
            let Some(address) = address.checked_add(inside) else {
                return false;
            };
            if memory.read_slice(part, GuestAddress(address)).is_err() {
                return false;
            }
            to = rest;
            offset += here;
        }
        to.is_empty()
    }
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// The number of its format.
    pub(super) format_number: u32,
    format: Format,
    pub(super) width: u32,
    pub(super) height: u32,
    /// As the guest has them.
    pub(super) pixels: Vec<u8>,
    pub(super) backing: Option<Backing>,
}

/// Bytes of a picture; `None` when there is no such picture.
pub(super) fn bytes(width: u32, height: u32) -> Option<u64> {
    let sides = 1..=MAX_SIDE;
    (sides.contains(&width) && sides.contains(&height))
        .then(|| u64::from(width) * u64::from(height) * PIXEL as u64)
}

impl Resource {
    /// A black picture, whose size has been found right by [`bytes`].
    ///
    /// # Errors
    /// A format that is not known.
    pub(super) fn new(format_number: u32, width: u32, height: u32) -> Result<Self, Failure> {
        let length = bytes(width, height).ok_or(Failure::Parameter)?;
        Ok(Self {
            format_number,
            format: Format::known(format_number).ok_or(Failure::Parameter)?,
            width,
            height,
            pixels: vec![0; usize::try_from(length).map_err(|_| Failure::OutOfMemory)?],
            backing: None,
        })
    }

    fn stride(&self) -> usize {
        self.width as usize * PIXEL
    }

    /// Copies a rectangle from guest memory, where its first pixel is at `offset`.
    ///
    /// # Errors
    /// A rectangle outside of the picture, no backing, or less memory than it takes.
    pub(super) fn transfer(
        &mut self,
        memory: &GuestMemory,
        rect: Rect,
        offset: u64,
    ) -> Result<(), Failure> {
        if rect.is_empty() || !rect.is_within(self.width, self.height) {
            return Err(Failure::Parameter);
        }
        let backing = self.backing.as_ref().ok_or(Failure::Unspecified)?;
        let stride = self.width as usize * PIXEL;
        let columns = rect.x as usize * PIXEL..(rect.x + rect.width) as usize * PIXEL;
        let rows = self.pixels.chunks_exact_mut(stride);
        for (row, pixels) in (0_u64..).zip(rows.skip(rect.y as usize).take(rect.height as usize)) {
            let at = offset
                .checked_add(row * stride as u64)
                .ok_or(Failure::Parameter)?;
            let part = pixels.get_mut(columns.clone()).unwrap_or_default();
            if !backing.read(memory, at, part) {
                return Err(Failure::Parameter);
            }
        }
        Ok(())
    }

    /// Pixels of one row from column `x` on, as blue, green, red, opacity.
    pub(super) fn row(&self, x: u32, y: u32, to: &mut [u8]) {
        let start = y as usize * self.stride() + x as usize * PIXEL;
        let from = self.pixels.get(start..).unwrap_or_default();
        let length = to.len().min(from.len());
        self.format
            .convert(from.get(..length).unwrap_or_default(), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_pieces_is_read_as_one_and_never_beyond_its_end() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000)]).expect("memory");
        for at in 0..0x100_u64 {
            memory
                .write_obj(at as u8, GuestAddress(0x1000 + at))
                .expect("RAM");
        }
        let backing = Backing::new(vec![
            (0x1000, 3),
            (0x1010, 0),
            (0x1020, 5),
            (0x1fff_ffff, 8),
        ]);
        let mut got = [0; 6];
        assert!(backing.read(&memory, 1, &mut got));
        assert_eq!(got, [1, 2, 0x20, 0x21, 0x22, 0x23]);
        assert!(backing.read(&memory, 8, &mut []));
        for (offset, length) in [(3, 6), (8, 1), (15, 2), (16, 1), (u64::MAX, 1)] {
            assert!(
                !backing.read(&memory, offset, &mut vec![0; length]),
                "{offset}"
            );
        }
    }

    #[test]
    fn every_known_format_ends_up_as_blue_green_red() {
        for (number, pixel) in [
            (1, [1, 2, 3, 4]),
            (2, [1, 2, 3, 4]),
            (3, [4, 3, 2, 1]),
            (4, [4, 3, 2, 1]),
            (67, [3, 2, 1, 4]),
            (134, [3, 2, 1, 4]),
            (68, [4, 1, 2, 3]),
            (121, [4, 1, 2, 3]),
        ] {
            let mut resource = Resource::new(number, 1, 1).expect("a known format");
            resource.pixels = pixel.to_vec();
            let mut out = [0; 4];
            resource.row(0, 0, &mut out);
            assert_eq!(out, [1, 2, 3, 4], "format {number}");
        }
        assert!(Resource::new(5, 1, 1).is_err() && Resource::new(1, 0, 1).is_err());
        assert_eq!(bytes(16384, 16384), Some(1 << 30));
        assert_eq!((bytes(16385, 1), bytes(0, 1)), (None, None));
    }
}
