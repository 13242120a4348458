//! Kernel, initrd and command line into guest memory, in one of two ways:
//!
//! ```text
//! kernel file --"HdrS" at 0x202--> bzImage (protocol >= 2.12) --------------> Linux64, zero page
//!             --"\x7fELF"--> PVH note ---------------------------------------> Pvh, start info
//!                        --> no note, but linked into the kernel half (vmlinux) -> Linux64, zero page
//!             --else--> refused
//! ```
//!
//! Everything is checked against the file and the memory map before the first byte is copied. Files
//! are read straight into guest memory. The parsers are ours and not `linux-loader`'s, whose ELF reader
//! checks no segment's end against RAM and can overflow on a note's offset; its structures of the two
//! boot protocols are used.

mod bzimage;
mod elf;
mod initrd;
mod le;
mod linux;
mod pvh;

use super::memory_map::{self, Kind};
use super::{BootError, BootFile, BootInput, Entry, Span, guest, layout};
use devices::memory::GuestMemory;

/// Bytes that decide what a file is, and hold both kinds of headers.
const HEAD: usize = 4096;
/// Linux's COMMAND_LINE_SIZE on x86, without the zero, for kernels whose file does not say.
const CMDLINE_LIMIT: usize = 2047;
/// What the identity page tables and both boot protocols can reach.
const FOUR_GIB: u64 = 1 << 32;

/// A piece of a kernel file and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Offset in the file.
    offset: u64,
    /// Bytes to copy.
    bytes: u64,
    /// Where it goes, with what follows the bytes and must read as zeros.
    to: Span,
}

/// What a kernel file asks for. All of it lies inside the file; whether there is RAM is checked next.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    pieces: Vec<Piece>,
    /// All that must be usable RAM: the pieces, and what the kernel writes before it reads the map.
    room: Vec<Span>,
    start: Start,
    /// The first address that the kernel leaves alone until it knows where the initrd is.
    end: u64,
    cmdline_limit: usize,
    /// The first address that the initrd must not reach.
    initrd_ceiling: u64,
}

/// How the kernel wants to be started.
#[derive(Debug, Clone, PartialEq)]
enum Start {
    Pvh {
        entry: u32,
    },
    Linux64 {
        entry: u64,
        header: Box<bzimage::SetupHeader>,
    },
}

/// Loads everything but ACPI and SMBIOS.
pub(super) fn load(
    memory: &GuestMemory,
    input: &BootInput<'_>,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let map = memory_map::entries(&input.board)?;
    let plan = plan(memory, input.kernel, &map)?;
    let cmdline = checked_cmdline(input.cmdline, plan.cmdline_limit)?;
    let initrd = match input.initrd {
        Some(file) => Some((file, initrd::place(file, &plan, &map)?)),
        None => None,
    };

    if !input.ram_is_zero {
        // The real-mode page too: kernels look for a BIOS data area there.
        guest::zero(memory, Span::new(0, layout::GDT.base))?;
        for span in layout::BOOT_DATA {
            if span.base < layout::LOW_RAM_END {
                guest::zero(memory, span)?;
            }
        }
    }
    for piece in &plan.pieces {
        copy(memory, input, *piece)?;
    }
    if let Some((file, span)) = initrd {
        guest::read_file(memory, file, 0, span)?;
    }
    let mut text = cmdline.to_vec();
    text.push(0);
    guest::write(memory, layout::CMDLINE.base, &text)?;

    let handed = Handed {
        map: &map,
        initrd: initrd.map(|(_, span)| span),
        rsdp,
    };
    match plan.start {
        Start::Pvh { entry } => pvh::write(memory, entry, &handed),
        Start::Linux64 { entry, header } => linux::write(memory, entry, *header, &handed),
    }
}

/// What both protocols hand to the kernel.
struct Handed<'a> {
    map: &'a [memory_map::Entry],
    initrd: Option<Span>,
    rsdp: u64,
}

fn plan(
    memory: &GuestMemory,
    kernel: BootFile<'_>,
    map: &[memory_map::Entry],
) -> Result<Plan, BootError> {
    let len = guest::length(kernel)?;
    let head = guest::read_some(kernel, 0, HEAD)?;
    let plan = if let Some(header) = bzimage::find(&head) {
        bzimage::plan(header, len).map_err(|reason| BootError::Unsupported {
            name: kernel.name.to_string(),
            reason,
        })?
    } else if elf::is_elf(&head) {
        elf::plan(kernel, &head, len)?
    } else {
        return Err(BootError::NotAKernel {
            name: kernel.name.to_string(),
            reason: format!("it starts with {}", shown(&head)),
        });
    };
    for span in &plan.room {
        check_room(memory, kernel, map, *span)?;
    }
    Ok(plan)
}

/// The first bytes of a file that is no kernel, for the message.
fn shown(head: &[u8]) -> String {
    let start: String = head
        .iter()
        .take(8)
        .map(|byte| char::from(*byte))
        .collect::<String>()
        .escape_debug()
        .to_string();
    format!("'{start}'")
}

/// Refuses a span that is not usable RAM, or that would overwrite the boot data.
fn check_room(
    memory: &GuestMemory,
    kernel: BootFile<'_>,
    map: &[memory_map::Entry],
    span: Span,
) -> Result<(), BootError> {
    if let Some(taken) = layout::BOOT_DATA.iter().find(|data| data.overlaps(span)) {
        return Err(BootError::Unsupported {
            name: kernel.name.to_string(),
            reason: format!(
                "it wants to be at {:#x} to {:#x}, over the boot data at {:#x}; link it at 1 MiB or above",
                span.base,
                span.end(),
                taken.base
            ),
        });
    }
    let usable = map.iter().any(|entry| {
        entry.kind == Kind::Ram && entry.span.base <= span.base && span.end() <= entry.span.end()
    });
    if usable && span.end() <= FOUR_GIB && guest::is_ram(memory, span) {
        return Ok(());
    }
    Err(BootError::NoRoom {
        what: "kernel",
        name: kernel.name.to_string(),
        from: span.base,
        to: span.end(),
    })
}

fn checked_cmdline(cmdline: &str, limit: usize) -> Result<&[u8], BootError> {
    let limit = limit.min(usize::try_from(layout::CMDLINE.len).unwrap_or(usize::MAX) - 1);
    if cmdline.len() > limit {
        return Err(BootError::CmdlineTooLong {
            len: cmdline.len(),
            limit,
        });
    }
    match cmdline.find('\0') {
        Some(at) => Err(BootError::CmdlineZero(at)),
        None => Ok(cmdline.as_bytes()),
    }
}

fn copy(memory: &GuestMemory, input: &BootInput<'_>, piece: Piece) -> Result<(), BootError> {
    if piece.bytes > 0 {
        let to = Span::new(piece.to.base, piece.bytes);
        guest::read_file(memory, input.kernel, piece.offset, to)?;
    }
    if input.ram_is_zero {
        return Ok(());
    }
    let rest = piece.to.len.saturating_sub(piece.bytes);
    guest::zero(memory, Span::new(piece.to.end() - rest, rest))
}

#[cfg(test)]
mod tests;
