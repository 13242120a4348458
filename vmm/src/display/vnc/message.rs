//! What a client says after the handshake (RFC 6143 §7.5, and the extensions that we offer). Pure.

use super::pixels::{BadFormat, Format};
use devices::backend::display::Rect;

/// Encodings that a client may name; more are not looked at.
const MOST_ENCODINGS: usize = 1024;
/// Longest text of a clipboard, which is thrown away.
const MOST_TEXT: usize = 16 << 20;

/// Numbers of encodings (RFC 6143 §7.6 and §7.7; extensions as registered).
pub(super) mod encoding {
    pub(in super::super) const RAW: i32 = 0;
    pub(in super::super) const ZRLE: i32 = 16;
    pub(in super::super) const DESKTOP_SIZE: i32 = -223;
    pub(in super::super) const CURSOR: i32 = -239;
    pub(in super::super) const EXTENDED_KEYS: i32 = -258;
    pub(in super::super) const EXTENDED_DESKTOP_SIZE: i32 = -308;
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Pixels from now on.
    Format(Format),
    /// Encodings, the best first.
    Encodings(Vec<i32>),
    /// An update is wanted; without `incremental` also of what did not change.
    Request { incremental: bool, rect: Rect },
    /// A key by its meaning.
    Key { down: bool, keysym: u32 },
    /// A key by its place on the keyboard; the scancode may be 0.
    Scancode {
        down: bool,
        keysym: u32,
        scancode: u32,
    },
    /// The pointer.
    Pointer { buttons: u8, x: u16, y: u16 },
    /// So many further bytes are of no interest.
    Skip(usize),
    /// Another size of the picture is wanted.
    Resize { width: u16, height: u16 },
}

/// A message that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonsense(pub(super) &'static str);

impl From<BadFormat> for Nonsense {
    fn from(bad: BadFormat) -> Self {
        Self(bad.0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let half = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    u16::from_be_bytes(half.copied().unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    u32::from_be_bytes(word.copied().unwrap_or_default())
}

/// The first message in `bytes` and how long it is; `None` when it is not all there yet.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>, Nonsense> {
    let Some(kind) = bytes.first() else {
        return Ok(None);
    };
    // The fixed part, which says how long the rest is.
    let fixed = match kind {
        0 => 20,
        2 => 4,
        3 => 10,
        4 | 6 | 251 => 8,
        5 => 6,
        255 => 12,
        _ => return Err(Nonsense("a message of an unknown kind")),
    };
    if bytes.len() < fixed {
        return Ok(None);
    }
    let whole = match kind {
        2 => {
            let count = usize::from(u16_at(bytes, 2));
            if count > MOST_ENCODINGS {
                return Err(Nonsense("too many encodings"));
            }
            fixed + 4 * count
        }
        251 => fixed + 16 * usize::from(bytes.get(6).copied().unwrap_or(0)),
        _ => fixed,
    };
    let Some(bytes) = bytes.get(..whole) else {
        return Ok(None);
    };
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let message = match kind {
        0 => Message::Format(Format::parse(bytes.get(4..).unwrap_or_default())?),
        2 => {
            let numbers = bytes.get(4..).unwrap_or_default().chunks_exact(4);
            Message::Encodings(numbers.map(|n| u32_at(n, 0).cast_signed()).collect())
        }
        3 => Message::Request {
            incremental: byte(1) != 0,
            rect: Rect {
                x: u16_at(bytes, 2).into(),
                y: u16_at(bytes, 4).into(),
                width: u16_at(bytes, 6).into(),
                height: u16_at(bytes, 8).into(),
            },
        },
        4 => Message::Key {
            down: byte(1) != 0,
            keysym: u32_at(bytes, 4),
        },
        5 => Message::Pointer {
            buttons: byte(1),
            x: u16_at(bytes, 2),
            y: u16_at(bytes, 4),
        },
        6 => {
            let length = usize::try_from(u32_at(bytes, 4)).unwrap_or(usize::MAX);
            if length > MOST_TEXT {
                return Err(Nonsense("a clipboard without end"));
            }
            Message::Skip(length)
        }
        251 => Message::Resize {
            width: u16_at(bytes, 2),
            height: u16_at(bytes, 4),
        },
        _ if byte(1) == 0 => Message::Scancode {
            down: u16_at(bytes, 2) != 0,
            keysym: u32_at(bytes, 4),
            scancode: u32_at(bytes, 8),
        },
        _ => return Err(Nonsense("an extension that was not offered")),
    };
    Ok(Some((message, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_when_they_are_whole() {
        let cases: &[(&[u8], Message)] = &[
            (
                &[2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0x21],
                Message::Encodings(vec![16, -223]),
            ),
            (
                &[3, 1, 0, 1, 0, 2, 0, 3, 1, 0],
                Message::Request {
                    incremental: true,
                    rect: Rect {
                        x: 1,
                        y: 2,
                        width: 3,
                        height: 256,
                    },
                },
            ),
            (
                &[4, 1, 0, 0, 0, 0, 0xff, 0x0d],
                Message::Key {
                    down: true,
                    keysym: 0xff0d,
                },
            ),
            (
                &[5, 3, 1, 0, 0, 9],
                Message::Pointer {
                    buttons: 3,
                    x: 256,
                    y: 9,
                },
            ),
            (&[6, 0, 0, 0, 0, 0, 0, 7], Message::Skip(7)),
            (
                &[255, 0, 0, 1, 0, 0, 0, 65, 0, 0, 0, 30],
                Message::Scancode {
                    down: true,
                    keysym: 65,
                    scancode: 30,
                },
            ),
        ];
        for (bytes, expected) in cases {
            for length in 0..bytes.len() {
                assert_eq!(parse(&bytes[..length]), Ok(None), "{expected:?}");
            }
            let more = [*bytes, &[9, 9]].concat();
            assert_eq!(parse(&more), Ok(Some((expected.clone(), bytes.len()))));
        }
        let mut resize = vec![251, 0, 4, 0, 3, 0, 1, 0];
        assert_eq!(parse(&resize), Ok(None));
        resize.extend([0; 16]);
        let expected = Message::Resize {
            width: 1024,
            height: 768,
        };
        assert_eq!(parse(&resize), Ok(Some((expected, 24))));
        for bytes in [&[1_u8][..], &[2, 0, 255, 255], &[6, 0, 0, 0, 255, 0, 0, 0]] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
