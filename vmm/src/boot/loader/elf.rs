//! ELF kernels, 32 or 64 bits: any that has a PVH note (Xen's `XEN_ELFNOTE_PHYS32_ENTRY`), and a
//! Linux vmlinux without one.
//!
//! All numbers of the file are untrusted. Sizes that steer an allocation are bounded here; a segment
//! must lie inside the file, and the caller checks where it goes. A program for an operating system
//! must be refused: it has neither the note nor addresses in the kernel half.

use super::{CMDLINE_LIMIT, FOUR_GIB, Piece, Plan, Start, bzimage, le};
use crate::boot::{BootError, BootFile, Span, guest};

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Program headers that are read at most; a vmlinux has five.
const MAX_HEADERS: u16 = 64;
/// Bytes of one note segment that are read at most; a vmlinux has about 500.
const MAX_NOTES: u64 = 64 << 10;
const XEN_NOTE_PHYS32_ENTRY: u32 = 18;
/// Where the kernel half of the 64-bit address space begins.
const KERNEL_HALF: u64 = 1 << 63;

#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    offset: u64,
    virt: u64,
    phys: u64,
    file_size: u64,
    mem_size: u64,
    align: u64,
}

/// Whether a file with this beginning is meant to be ELF.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

/// What to load of an ELF file of `len` bytes that begins with `head`.
pub(super) fn plan(file: BootFile<'_>, head: &[u8], len: u64) -> Result<Plan, BootError> {
    let refuse = |reason: String| BootError::NotAKernel {
        name: file.name.to_string(),
        reason,
    };
    let (entry, segments) = segments(file, head)?.map_err(refuse)?;
    let mut pieces = Vec::new();
    let mut end = 0;
    for segment in segments.iter().filter(|segment| segment.kind == PT_LOAD) {
        let piece = piece(segment, len).map_err(refuse)?;
        if piece.to.len > 0 {
            end = end.max(piece.to.end());
            pieces.push(piece);
        }
    }
    if pieces.is_empty() {
        return Err(refuse("the ELF file has nothing to load".into()));
    }
    let start = match pvh_entry(file, &segments)? {
        Some(entry) => pvh_start(entry, &pieces).map_err(refuse)?,
        None => linux_start(entry, &segments).map_err(refuse)?,
    };
    Ok(Plan {
        room: pieces.iter().map(|piece| piece.to).collect(),
        pieces,
        start,
        end,
        cmdline_limit: CMDLINE_LIMIT,
        initrd_ceiling: FOUR_GIB,
    })
}

/// The entry point and all program headers. The outer error is about reading, the inner about content.
type Segments = Result<(u64, Vec<Segment>), String>;

fn segments(file: BootFile<'_>, head: &[u8]) -> Result<Segments, BootError> {
    let Some(header) = header(head) else {
        return Ok(Err("the ELF header is cut short".into()));
    };
    let header = match header {
        Ok(header) => header,
        Err(reason) => return Ok(Err(reason)),
    };
    let size = if header.wide { 56 } else { 32 };
    let table = guest::read_some(file, header.table, size * usize::from(header.count))?;
    let parse = if header.wide { wide } else { narrow };
    let segments: Option<Vec<Segment>> = table.chunks(size).map(parse).collect();
    Ok(match segments {
        Some(segments) if segments.len() == usize::from(header.count) => {
            Ok((header.entry, segments))
        }
        _ => Err("the ELF program headers lie outside the file".into()),
    })
}

struct Header {
    wide: bool,
    entry: u64,
    table: u64,
    count: u16,
}

/// The ELF header; `None` when it is not all there.
fn header(head: &[u8]) -> Option<Result<Header, String>> {
    let class = *head.get(4)?;
    let data = *head.get(5)?;
    let kind = le::u16(head, 16)?;
    let machine = le::u16(head, 18)?;
    let wide = class == CLASS_64;
    if data != LITTLE_ENDIAN || !(wide || class == CLASS_32) {
        return Some(Err("the ELF file is not little-endian x86".into()));
    }
    if machine != if wide { MACHINE_X86_64 } else { MACHINE_386 } {
        return Some(Err(format!(
            "the ELF file is for machine {machine}, not x86"
        )));
    }
    if kind != TYPE_EXEC && kind != TYPE_DYN {
        return Some(Err(format!(
            "the ELF file has type {kind}; an executable has 2"
        )));
    }
    let (entry, table, size_at, count_at, want) = if wide {
        (le::u64(head, 24)?, le::u64(head, 32)?, 54, 56, 56)
    } else {
        let entry = u64::from(le::u32(head, 24)?);
        (entry, u64::from(le::u32(head, 28)?), 42, 44, 32)
    };
    let (size, count) = (le::u16(head, size_at)?, le::u16(head, count_at)?);
    if size != want || count == 0 || count > MAX_HEADERS {
        return Some(Err(format!(
            "the ELF file has {count} program headers of {size} bytes; 1 to {MAX_HEADERS} of \
             {want} bytes are understood"
        )));
    }
    Some(Ok(Header {
        wide,
        entry,
        table,
        count,
    }))
}

