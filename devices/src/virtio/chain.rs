//! One descriptor chain, validated once: after [`Chain::parse`] nothing about it can surprise.
//!
//! The descriptors are read from guest memory exactly one time, so a guest that changes them later
//! changes nothing. What holds afterwards (virtio 1.3 §2.7.5): readable pieces come before writable
//! ones; each lies in RAM; there are at most [`MAX_DESCRIPTORS`] descriptors and less than 4 GiB of
//! bytes; an indirect table was negotiated, is the last descriptor, and holds no other table. The
//! *bytes* that pieces point at stay the guest's: they may change at any time.
//!
//! Guest memory stays mapped for as long as the chain lives. Everything written through it marks
//! the dirty bitmap, also what the kernel writes: see [`Chain::with_writable`]. Memory that has gone away
//! ends the machine, also where the kernel was the first to miss it: see [`Chain::touch`].
#![allow(unsafe_code)]

use crate::memory::{GuestMemory, mark_dirty};
use images::Buffer;
use std::sync::Arc;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::{AtomicBitmap, BS};
use vm_memory::guest_memory::Error;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

/// Bytes of a page of the host.
const PAGE: usize = 4096;

/// Descriptors that one chain may have, whatever the queue's size.
pub const MAX_DESCRIPTORS: usize = 1024;

/// Bytes of one descriptor.
const DESCRIPTOR_SIZE: u32 = 16;
/// Descriptor flag: the table that `addr` points at continues the chain.
const FLAG_INDIRECT: u16 = 4;

/// What is wrong with a chain; each of these breaks the queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The head or a `next` is not below the size of its table.
    #[error("descriptor index {index} in a table of {size}")]
    Index {
        /// The index.
        index: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A descriptor table lies outside RAM.
    #[error("descriptor table at {0:#x} is outside RAM")]
    Table(u64),
    /// A piece lies outside RAM.
    #[error("{len} bytes at {address:#x} are outside RAM")]
    Outside {
        /// First byte.
        address: u64,
        /// Length.
        len: u32,
    },
    /// A loop, or more descriptors than allowed.
    #[error("more descriptors than the chain may have: it loops, or is too long")]
    TooMany,
    /// The pieces add up to 4 GiB or more.
    #[error("4 GiB or more in one chain")]
    TooLong,
    /// A readable piece behind a writable one.
    #[error("a readable descriptor behind a writable one")]
    Order,
    /// An indirect table that was not negotiated, is nested, continues, or has a bad length.
    #[error("an indirect table that {0}")]
    Indirect(&'static str),
}

/// A descriptor table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Where it is.
    pub address: GuestAddress,
    /// Its entries.
    pub size: u16,
    /// Whether its descriptors may point at indirect tables.
    pub indirect: bool,
}

/// Part of a chain: inside one region of RAM, never empty.
#[derive(Debug, Clone, Copy)]
struct Piece {
    address: GuestAddress,
    host: *mut u8,
    len: usize,
}

/// A validated chain.
pub struct Chain {
    memory: Arc<GuestMemory>,
    head: u16,
    /// Readable pieces, then writable ones.
    pieces: Vec<Piece>,
    /// How many are readable.
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

// SAFETY: the raw addresses point into guest RAM, which `memory` keeps mapped and which any thread
// may access; nothing here depends on the thread.
unsafe impl Send for Chain {}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("readable", &self.readable_len)
            .field("writable", &self.writable_len)
            .finish_non_exhaustive()
    }
}

