//! The words of the protocol: numbers, requests and replies as bytes. Pure functions, no I/O.
//!
//! Source: the NBD protocol, "doc/proto.md" of the NetworkBlockDevice project. All numbers are
//! big-endian. Must never trust a length: whoever reads one compares it with a bound first.

/// The first bytes of a server.
pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// The second word of a server, and the first of every option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, of both sides: fixed newstyle, and no padding after an export name.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 1 << 1;

/// Options of the handshake.
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const STARTTLS: u32 = 5;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(super) mod reply {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERR_UNSUP: u32 = (1 << 31) | 1;
    pub(in crate::nbd) const ERR_INVALID: u32 = (1 << 31) | 3;
    pub(in crate::nbd) const ERR_UNKNOWN: u32 = (1 << 31) | 6;
    pub(in crate::nbd) const ERR_TOO_BIG: u32 = (1 << 31) | 9;
}

/// What an INFO or GO is told.
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const DESCRIPTION: u16 = 2;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod transmission {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_FUA: u16 = 1 << 3;
    pub(in crate::nbd) const SEND_TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const SEND_DF: u16 = 1 << 7;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const SEND_CACHE: u16 = 1 << 10;
    pub(in crate::nbd) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of requests.
mod flag {
    pub(super) const FUA: u16 = 1;
    pub(super) const NO_HOLE: u16 = 1 << 1;
    pub(super) const DF: u16 = 1 << 2;
    pub(super) const REQ_ONE: u16 = 1 << 3;
    pub(super) const FAST_ZERO: u16 = 1 << 4;
}

/// Errors, as the protocol numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    NotPermitted = 1,
    Io = 5,
    NoMemory = 12,
    Invalid = 22,
    NoSpace = 28,
    Overflow = 75,
    NotSupported = 95,
}

impl Code {
    /// The nearest word of the protocol for an errno.
    pub(super) fn of_errno(errno: i32) -> Code {
        match errno {
            libc::EPERM | libc::EROFS | libc::EACCES => Code::NotPermitted,
            libc::ENOMEM => Code::NoMemory,
            libc::EINVAL => Code::Invalid,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Code::NoSpace,
            libc::EOVERFLOW => Code::Overflow,
            libc::ENOTSUP => Code::NotSupported,
            _ => Code::Io,
        }
    }
}

/// Bytes of a request without its payload.
pub(super) const REQUEST_LEN: usize = 28;
/// Most bytes that one request reads or writes.
pub(super) const MAX_PAYLOAD: u32 = 32 << 20;
/// The only metadata context, and the number that it gets.
pub(super) const BASE_ALLOCATION: &str = "base:allocation";
pub(super) const CONTEXT_ID: u32 = 1;

/// A request as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What both sides agreed on, as far as requests depend on it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    /// Bytes of the export.
    pub(super) size: u64,
    pub(super) read_only: bool,
    /// Replies come in chunks.
    pub(super) structured: bool,
    /// Block status may be asked for.
    pub(super) context: bool,
}

/// A request that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read { whole: bool },
    Write { fua: bool },
    Flush,
    Trim { fua: bool },
    WriteZeroes { fua: bool, unmap: bool, fast: bool },
    Cache,
    BlockStatus { one: bool },
    Disconnect,
}

/// Why a request is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) text: &'static str,
}

fn refuse<T>(code: Code, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal { code, text })
}

const WRITE: u16 = 1;

impl Request {
    /// None if the bytes are no request: nothing that follows can be understood.
    pub(super) fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Request> {
        if be32(bytes, 0) != REQUEST_MAGIC {
            return None;
        }
        Some(Request {
            flags: be16(bytes, 4),
            kind: be16(bytes, 6),
            cookie: be64(bytes, 8),
            offset: be64(bytes, 16),
            len: be32(bytes, 24),
        })
    }

    /// Bytes that follow the request, whether it is refused or not.
    pub(super) fn payload(&self) -> u32 {
        if self.kind == WRITE { self.len } else { 0 }
    }

