//! Giving pages of guest RAM back to the host, whatever the RAM is made of.
//!
//! | region | how | what the guest reads there next |
//! |---|---|---|
//! | private anonymous | `MADV_DONTNEED` | zeros |
//! | shared memfd | a hole in the file | zeros |
//! | huge pages | a hole, for whole huge pages only | zeros; a pool that has run dry meanwhile ends the guest |
//! | private mapping of a snapshot | new anonymous pages in its place, for long ranges only | zeros |
//!
//! What is not given back keeps its contents. What is given back is marked in our dirty bitmap, since
//! the host has changed it behind the vCPUs' back. This must never touch anything but guest RAM, and
//! never allocates for what a guest asks.
#![allow(unsafe_code)]

use crate::memory::{GuestMemory, GuestMemoryHandle, GuestRegion};
use rustix::fs::{FallocateFlags, fallocate, fstatfs};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

/// Size of a page of guest and host.
pub const PAGE: u64 = 4096;
/// `f_type` of a file of huge pages (`statfs(2)`).
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// What the kernel maps at once where it can.
const HUGE_PAGE: u64 = 2 << 20;
/// Shorter ranges of a snapshot's mapping are kept: each piece is a mapping of its own, of which a
/// process may have some 65 000.
const SHORTEST_PIECE: u64 = 64 << 10;
const MAX_PIECES: u32 = 8192;

/// What became of a range.
#[derive(Debug, Default)]
pub struct Given {
    /// Bytes that the host has back.
    pub bytes: u64,
    /// Part of the range is no RAM.
    pub outside: bool,
    /// The first error of the host, which keeps what it could not give back.
    pub error: Option<io::Error>,
}

/// Guest RAM, to give back from. Any thread may do so at any time.
#[derive(Debug)]
pub struct Ram {
    memory: GuestMemoryHandle,
    /// Pieces of snapshots' mappings that were replaced.
    pieces: AtomicU32,
}

/// What a region is made of.
enum Kind<'a> {
    Private,
    /// A file, and where the region begins in it.
    Shared(&'a File, u64),
    /// The same, and the size of its pages.
    Huge(&'a File, u64, u64),
    /// Contents come from a file that must stay as it is.
    Copied,
}

impl Ram {
    /// The RAM behind a handle.
    pub fn new(memory: GuestMemoryHandle) -> Self {
        Self {
            memory,
            pieces: AtomicU32::new(0),
        }
    }

    /// Bytes of RAM that there are.
    pub fn size(&self) -> u64 {
        let memory = self.memory.memory();
        memory.iter().map(GuestMemoryRegion::len).sum()
    }

    /// Gives back the whole pages of `len` bytes from guest physical address `start` on. Parts that are
    /// no RAM are left out.
    pub fn give_back(&self, start: u64, len: u64) -> Given {
        let memory = self.memory.memory();
        let mut given = Given::default();
        let end = start.saturating_add(len) / PAGE * PAGE;
        let Some(mut at) = start.checked_next_multiple_of(PAGE) else {
            return given;
        };
        while at < end {
            let Some(region) = memory.find_region(GuestAddress(at)) else {
                given.outside = true;
                at = next_region(&memory, at).unwrap_or(end);
                continue;
            };
            let offset = at - region.start_addr().0;
            let here = (end - at).min(region.len() - offset);
            match self.discard(region, offset, here) {
                Ok(bytes) => given.bytes += bytes,
                Err(error) => given.error = given.error.or(Some(error)),
            }
            at += here;
        }
        given
    }

    /// Gives back what can be of a range inside a region, in whole pages; how many bytes.
    fn discard(&self, region: &GuestRegion, offset: u64, len: u64) -> io::Result<u64> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, len) = match kind(region)? {
            Kind::Private => {
                // SAFETY: the range lies in guest RAM, which stays mapped while `region` is borrowed, and
                // which nothing in this process refers to but by accesses that may see any value.
                unsafe { madvise(host(region, offset), bytes(len)?, Advice::LinuxDontNeed) }?;
                (offset, len)
            }
            Kind::Shared(file, start) => {
                fallocate(file, hole, start + offset, len)?;
                (offset, len)
            }
            Kind::Huge(file, start, page) => {
                let first = (start + offset).next_multiple_of(page);
                let end = (start + offset + len) / page * page;
                let Some(len) = end.checked_sub(first).filter(|len| *len > 0) else {
                    return Ok(0);
                };
                fallocate(file, hole, first, len)?;
                (first - start, len)
            }
            Kind::Copied if len < SHORTEST_PIECE || !self.one_more_piece() => return Ok(0),
            Kind::Copied => {
                // Locked pages stay: what would replace them is not locked.
                // SAFETY: advice about pages of guest RAM that changes no contents; for locked ones alone
                // it is refused.
                unsafe { madvise(host(region, offset), bytes(len)?, Advice::LinuxCold) }?;
                replace(region, offset, len)?;
                (offset, len)
            }
        };
        region.bitmap().mark_dirty(bytes(offset)?, bytes(len)?);
        Ok(len)
    }

    fn one_more_piece(&self) -> bool {
        let more = |pieces: u32| (pieces < MAX_PIECES).then_some(pieces + 1);
        self.pieces
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

fn kind(region: &GuestRegion) -> io::Result<Kind<'_>> {
    let Some(file) = region.file_offset() else {
        return Ok(Kind::Private);
    };
    if region.get_mmap().flags() & libc::MAP_PRIVATE != 0 {
        return Ok(Kind::Copied);
    }
    let system = fstatfs(file.file())?;
    let magic = u64::try_from(system.f_type).unwrap_or_default();
    match u64::try_from(system.f_bsize) {
        Ok(page) if magic == HUGETLBFS_MAGIC && page.is_power_of_two() => {
            Ok(Kind::Huge(file.file(), file.start(), page))
        }
        _ => Ok(Kind::Shared(file.file(), file.start())),
    }
}

/// The host address of a place in a region.
fn host(region: &GuestRegion, offset: u64) -> *mut std::ffi::c_void {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    region.get_mmap().as_ptr().wrapping_add(offset).cast()
}

fn bytes(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(io::Error::other)
}

/// Where RAM goes on behind an address that is none.
fn next_region(memory: &GuestMemory, address: u64) -> Option<u64> {
    let starts = memory.iter().map(|region| region.start_addr().0);
    starts.filter(|start| *start > address).min()
}

/// Puts new anonymous pages in the place of a file's.
fn replace(region: &GuestRegion, offset: u64, len: u64) -> io::Result<()> {
    let (at, size) = (host(region, offset), bytes(len)?);
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: whole pages of guest RAM, which is never unmapped and which nothing in this process refers
    // to but by accesses that may see any value; what was there before is what the guest gave up.
    unsafe { mmap_anonymous(at, size, prot, flags) }?;
    // In no core dump, and in huge pages where that is possible. A kernel without either says so, and
    // nothing is lost.
    // SAFETY: advice about the pages that were just mapped changes no contents.
    let _without = unsafe { madvise(at, size, Advice::LinuxDontDump) };
    if len >= HUGE_PAGE {
        // SAFETY: as above.
        let _without = unsafe { madvise(at, size, Advice::LinuxHugepage) };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