impl Chain {
    /// Reads and checks the chain that starts at `head`.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn parse(memory: Arc<GuestMemory>, table: Table, head: u16) -> Result<Self, ChainError> {
        let mut chain = Self {
            memory,
            head,
            pieces: Vec::new(),
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        };
        chain.walk(table, head)?;
        Ok(chain)
    }

    fn walk(&mut self, mut table: Table, head: u16) -> Result<(), ChainError> {
        // A chain without a loop has at most as many descriptors as its table.
        let mut left = usize::from(table.size).min(MAX_DESCRIPTORS);
        let mut index = head;
        loop {
            left = left.checked_sub(1).ok_or(ChainError::TooMany)?;
            let descriptor = self.descriptor(table, index)?;
            if descriptor.flags() & FLAG_INDIRECT != 0 {
                table = indirect(table, &descriptor)?;
                left = usize::from(table.size).min(MAX_DESCRIPTORS);
                index = 0;
                continue;
            }
            self.add(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    fn descriptor(&self, table: Table, index: u16) -> Result<Descriptor, ChainError> {
        if index >= table.size {
            return Err(ChainError::Index {
                index,
                size: table.size,
            });
        }
        let outside = ChainError::Table(table.address.0);
        let offset = u64::from(index) * u64::from(DESCRIPTOR_SIZE);
        let Some(address) = table.address.checked_add(offset) else {
            return Err(outside);
        };
        let length = DESCRIPTOR_SIZE as usize;
        match GuestMemoryBackend::get_slice(&*self.memory, address, length) {
            Ok(slice) => slice.read_obj(0).map_err(|_| outside),
            // It may lie across regions.
            Err(_) => self.memory.read_obj(address).map_err(|_| outside),
        }
    }

    fn add(&mut self, descriptor: &Descriptor) -> Result<(), ChainError> {
        let (address, len) = (descriptor.addr(), descriptor.len());
        let total = if descriptor.is_write_only() {
            self.writable_len += u64::from(len);
            self.writable_len + self.readable_len
        } else if self.pieces.len() > self.readable {
            return Err(ChainError::Order);
        } else {
            self.readable_len += u64::from(len);
            self.readable_len
        };
        if total > u64::from(u32::MAX) {
            return Err(ChainError::TooLong);
        }
        let outside = || ChainError::Outside {
            address: address.0,
            len,
        };
        let bytes = usize::try_from(len).map_err(|_| outside())?;
        match GuestMemoryBackend::get_slice(&*self.memory, address, bytes) {
            Ok(slice) if bytes > 0 => self.pieces.push(Piece {
                address,
                host: slice.ptr_guard_mut().as_ptr(),
                len: bytes,
            }),
            // An empty piece adds nothing.
            Ok(_) => {}
            Err(_) => self.add_across(address, bytes)?,
        }
        if !descriptor.is_write_only() {
            self.readable = self.pieces.len();
        }
        Ok(())
    }

    /// Adds a piece across regions, which becomes several.
    fn add_across(&mut self, address: GuestAddress, bytes: usize) -> Result<(), ChainError> {
        let outside = || ChainError::Outside {
            address: address.0,
            len: u32::try_from(bytes).unwrap_or(u32::MAX),
        };
        let mut at = address;
        for slice in GuestMemoryBackend::get_slices(&*self.memory, address, bytes) {
            let slice = slice.map_err(|_| outside())?;
            self.pieces.push(Piece {
                address: at,
                host: slice.ptr_guard_mut().as_ptr(),
                len: slice.len(),
            });
            at = GuestAddress(at.0.wrapping_add(slice.len() as u64));
        }
        Ok(())
    }

    /// The chain's name in the rings: index of its first descriptor.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Pieces of memory that it consists of.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Guest addresses and lengths of what the device may write, in order.
    pub fn writable_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let pieces = self.writable_pieces().iter();
        pieces.map(|piece| (piece.address.0, piece.len as u64))
    }

    /// How many pieces the device may write.
    pub fn writable_count(&self) -> usize {
        self.writable_pieces().len()
    }

    /// A piece lies in one region.
    fn slice(&self, piece: &Piece) -> Result<VolatileSlice<'_, BS<'_, AtomicBitmap>>, Error> {
        GuestMemoryBackend::get_slice(&*self.memory, piece.address, piece.len)
    }

    fn readable_pieces(&self) -> &[Piece] {
        self.pieces.get(..self.readable).unwrap_or_default()
    }

    fn writable_pieces(&self) -> &[Piece] {
        self.pieces.get(self.readable..).unwrap_or_default()
    }

    /// Reads a byte of each page. To be called when a transfer by the kernel ended with EFAULT, which is
    /// what the kernel says of a page that has nothing behind it any more; this thread gets SIGBUS for
    /// it, as for memory that it misses itself. Where everything is there it was another fault.
    pub fn touch(&self) {
        for piece in &self.pieces {
            let begin = piece.host.addr() % PAGE;
            let pages = (begin..begin + piece.len).step_by(PAGE);
            for at in pages.map(|at| (at - at % PAGE).saturating_sub(begin)) {
                // SAFETY: `at` is below the piece's length, which lies in guest RAM that the chain keeps
                // mapped; no Rust reference to it exists, and a volatile byte may change at any time.
                unsafe { piece.host.add(at).read_volatile() };
            }
            if let Some(last) = piece.len.checked_sub(1) {
                // SAFETY: as above.
                unsafe { piece.host.add(last).read_volatile() };
            }
        }
    }

    /// Copies readable bytes from `offset` on; how many there were, at most `data.len()`.
    pub fn read_at(&self, offset: u64, data: &mut [u8]) -> usize {
        self.copy_out(self.readable_pieces(), offset, data)
    }

    /// Copies writable bytes from their begin on, which were written before, likewise. The guest may
    /// have changed them.
    pub fn read_back(&self, data: &mut [u8]) -> usize {
        self.copy_out(self.writable_pieces(), 0, data)
    }

    fn copy_out(&self, pieces: &[Piece], offset: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        for piece in parts(pieces, offset, data.len() as u64) {
            let Some(target) = data.get_mut(done..done + piece.len) else {
                return done;
            };
            let Ok(slice) = self.slice(&piece) else {
                return done;
            };
            slice.copy_to(target);
            done += piece.len;
        }
        done
    }

    /// Copies `data` to writable bytes from `offset` on; how many fitted.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> usize {
        let mut done = 0;
        for piece in parts(self.writable_pieces(), offset, data.len() as u64) {
            let Some(source) = data.get(done..done + piece.len) else {
                return done;
            };
            let Ok(slice) = self.slice(&piece) else {
                return done;
            };
            slice.copy_from(source);
            done += piece.len;
        }
        done
    }

    /// Lends `len` readable bytes from `offset` on to a transfer, without copying. Fewer are lent
    /// when there are fewer.
    pub async fn with_readable<T>(
        &self,
        offset: u64,
        len: u64,
        transfer: impl AsyncFnOnce(&[Buffer]) -> T,
    ) -> T {
        transfer(&buffers(self.readable_pieces(), offset, len)).await
    }

    /// Lends `len` writable bytes from `offset` on to a transfer, without copying, and marks them
    /// dirty when it ends: also when it fails, and when it is dropped half-way.
    pub async fn with_writable<T>(
        &self,
        offset: u64,
        len: u64,
        transfer: impl AsyncFnOnce(&[Buffer]) -> T,
    ) -> T {
        let _mark = MarkDirty {
            chain: self,
            offset,
            len,
        };
        transfer(&buffers(self.writable_pieces(), offset, len)).await
    }
}