    /// What it asks for.
    ///
    /// # Errors
    /// What to answer to a request that cannot be.
    pub(super) fn command(&self, terms: &Terms) -> Result<Command, Refusal> {
        let has = |bit: u16| self.flags & bit != 0;
        let fua = has(flag::FUA);
        let (command, allowed) = match self.kind {
            0 => (
                Command::Read {
                    whole: has(flag::DF),
                },
                flag::DF,
            ),
            WRITE => (Command::Write { fua }, 0),
            2 => (Command::Disconnect, u16::MAX),
            3 => (Command::Flush, 0),
            4 => (Command::Trim { fua }, 0),
            5 => (Command::Cache, 0),
            6 => {
                let (unmap, fast) = (!has(flag::NO_HOLE), has(flag::FAST_ZERO));
                (
                    Command::WriteZeroes { fua, unmap, fast },
                    flag::NO_HOLE | flag::FAST_ZERO,
                )
            }
            7 => (
                Command::BlockStatus {
                    one: has(flag::REQ_ONE),
                },
                flag::REQ_ONE,
            ),
            _ => return refuse(Code::Invalid, "a command that is not known"),
        };
        // FUA is harmless with every command.
        if self.flags & !(allowed | flag::FUA) != 0 {
            return refuse(Code::Invalid, "a flag that this command does not have");
        }
        if command == Command::Disconnect {
            return Ok(command);
        }
        self.check(command, terms)
    }

    fn check(&self, command: Command, terms: &Terms) -> Result<Command, Refusal> {
        let writes = matches!(
            command,
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
        );
        if writes && terms.read_only {
            return refuse(Code::NotPermitted, "the export is read-only");
        }
        match command {
            Command::Flush if self.offset != 0 || self.len != 0 => {
                return refuse(Code::Invalid, "a flush has neither offset nor length");
            }
            Command::Read { whole: true } if !terms.structured => {
                return refuse(Code::Invalid, "DF without structured replies");
            }
            Command::Read { .. } | Command::Write { .. } if self.len > MAX_PAYLOAD => {
                return refuse(Code::Overflow, "more than 32 MiB in one request");
            }
            Command::BlockStatus { .. } if !terms.context => {
                return refuse(Code::Invalid, "base:allocation was not negotiated");
            }
            Command::BlockStatus { .. } if self.len == 0 => {
                return refuse(Code::Invalid, "the status of no byte");
            }
            _ => {}
        }
        let end = self.offset.checked_add(u64::from(self.len));
        if end.is_none_or(|end| end > terms.size) {
            let code = if writes { Code::NoSpace } else { Code::Invalid };
            return refuse(code, "the range reaches over the end of the export");
        }
        Ok(command)
    }
}

/// What the server says first.
pub(super) fn greeting() -> Vec<u8> {
    let mut out = MAGIC.to_be_bytes().to_vec();
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out
}

/// A reply to an option.
pub(super) fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    // What the server says is short; names are bounded by the command line.
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

