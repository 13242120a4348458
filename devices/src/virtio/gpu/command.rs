//! Commands and responses as bytes (virtio 1.3 §5.7.6). Pure functions.

use crate::backend::display::Rect;

/// Bytes of the header of every command and response.
pub(super) const HEADER: usize = 24;
/// Bytes of the longest command without what trails it.
pub(super) const LONGEST: usize = 56;
/// Bytes of one piece of backing memory behind an attach command.
pub(super) const PIECE: usize = 16;
/// Outputs that a response has room for.
const OUTPUTS: usize = 16;
/// Room for an EDID in a response.
const EDID_ROOM: usize = 1024;
/// Flag of a header: the response is to carry the fence.
const FENCE: u32 = 1;

/// What went wrong, as the driver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No such command, or it makes no sense.
    Unspecified = 0x1200,
    /// More than the guest may have.
    OutOfMemory = 0x1201,
    /// There is one output, number 0.
    Scanout = 0x1202,
    /// No such resource, or it is there already.
    Resource = 0x1203,
    /// A rectangle, format, size or offset that cannot be.
    Parameter = 0x1205,
}

/// The header of a command, as far as the response repeats it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    flags: u32,
    fence: u64,
    context: u32,
    ring: u8,
}

/// The picture of a pointer and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CursorCommand {
    /// Only the place is new.
    pub(super) moved: bool,
    pub(super) scanout: u32,
    pub(super) resource: u32,
    pub(super) hot: (u32, u32),
}

/// What a driver asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    DisplayInfo,
    Create {
        resource: u32,
        format: u32,
        width: u32,
        height: u32,
    },
    Unref(u32),
    SetScanout {
        rect: Rect,
        scanout: u32,
        resource: u32,
    },
    Flush {
        rect: Rect,
        resource: u32,
    },
    Transfer {
        rect: Rect,
        offset: u64,
        resource: u32,
    },
    /// So many pieces follow.
    Attach {
        resource: u32,
        pieces: u32,
    },
    Detach(u32),
    Edid {
        scanout: u32,
    },
    Cursor(CursorCommand),
}

/// What a driver is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    Done,
    /// Width and height of the output.
    DisplayInfo(u32, u32),
    Edid(Vec<u8>),
    Failed(Failure),
}

/// Little-endian numbers, one after the other; beyond the end they are zero.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> u32 {
        let (number, rest) = match self.0.split_first_chunk::<4>() {
            Some((number, rest)) => (*number, rest),
            None => ([0; 4], &[][..]),
        };
        self.0 = rest;
        u32::from_le_bytes(number)
    }

    fn u64(&mut self) -> u64 {
        let low = u64::from(self.u32());
        low | u64::from(self.u32()) << 32
    }

    fn rect(&mut self) -> Rect {
        Rect {
            x: self.u32(),
            y: self.u32(),
            width: self.u32(),
            height: self.u32(),
        }
    }
}

/// The header and the command in `bytes`, which are as many as the driver gave, [`LONGEST`] at most.
pub(super) fn parse(bytes: &[u8]) -> (Header, Result<Command, Failure>) {
    let mut fields = Fields(bytes);
    let kind = fields.u32();
    let header = Header {
        flags: fields.u32(),
        fence: fields.u64(),
        context: fields.u32(),
        ring: bytes.get(20).copied().unwrap_or(0),
    };
    let length = match kind {
        0x100 => HEADER,
        0x101 => HEADER + 16,
        0x102 | 0x106 | 0x107 | 0x10a => HEADER + 8,
        0x103 | 0x104 => HEADER + 24,
        0x105 => HEADER + 32,
        0x300 | 0x301 => HEADER + 32,
        _ => return (header, Err(Failure::Unspecified)),
    };
    if bytes.len() < length {
        return (header, Err(Failure::Unspecified));
    }
    let mut fields = Fields(bytes.get(HEADER..).unwrap_or_default());
    let command = match kind {
        0x101 => Command::Create {
            resource: fields.u32(),
            format: fields.u32(),
            width: fields.u32(),
            height: fields.u32(),
        },
        0x102 => Command::Unref(fields.u32()),
        0x103 => Command::SetScanout {
            rect: fields.rect(),
            scanout: fields.u32(),
            resource: fields.u32(),
        },
        0x104 => Command::Flush {
            rect: fields.rect(),
            resource: fields.u32(),
        },
        0x105 => Command::Transfer {
            rect: fields.rect(),
            offset: fields.u64(),
            resource: fields.u32(),
        },
        0x106 => Command::Attach {
            resource: fields.u32(),
            pieces: fields.u32(),
        },
        0x107 => Command::Detach(fields.u32()),
        0x10a => Command::Edid {
            scanout: fields.u32(),
        },
        0x300 | 0x301 => {
            let scanout = fields.u32();
            let _place = (fields.u32(), fields.u32(), fields.u32());
            Command::Cursor(CursorCommand {
                moved: kind == 0x301,
                scanout,
                resource: fields.u32(),
                hot: (fields.u32(), fields.u32()),
            })
        }
        _ => Command::DisplayInfo,
    };
    (header, Ok(command))
}