/// As [`Chain::with_writable`], for several chains: the transfer gets the pieces of all, one behind
/// the other. Each part is a chain, an offset and a length.
pub async fn with_all_writable<T>(
    parts: &[(&Chain, u64, u64)],
    transfer: impl AsyncFnOnce(&[Buffer]) -> T,
) -> T {
    let mark = |&(chain, offset, len): &(_, u64, u64)| MarkDirty { chain, offset, len };
    let _marks: Vec<MarkDirty<'_>> = parts.iter().map(mark).collect();
    let pieces = parts
        .iter()
        .flat_map(|(chain, offset, len)| buffers(chain.writable_pieces(), *offset, *len));
    transfer(&pieces.collect::<Vec<_>>()).await
}

/// As [`Chain::with_readable`], for several chains.
pub async fn with_all_readable<T>(
    parts: &[(&Chain, u64, u64)],
    transfer: impl AsyncFnOnce(&[Buffer]) -> T,
) -> T {
    let pieces = parts
        .iter()
        .flat_map(|(chain, offset, len)| buffers(chain.readable_pieces(), *offset, *len));
    transfer(&pieces.collect::<Vec<_>>()).await
}

/// Lends all readable bytes of several chains to a transfer that ends at once: per chain its pieces.
pub fn lend_all_readable<T>(chains: &[&Chain], transfer: impl FnOnce(&[&[Buffer]]) -> T) -> T {
    let pieces: Vec<Buffer> = chains
        .iter()
        .flat_map(|chain| chain.readable_pieces())
        .map(lend)
        .collect();
    let mut rest = pieces.as_slice();
    let per_chain = chains.iter().map(|chain| {
        let (of_chain, others) = rest.split_at(chain.readable_pieces().len());
        rest = others;
        of_chain
    });
    transfer(&per_chain.collect::<Vec<_>>())
}