/// A reply without chunks; the data of a read follows.
pub(super) fn simple_reply(cookie: u64, error: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(error.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunk<'a> {
    /// Nothing: success.
    None,
    /// `len` bytes of data from `offset`, which follow.
    Data { offset: u64, len: u32 },
    /// `len` zeroes from `offset`.
    Hole { offset: u64, len: u32 },
    /// Lengths and flags.
    Status(&'a [(u32, u32)]),
    /// A failure, with a reason for people.
    Error(Code, &'a str),
}

/// The only, and so the last, chunk of a reply.
pub(super) fn chunk(cookie: u64, chunk: Chunk<'_>) -> Vec<u8> {
    const DONE: u16 = 1;
    let mut body = Vec::with_capacity(16);
    let mut more = 0;
    let kind: u16 = match chunk {
        Chunk::None => 0,
        Chunk::Data { offset, len } => {
            body.extend(offset.to_be_bytes());
            more = len;
            1
        }
        Chunk::Hole { offset, len } => {
            body.extend(offset.to_be_bytes());
            body.extend(len.to_be_bytes());
            2
        }
        Chunk::Status(extents) => {
            body.extend(CONTEXT_ID.to_be_bytes());
            for (len, flags) in extents {
                body.extend(len.to_be_bytes());
                body.extend(flags.to_be_bytes());
            }
            5
        }
        Chunk::Error(code, text) => {
            let text = text.as_bytes();
            let text = text.get(..text.len().min(1024)).unwrap_or_default();
            body.extend((code as u32).to_be_bytes());
            body.extend((text.len() as u16).to_be_bytes());
            body.extend(text);
            (1 << 15) | 1
        }
    };
    let mut out = Vec::with_capacity(20 + body.len());
    out.extend(CHUNK_MAGIC.to_be_bytes());
    out.extend(DONE.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((body.len() as u32).saturating_add(more).to_be_bytes());
    out.extend(body);
    out
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(part) = bytes.get(at..at.saturating_add(N)) {
        out.copy_from_slice(part);
    }
    out
}

/// The number at a place; zero where there are too few bytes.
pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// As [`be16`].
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// As [`be16`].
pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        size: 1 << 20,
        read_only: false,
        structured: true,
        context: true,
    };

    fn request(kind: u16, flags: u16, offset: u64, len: u32) -> Request {
        Request {
            flags,
            kind,
            cookie: 7,
            offset,
            len,
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_protocols_codes() {
        let code = |r: Request, t: &Terms| r.command(t).unwrap_err().code;
        let read_only = Terms {
            read_only: true,
            ..TERMS
        };
        let plain = Terms {
            structured: false,
            context: false,
            ..TERMS
        };
        assert_eq!(code(request(99, 0, 0, 1), &TERMS), Code::Invalid);
        assert_eq!(code(request(0, 1 << 15, 0, 1), &TERMS), Code::Invalid);
        assert_eq!(code(request(0, 0, 1 << 20, 1), &TERMS), Code::Invalid);
        assert_eq!(code(request(1, 0, u64::MAX, 2), &TERMS), Code::NoSpace);
        assert_eq!(code(request(1, 0, 0, 1), &read_only), Code::NotPermitted);
        assert_eq!(code(request(0, 0, 0, u32::MAX), &TERMS), Code::Overflow);
        assert_eq!(code(request(0, 1 << 2, 0, 1), &plain), Code::Invalid);
        assert_eq!(code(request(7, 0, 0, 1), &plain), Code::Invalid);
        assert_eq!(code(request(3, 0, 0, 1), &TERMS), Code::Invalid);
        assert_eq!(
            request(6, 1 | 2 | 16, 0, 512).command(&TERMS),
            Ok(Command::WriteZeroes {
                fua: true,
                unmap: false,
                fast: true
            })
        );
        assert_eq!(
            request(2, 0, u64::MAX, u32::MAX).command(&plain),
            Ok(Command::Disconnect)
        );
    }

    proptest! {
        #[test]
        fn accepted_ranges_are_inside_the_export(
            kind in 0u16..9, flags: u16, offset: u64, len: u32, small: bool
        ) {
            let offset = if small { offset % (2 << 20) } else { offset };
            let r = request(kind, flags, offset, len);
            if let Ok(command) = r.command(&TERMS)
                && command != Command::Disconnect
            {
                prop_assert!(offset + u64::from(len) <= TERMS.size);
            }
        }

        #[test]
        fn requests_are_read_as_they_are_written(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u32
        ) {
            let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
            bytes.extend(flags.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(cookie.to_be_bytes());
            bytes.extend(offset.to_be_bytes());
            bytes.extend(len.to_be_bytes());
            let wire: [u8; REQUEST_LEN] = bytes.try_into().unwrap();
            let read = Request { flags, kind, cookie, offset, len };
            prop_assert_eq!(Request::parse(&wire), Some(read));
        }
    }
}
