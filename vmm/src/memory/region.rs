//! One region of guest RAM: mapping it, and what the kernel is told about it.

use super::{MemoryError, SavedRegion};
use devices::memory::GuestRegion;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryRegion, MemoryRegionAddress, MmapRegion};
use vmm_api::spec::{MemoryBacking, MemorySpec};

/// Granularity of our dirty bitmap, the guest's page size.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// What KVM and the kernel map at once where they can.
const HUGE_PAGE: u64 = 2 << 20;
/// Places that are tried for a region before it is taken as it is.
const ALIGN_TRIES: usize = 8;
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
/// Older kernels put a mapping right below the last one, wherever that ends. When it lands askew, the
/// odd bytes above are filled while the place below them is tried. This is only a matter of speed: a
/// region that stays askew is used as it is.
fn map(
    spec: &MemorySpec,
    span: Range<u64>,
    flags: i32,
    file: Option<FileOffset>,
) -> Result<GuestRegion, MemoryError> {
    let mut mapping = map_somewhere(spec, &span, flags, file.as_ref())?;
    let mut fillers = Vec::new();
    while fillers.len() < ALIGN_TRIES {
        let askew = (mapping.as_ptr() as u64).wrapping_sub(span.start) % HUGE_PAGE;
        let (Ok(odd), false) = (usize::try_from(askew), askew == 0) else {
            break;
        };
        drop(mapping);
        let Ok(filler) = MmapRegionBuilder::<()>::new(odd)
            .with_mmap_prot(libc::PROT_NONE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
        else {
            mapping = map_somewhere(spec, &span, flags, file.as_ref())?;
            break;
        };
        fillers.push(filler);
        mapping = map_somewhere(spec, &span, flags, file.as_ref())?;
    }
    GuestRegion::new(mapping, GuestAddress(span.start))
        .ok_or_else(|| MemoryError::Layout(format!("RAM at {:#x} wraps around", span.start)))
}

fn map_somewhere(
    spec: &MemorySpec,
    span: &Range<u64>,
    flags: i32,
    file: Option<&FileOffset>,
) -> Result<MmapRegion<AtomicBitmap>, MemoryError> {
    let size = usize::try_from(span.end - span.start).unwrap_or(usize::MAX);
    let mut builder = MmapRegionBuilder::new_with_bitmap(size, AtomicBitmap::new(size, PAGE))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(flags | libc::MAP_NORESERVE);
    if let Some(file) = file {
        builder = builder.with_file_offset(file.clone());
    }
    builder.build().map_err(|error| {
        let source = match error {
            vm_memory::mmap::MmapRegionError::Mmap(source) => source,
            other => io::Error::other(other),
        };
        map_error(spec, span)(source)
    })
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