fn wide(bytes: &[u8]) -> Option<Segment> {
    Some(Segment {
        kind: le::u32(bytes, 0)?,
        offset: le::u64(bytes, 8)?,
        virt: le::u64(bytes, 16)?,
        phys: le::u64(bytes, 24)?,
        file_size: le::u64(bytes, 32)?,
        mem_size: le::u64(bytes, 40)?,
        align: le::u64(bytes, 48)?,
    })
}

fn narrow(bytes: &[u8]) -> Option<Segment> {
    let word = |at| le::u32(bytes, at).map(u64::from);
    Some(Segment {
        kind: le::u32(bytes, 0)?,
        offset: word(4)?,
        virt: word(8)?,
        phys: word(12)?,
        file_size: word(16)?,
        mem_size: word(20)?,
        align: word(28)?,
    })
}

fn piece(segment: &Segment, len: u64) -> Result<Piece, String> {
    let inside = segment
        .offset
        .checked_add(segment.file_size)
        .is_some_and(|end| end <= len);
    if !inside {
        return Err(format!(
            "an ELF segment of {} bytes at offset {:#x} lies outside the file of {len} bytes",
            segment.file_size, segment.offset
        ));
    }
    if segment.mem_size < segment.file_size {
        return Err(format!(
            "an ELF segment has {} bytes in the file and {} in memory",
            segment.file_size, segment.mem_size
        ));
    }
    if segment.phys.checked_add(segment.mem_size).is_none() {
        return Err(format!(
            "an ELF segment of {} bytes at {:#x} passes the end of the address space",
            segment.mem_size, segment.phys
        ));
    }
    Ok(Piece {
        offset: segment.offset,
        bytes: segment.file_size,
        to: Span::new(segment.phys, segment.mem_size),
    })
}

/// The entry that a PVH note gives, if there is one.
fn pvh_entry(file: BootFile<'_>, segments: &[Segment]) -> Result<Option<u64>, BootError> {
    for segment in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let len = usize::try_from(segment.file_size.min(MAX_NOTES)).unwrap_or_default();
        let notes = guest::read_some(file, segment.offset, len)?;
        // Linkers align the parts of a note to 4 bytes, some to 8 when the segment says so.
        let found = find_note(&notes, 4)
            .or_else(|| (segment.align == 8).then(|| find_note(&notes, 8)).flatten());
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn find_note(notes: &[u8], align: usize) -> Option<u64> {
    let mut at = 0usize;
    loop {
        let name_len = usize::try_from(le::u32(notes, at)?).ok()?;
        let desc_len = usize::try_from(le::u32(notes, at.checked_add(4)?)?).ok()?;
        let kind = le::u32(notes, at.checked_add(8)?)?;
        let name_at = at.checked_add(12)?;
        let name_end = name_at.checked_add(name_len)?;
        let desc_at = name_end.checked_next_multiple_of(align)?;
        let desc_end = desc_at.checked_add(desc_len)?;
        if kind == XEN_NOTE_PHYS32_ENTRY && notes.get(name_at..name_end)? == b"Xen\0" {
            return match desc_len {
                4 => le::u32(notes, desc_at).map(u64::from),
                8 => le::u64(notes, desc_at),
                _ => None,
            };
        }
        at = desc_end.checked_next_multiple_of(align)?;
    }
}

fn pvh_start(entry: u64, pieces: &[Piece]) -> Result<Start, String> {
    let loaded = pieces
        .iter()
        .any(|piece| (piece.to.base..piece.to.end()).contains(&entry));
    match u32::try_from(entry) {
        Ok(entry) if loaded => Ok(Start::Pvh { entry }),
        _ => Err(format!(
            "its PVH note points to {entry:#x}, where nothing is loaded"
        )),
    }
}

/// vmlinux without a note is entered at the ELF entry, which is physical while its segments are
/// linked into the kernel half.
fn linux_start(entry: u64, segments: &[Segment]) -> Result<Start, String> {
    let in_kernel = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD && segment.virt >= KERNEL_HALF)
        .any(|segment| {
            let span = Span::new(segment.phys, segment.file_size);
            (span.base..span.end()).contains(&entry)
        });
    if in_kernel {
        return Ok(Start::Linux64 {
            entry,
            header: Box::new(bzimage::made_up()),
        });
    }
    Err("it is an ELF program, not a kernel".into())
}
