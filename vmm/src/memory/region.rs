//! One region of guest RAM: mapping it, and what the kernel is told about it.

use super::{MemoryError, SavedRegion};
use devices::memory::GuestRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::Arc;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryRegion, MemoryRegionAddress};
use vmm_api::spec::{MemoryBacking, MemorySpec};

/// Granularity of our dirty bitmap, the guest's page size.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// What KVM and the kernel map at once where they can.
const HUGE_PAGE: u64 = 2 << 20;
/// Below this address, where tables and small kernels lie, pages stay small: the first touch of a huge
/// page clears 2 MiB, which is a tenth of the time that a small guest takes to start.
const LOW_PAGES: u64 = 2 << 20;
/// Bytes that are copied at once when contents cannot be mapped.
const COPY_PIECE: usize = 1 << 20;

/// A region of zeros.
pub(super) fn fresh(spec: &MemorySpec, span: Range<u64>) -> Result<GuestRegion, MemoryError> {
    let (flags, file) = match spec.backing {
        MemoryBacking::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None),
        MemoryBacking::SharedMemfd => (
            libc::MAP_SHARED,
            Some(memfd(spec, &span, MemfdFlags::empty())?),
        ),
        MemoryBacking::Hugetlb { page_size } => {
            let size = span.end - span.start;
            if !size.is_multiple_of(page_size) {
                return Err(MemoryError::Layout(format!(
                    "{size} bytes of RAM at {:#x} are no whole number of huge pages of {page_size} bytes; use smaller pages or another size",
                    span.start
                )));
            }
            let flags = MemfdFlags::HUGETLB | huge_flag(page_size);
            (libc::MAP_SHARED, Some(memfd(spec, &span, flags)?))
        }
    };
    let file = file.map(|fd| FileOffset::new(File::from(fd), 0));
    let region = map(spec, span, flags, file)?;
    advise(spec, &region)?;
    Ok(region)
}

/// A region with the contents of a container: mapped where the kind allows it, copied else.
pub(super) fn saved(
    spec: &MemorySpec,
    container: &Arc<File>,
    part: &SavedRegion,
) -> Result<GuestRegion, MemoryError> {
    if spec.backing == MemoryBacking::Anonymous {
        let file = FileOffset::from_arc(Arc::clone(container), part.offset);
        let region = map(spec, part.span.clone(), libc::MAP_PRIVATE, Some(file))?;
        advise(spec, &region)?;
        return Ok(region);
    }
    let region = fresh(spec, part.span.clone())?;
    copy_in(&region, container, part).map_err(|source| MemoryError::Advise {
        start: part.span.start,
        what: "filled from the container",
        source,
    })?;
    Ok(region)
}

fn memfd(spec: &MemorySpec, span: &Range<u64>, flags: MemfdFlags) -> Result<OwnedFd, MemoryError> {
    let make = || -> io::Result<OwnedFd> {
        let fd = memfd_create("guest-ram", flags | MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, span.end - span.start)?;
        Ok(fd)
    };
    make().map_err(map_error(spec, span))
}

/// MFD_HUGE_* keeps the logarithm of the page size in bits 26 and up.
fn huge_flag(page_size: u64) -> MemfdFlags {
    MemfdFlags::from_bits_retain(page_size.trailing_zeros() << 26)
}

fn kind(spec: &MemorySpec) -> &'static str {
    match spec.backing {
        MemoryBacking::Anonymous => "private memory",
        MemoryBacking::SharedMemfd => "shared memfd",
        MemoryBacking::Hugetlb { .. } => "huge pages; are enough of them reserved?",
    }
}

fn map_error(spec: &MemorySpec, span: &Range<u64>) -> impl FnOnce(io::Error) -> MemoryError {
    let (start, size, kind) = (span.start, span.end - span.start, kind(spec));
    move |source| MemoryError::Map {
        start,
        size,
        kind,
        source,
    }
}

/// Maps a region so that a huge page of the guest can be one of ours: KVM maps 2 MiB at once only
/// where guest and host address are equal modulo 2 MiB. Otherwise every 4 KiB page costs a fault of
/// its own (16 000 of them until a stock kernel is up) and a translation of its own for ever.
///
/// Kernels put a mapping wherever there is room, so a larger range is reserved first, and the part of
/// it that lies right is replaced. The region is never unmapped again: RAM lives as long as its
/// process.
fn map(
    spec: &MemorySpec,
    span: Range<u64>,
    flags: i32,
    file: Option<FileOffset>,
) -> Result<GuestRegion, MemoryError> {
    let size = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
    // Huge pages are set aside now: without that, a pool that is too small is found out when a page
    // is touched, and that is a signal instead of an error.
    let flags = match spec.backing {
        MemoryBacking::Hugetlb { .. } => flags,
        MemoryBacking::Anonymous | MemoryBacking::SharedMemfd => flags | libc::MAP_NORESERVE,
    };
    let place = place(spec, span.start, size, flags, file.as_ref());
    let start = place.map_err(map_error(spec, &span))?;
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, AtomicBitmap::new(size, PAGE))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags);
    if let Some(file) = file {
        builder = builder.with_file_offset(file);
    }
    // SAFETY: `place` has just mapped `size` bytes at `start`, and nothing unmaps them.
    let mapping = unsafe { builder.with_raw_mmap_pointer(start) }
        .build()
        .map_err(|error| map_error(spec, &span)(io::Error::other(error)))?;
    GuestRegion::new(mapping, GuestAddress(span.start))
        .ok_or_else(|| MemoryError::Layout(format!("RAM at {:#x} wraps around", span.start)))
}