/// Address and length of each piece of backing memory in `bytes`.
pub(super) fn pieces(bytes: &[u8]) -> Vec<(u64, u32)> {
    let piece = |bytes: &[u8]| {
        let mut fields = Fields(bytes);
        (fields.u64(), fields.u32())
    };
    bytes.chunks_exact(PIECE).map(piece).collect()
}

impl Response {
    /// The response to the command with this header.
    pub(super) fn bytes(&self, header: Header) -> Vec<u8> {
        let kind = match self {
            Self::Done => 0x1100,
            Self::DisplayInfo(..) => 0x1101,
            Self::Edid(_) => 0x1104,
            Self::Failed(failure) => *failure as u32,
        };
        let mut bytes = kind.to_le_bytes().to_vec();
        let fenced = header.flags & FENCE != 0;
        bytes.extend((header.flags & FENCE).to_le_bytes());
        bytes.extend(if fenced { header.fence } else { 0 }.to_le_bytes());
        bytes.extend(if fenced { header.context } else { 0 }.to_le_bytes());
        bytes.extend([if fenced { header.ring } else { 0 }, 0, 0, 0]);
        match self {
            Self::Done | Self::Failed(_) => {}
            Self::DisplayInfo(width, height) => {
                for number in [0, 0, *width, *height, 1, 0] {
                    bytes.extend(number.to_le_bytes());
                }
                bytes.resize(HEADER + OUTPUTS * 24, 0);
            }
            Self::Edid(edid) => {
                let size = u32::try_from(edid.len()).unwrap_or(0);
                bytes.extend(size.to_le_bytes());
                bytes.extend([0; 4]);
                bytes.extend(edid);
                bytes.resize(HEADER + 8 + EDID_ROOM, 0);
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u32, numbers: &[u32]) -> Vec<u8> {
        let head = [kind, 1, 7, 0, 3, 0];
        let all = head.iter().chain(numbers);
        all.flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn commands_are_read_as_the_specification_has_them() {
        let rect = Rect {
            x: 1,
            y: 2,
            width: 3,
            height: 4,
        };
        for (kind, numbers, expected) in [
            (0x100, &[][..], Some(Command::DisplayInfo)),
            (0x102, &[9, 0], Some(Command::Unref(9))),
            (
                0x103,
                &[1, 2, 3, 4, 0, 9],
                Some(Command::SetScanout {
                    rect,
                    scanout: 0,
                    resource: 9,
                }),
            ),
            (
                0x105,
                &[1, 2, 3, 4, 5, 6, 9, 0],
                Some(Command::Transfer {
                    rect,
                    offset: 6 << 32 | 5,
                    resource: 9,
                }),
            ),
            (0x105, &[1, 2, 3, 4, 5, 6, 9], None),
            (
                0x300,
                &[0, 50, 60, 0, 9, 4, 5, 0],
                Some(Command::Cursor(CursorCommand {
                    moved: false,
                    scanout: 0,
                    resource: 9,
                    hot: (4, 5),
                })),
            ),
            (0x200, &[0; 8], None),
            (0, &[], None),
        ] {
            let (header, command) = parse(&bytes(kind, numbers));
            assert_eq!((header.fence, header.context), (7, 3));
            assert_eq!(command.ok(), expected, "{kind:#x}");
        }
        assert_eq!(parse(&[]).1, Err(Failure::Unspecified));
    }

    #[test]
    fn responses_carry_the_fence_only_when_it_was_asked_for() {
        let (header, _) = parse(&bytes(0x100, &[]));
        let fenced = Response::Done.bytes(header);
        assert_eq!(fenced[..12], [0, 0x11, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        let plain = Response::Failed(Failure::Resource).bytes(Header::default());
        assert_eq!(plain[..12], [3, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Response::DisplayInfo(8, 6).bytes(header).len(), 408);
        assert_eq!(Response::Edid(vec![1; 128]).bytes(header).len(), 1056);
    }
}
