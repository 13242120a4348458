//! Writing into guest RAM with errors that name the place, and reading files straight into it.

use super::{BootError, BootFile, Span};
use devices::memory::GuestMemory;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Largest part that one read asks for; the kernel gives at most 2 GiB at once.
const READ_PIECE: u64 = 1 << 30;
const ZEROS: [u8; 4096] = [0; 4096];

/// Writes `bytes` at `address`.
pub(super) fn write(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|error| BootError::Memory {
            address,
            len: bytes.len() as u64,
            reason: error.to_string(),
        })
}

/// Clears a span.
pub(super) fn zero(memory: &GuestMemory, span: Span) -> Result<(), BootError> {
    let mut at = span.base;
    while at < span.end() {
        let piece = (span.end() - at).min(ZEROS.len() as u64);
        let zeros = usize::try_from(piece).ok().and_then(|n| ZEROS.get(..n));
        write(memory, at, zeros.unwrap_or_default())?;
        at += piece;
    }
    Ok(())
}

/// Whether all of `span` is RAM.
pub(super) fn is_ram(memory: &GuestMemory, span: Span) -> bool {
    span.base.checked_add(span.len).is_some()
        && usize::try_from(span.len)
            .is_ok_and(|len| memory.check_range(GuestAddress(span.base), len))
}

/// Copies `span.len` bytes of `file` from `offset` to `span`, without a buffer in between.
pub(super) fn read_file(
    memory: &GuestMemory,
    file: BootFile<'_>,
    offset: u64,
    span: Span,
) -> Result<(), BootError> {
    let failed = |source: io::Error| BootError::Read {
        name: file.name.to_string(),
        source,
    };
    if !is_ram(memory, span) {
        return Err(BootError::Memory {
            address: span.base,
            len: span.len,
            reason: "it is not all RAM".into(),
        });
    }
    let mut source = file.file;
    source.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut at = span.base;
    while at < span.end() {
        // Never across two regions: a short read would leave a gap between them.
        let here = memory.find_region(GuestAddress(at)).map_or(0, |region| {
            region.start_addr().0.saturating_add(region.len()) - at
        });
        let piece = usize::try_from((span.end() - at).min(here).min(READ_PIECE)).unwrap_or(0);
        let done = memory
            .read_volatile_from(GuestAddress(at), &mut source, piece)
            .map_err(|error| failed(io::Error::other(error)))?;
        if done == 0 {
            return Err(failed(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it ends before byte {}", offset.saturating_add(span.len)),
            )));
        }
        at += done as u64;
    }
    Ok(())
}

/// Reads up to `len` bytes of `file` from `offset` into a buffer; fewer at the end of the file.
pub(super) fn read_some(file: BootFile<'_>, offset: u64, len: usize) -> Result<Vec<u8>, BootError> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(BootError::Read {
                    name: file.name.to_string(),
                    source,
                });
            }
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The length of a regular, non-empty file.
pub(super) fn length(file: BootFile<'_>) -> Result<u64, BootError> {
    let not_regular = |reason| BootError::NotRegular {
        name: file.name.to_string(),
        reason,
    };
    let metadata = file.file.metadata().map_err(|source| BootError::Read {
        name: file.name.to_string(),
        source,
    })?;
    if metadata.is_dir() {
        return Err(not_regular("is a directory"));
    }
    if !metadata.is_file() {
        return Err(not_regular("is a device, a pipe or a socket"));
    }
    if metadata.len() == 0 {
        return Err(not_regular("is empty"));
    }
    Ok(metadata.len())
}