/// Lends all writable bytes of several chains to a transfer that ends at once: per chain its pieces, and
/// behind them a room of ours for what they do not hold. A chain of more than `most` pieces lends none,
/// and the room has all. There is a room for each chain.
///
/// The transfer answers per chain how many bytes may have been written to it, from its begin on: all that
/// were lent (`usize::MAX`) where it cannot tell, as after an error half-way. Those are marked dirty, also
/// of a chain that it says nothing of.
pub fn lend_all_writable(
    chains: &[&Chain],
    rooms: &mut [Box<[u8]>],
    most: usize,
    transfer: impl FnOnce(&[&[Buffer]]) -> Vec<usize>,
) {
    let lent = |chain: &Chain| match chain.writable_pieces() {
        pieces if pieces.len() < most => pieces.len(),
        _ => 0,
    };
    let mut pieces: Vec<Buffer> = Vec::with_capacity(chains.len() * 2);
    let mut ends = Vec::with_capacity(chains.len());
    for (chain, room) in chains.iter().zip(rooms) {
        let of_chain = chain.writable_pieces().iter().take(lent(chain));
        pieces.extend(of_chain.map(lend));
        // SAFETY: the room is borrowed until the transfer has ended, and is of that length.
        pieces.push(unsafe { Buffer::from_raw(room.as_mut_ptr(), room.len()) });
        ends.push(pieces.len());
    }
    let mut begin = 0;
    let per_chain = ends.iter().map(|end| {
        let of_chain = pieces.get(begin..*end).unwrap_or_default();
        begin = *end;
        of_chain
    });
    let touched = transfer(&per_chain.collect::<Vec<_>>());
    let touched = touched.into_iter().chain(std::iter::repeat(usize::MAX));
    for (chain, touched) in chains.iter().zip(touched) {
        let of_chain = chain.writable_pieces().iter().take(lent(chain));
        let mut left = touched;
        for piece in of_chain {
            let here = left.min(piece.len);
            mark_dirty(&chain.memory, piece.address, here);
            left -= here;
        }
    }
}

struct MarkDirty<'a> {
    chain: &'a Chain,
    offset: u64,
    len: u64,
}

impl Drop for MarkDirty<'_> {
    fn drop(&mut self) {
        for piece in parts(self.chain.writable_pieces(), self.offset, self.len) {
            mark_dirty(&self.chain.memory, piece.address, piece.len);
        }
    }
}

/// The table that an indirect descriptor of `table` points at.
fn indirect(table: Table, descriptor: &Descriptor) -> Result<Table, ChainError> {
    if !table.indirect {
        return Err(ChainError::Indirect(
            "is inside another one, or was not negotiated",
        ));
    }
    if descriptor.has_next() {
        return Err(ChainError::Indirect("is not the last descriptor"));
    }
    let len = descriptor.len();
    if len == 0 || !len.is_multiple_of(DESCRIPTOR_SIZE) {
        return Err(ChainError::Indirect("has no whole number of descriptors"));
    }
    let size = u16::try_from(len / DESCRIPTOR_SIZE)
        .map_err(|_| ChainError::Indirect("has more than 65535 descriptors"))?;
    Ok(Table {
        address: descriptor.addr(),
        size,
        indirect: false,
    })
}

/// The parts of `pieces` that cover `len` bytes from byte `offset` on.
fn parts(pieces: &[Piece], offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let (mut skip, mut left) = (offset, len);
    pieces.iter().filter_map(move |piece| {
        let here = piece.len as u64;
        if left == 0 || skip >= here {
            skip = skip.saturating_sub(here);
            return None;
        }
        let take = left.min(here - skip);
        // Both are at most the piece's length, which is a usize.
        let (from, count) = (skip as usize, take as usize);
        skip = 0;
        left -= take;
        Some(Piece {
            address: GuestAddress(piece.address.0.wrapping_add(from as u64)),
            host: piece.host.wrapping_add(from),
            len: count,
        })
    })
}

fn buffers(pieces: &[Piece], offset: u64, len: u64) -> Vec<Buffer> {
    parts(pieces, offset, len)
        .map(|piece| lend(&piece))
        .collect()
}

fn lend(piece: &Piece) -> Buffer {
    // SAFETY: the piece lies in guest RAM, which the chain keeps mapped; no Rust reference to guest
    // RAM exists. Every caller borrows the chain until the transfer has ended, and the transfer has
    // its buffers by reference only.
    unsafe { Buffer::from_raw(piece.host, piece.len) }
}

#[cfg(test)]
mod tests;