/// Maps `size` bytes at an address that equals `guest` modulo the largest page that may be used.
fn place(
    spec: &MemorySpec,
    guest: u64,
    size: usize,
    flags: i32,
    file: Option<&FileOffset>,
) -> io::Result<*mut u8> {
    let align = match spec.backing {
        MemoryBacking::Hugetlb { page_size } => page_size.max(HUGE_PAGE),
        MemoryBacking::Anonymous | MemoryBacking::SharedMemfd => HUGE_PAGE,
    };
    let align = usize::try_from(align).map_err(io::Error::other)?;
    let spare = size.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
    let reserve = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel likes; nothing that exists is touched.
    let range = unsafe { libc::mmap(null_mut(), spare, libc::PROT_NONE, reserve, -1, 0) };
    if range == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let wanted = usize::try_from(guest).map_err(io::Error::other)? % align;
    let before = wanted.wrapping_sub(range.addr()) % align;
    let (fd, offset) = file.map_or((-1, 0), |file| (file.file().as_raw_fd(), file.start()));
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: `before` is less than `align`, so `before + size` bytes lie in the range reserved above.
    let start = unsafe { range.byte_add(before) };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: replaces pages of the range that was reserved above, which nobody else knows of.
    let mapped = unsafe { libc::mmap(start, size, prot, flags | libc::MAP_FIXED, fd, offset) };
    if mapped == libc::MAP_FAILED {
        let error = io::Error::last_os_error();
        // SAFETY: gives back the whole range; nothing points into it.
        unsafe { libc::munmap(range, spare) };
        return Err(error);
    }
    // A remainder that cannot be given back is address space and nothing else.
    // SAFETY: both parts lie in the reserved range, before and behind what was mapped.
    unsafe {
        if before > 0 {
            libc::munmap(range, before);
        }
        libc::munmap(mapped.byte_add(size), align - before);
    }
    Ok(mapped.cast())
}

/// Tells the kernel what the spec says about the region.
fn advise(spec: &MemorySpec, region: &GuestRegion) -> Result<(), MemoryError> {
    // A kernel without core dumps, THP or KSM says EINVAL: nothing to avoid, nothing to gain.
    let _without = madvise(region, libc::MADV_DONTDUMP);
    if spec.backing == MemoryBacking::Anonymous {
        let _without = madvise_from(region, LOW_PAGES, libc::MADV_HUGEPAGE);
        if spec.mergeable {
            let _without = madvise(region, libc::MADV_MERGEABLE);
        }
    }
    let failed = |what| {
        move |source| MemoryError::Advise {
            start: region.start_addr().0,
            what,
            source,
        }
    };
    if spec.prealloc {
        madvise(region, libc::MADV_POPULATE_WRITE).map_err(failed("allocated in advance"))?;
    }
    if spec.locked {
        let len = usize::try_from(region.len()).unwrap_or(usize::MAX);
        // SAFETY: locks exactly the pages of this mapping; no contents change.
        if unsafe { libc::mlock(region.as_ptr().cast(), len) } != 0 {
            return Err(failed("locked")(io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn madvise(region: &GuestRegion, advice: i32) -> io::Result<()> {
    madvise_from(region, 0, advice)
}

/// As [`madvise`], leaving out what lies below the guest physical address `from`.
fn madvise_from(region: &GuestRegion, from: u64, advice: i32) -> io::Result<()> {
    let skip = from.saturating_sub(region.start_addr().0).min(region.len());
    let len = usize::try_from(region.len() - skip).unwrap_or(0);
    let skip = usize::try_from(skip).unwrap_or(0);
    // SAFETY: at most the length of the mapping is added to its start.
    let start = unsafe { region.as_ptr().add(skip) };
    // SAFETY: the range lies inside this mapping, and none of the advices used here drops or
    // replaces pages.
    if unsafe { libc::madvise(start.cast(), len, advice) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Copies the parts of the container that are not holes.
fn copy_in(region: &GuestRegion, container: &File, part: &SavedRegion) -> io::Result<()> {
    use rustix::fs::{SeekFrom, seek};
    let end = part.offset.saturating_add(region.len());
    let mut buffer = vec![0; COPY_PIECE];
    let mut at = part.offset;
    while at < end {
        let data = match seek(container, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(container, SeekFrom::Hole(data))?.min(end);
        at = data;
        while at < hole {
            let len = usize::try_from((hole - at).min(COPY_PIECE as u64)).unwrap_or(0);
            let piece = buffer.get_mut(..len).unwrap_or_default();
            container.read_exact_at(piece, at)?;
            let offset = MemoryRegionAddress(at - part.offset);
            vm_memory::Bytes::write_slice(region, piece, offset).map_err(io::Error::other)?;
            at += len as u64;
        }
    }
    Ok(())
}

/// Whether `len` bytes of RAM at `offset` of a region are all zero. The caller makes sure that no
/// vCPU runs; a page that was never touched is not allocated by this.
pub fn is_zero(region: &GuestRegion, offset: u64, len: usize) -> bool {
    let Ok(slice) = region.get_slice(MemoryRegionAddress(offset), len) else {
        return false;
    };
    let guard = slice.ptr_guard();
    // SAFETY: the slice lies inside the mapping, and guest memory is quiet while it is saved; a
    // stray write could only change the answer, as it could change the page.
    let bytes = unsafe { std::slice::from_raw_parts(guard.as_ptr(), len) };
    // SAFETY: any bytes are valid integers.
    let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    zero(head)
        && zero(tail)
        && words
            .chunks(32)
            .all(|chunk| chunk.iter().fold(0, |all, word| all | word) == 0)
}
