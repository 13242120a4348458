//! Finding frames in a stream of bytes: no socket, no device, only arithmetic on what a peer sent.
//!
//! ```text
//!  | taken | prefix frame | prefix frame | pre         |
//!          ^ start                        end ^
//! ```

/// Bytes of the length in front of a frame.
pub const PREFIX: usize = 4;
/// The longest frame that is taken or sent: 64 KiB. passt's are at most 65,534 bytes long.
pub const LONGEST: usize = 64 << 10;

/// Two of the longest, so that a long one never makes the socket be read in small bits.
const SIZE: usize = 2 * (PREFIX + LONGEST);

/// A length that no frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announces a frame of {0} bytes; the longest has {LONGEST}")]
pub struct TooLong(pub u32);

/// The prefix of a frame of `length` bytes; `None` for what is no frame or too long.
pub(super) fn prefix(length: usize) -> Option<[u8; PREFIX]> {
    let sensible = (1..=LONGEST).contains(&length);
    let length = u32::try_from(length).ok().filter(|_| sensible)?;
    Some(length.to_be_bytes())
}

/// Bytes that came from a peer, and the frames in them. Takes memory with the first byte.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Frames {
    /// Where further bytes go; never empty after [`Frames::front`] found no whole frame.
    pub fn room(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = vec![0; SIZE].into();
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes were written to the beginning of [`Frames::room`].
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// The oldest frame; `None` when it has not come whole. The same one until it is taken.
    ///
    /// # Errors
    /// A length that no frame has: there is no telling where the next one begins.
    pub fn front(&self) -> Result<Option<&[u8]>, TooLong> {
        let came = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = came.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*prefix);
        match usize::try_from(announced) {
            Ok(length) if length <= LONGEST => Ok(rest.get(..length)),
            _ => Err(TooLong(announced)),
        }
    }

    /// The oldest frame, which [`Frames::front`] has shown, is done with.
    pub fn take(&mut self) {
        if let Ok(Some(frame)) = self.front() {
            self.start += PREFIX + frame.len();
        }
    }
}
