//! Memory of requests: pieces given by the caller, and memory that this crate owns.
#![allow(unsafe_code)]
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// A piece of memory that a request reads or writes: guest RAM or host memory.
///
/// The memory may change while the engine looks at it (a guest owns it); the engine never makes
/// a Rust reference to it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Buffer(libc::iovec);

// SAFETY: an address and a length. The contract of from_raw makes the memory valid from any
// thread for as long as requests use it.
unsafe impl Send for Buffer {}
// SAFETY: as for Send; a shared Buffer gives nothing that a copy would not give.
unsafe impl Sync for Buffer {}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({:p}, {})", self.0.iov_base, self.0.iov_len)
    }
}

impl Buffer {
    /// Describes `len` bytes at `ptr`.
    ///
    /// # Safety
    /// The memory is mapped, readable and (for reads from the image) writable, and no Rust
    /// reference forbids that it changes, until every request that was given the buffer has
    /// completed or its future has been dropped. Dropping such a future is safe at any moment:
    /// it cancels the transfer and waits until the kernel has let go. Leaking the future
    /// (`mem::forget`) means that the memory must stay for ever.
    pub unsafe fn from_raw(ptr: *mut u8, len: usize) -> Buffer {
        Buffer(libc::iovec {
            iov_base: ptr.cast(),
            iov_len: len,
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// The part from `from` on, at most `len` bytes; never more than there is.
    fn part(&self, from: usize, len: usize) -> Buffer {
        let from = from.min(self.len());
        let len = len.min(self.len() - from);
        // wrapping_add stays inside the memory because from <= len.
        let base = self.as_mut_ptr().wrapping_add(from);
        Buffer(libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        })
    }

    fn zero(&self) {
        // SAFETY: valid and writable by the contract of from_raw.
        unsafe { std::ptr::write_bytes(self.as_mut_ptr(), 0, self.len()) };
    }

    fn copy_from(&self, bytes: &[u8]) {
        let n = bytes.len().min(self.len());
        // SAFETY: valid and writable by the contract of from_raw; n is within both. `bytes` is
        // memory of this crate, which no Buffer of a caller overlaps.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_mut_ptr(), n) };
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        let n = bytes.len().min(self.len());
        // SAFETY: as in copy_from, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(self.as_mut_ptr(), bytes.as_mut_ptr(), n) };
    }

    /// True if all bytes are zero now.
    fn is_zero(&self) -> bool {
        let (mut at, mut left) = (self.as_mut_ptr().cast_const(), self.len());
        let mut chunk = [0u8; 256];
        while left > 0 {
            let n = left.min(chunk.len());
            // SAFETY: n bytes from `at` are inside the buffer. Copied first, because the owner may
            // change them meanwhile.
            unsafe { std::ptr::copy_nonoverlapping(at, chunk.as_mut_ptr(), n) };
            if chunk.iter().take(n).any(|&b| b != 0) {
                return false;
            }
            at = at.wrapping_add(n);
            left -= n;
        }
        true
    }
}

/// Bytes in all pieces.
pub(crate) fn total(bufs: &[Buffer]) -> u64 {
    bufs.iter()
        .map(|b| b.len() as u64)
        .fold(0, u64::saturating_add)
}

/// The pieces that cover `len` bytes from byte `from` of `bufs`.
pub(crate) fn slice(bufs: &[Buffer], from: u64, len: u64) -> Vec<Buffer> {
    let (mut skip, mut left) = (from, len);
    let mut out = Vec::new();
    for buf in bufs {
        if left == 0 {
            break;
        }
        let n = buf.len() as u64;
        if skip >= n {
            skip -= n;
            continue;
        }
        // Both fit in usize: they are at most the length of this piece.
        let part = buf.part(skip as usize, left.min(n - skip) as usize);
        skip = 0;
        left -= part.len() as u64;
        if !part.is_empty() {
            out.push(part);
        }
    }
    out
}

/// Fills all pieces with zeroes.
pub(crate) fn zero(bufs: &[Buffer]) {
    bufs.iter().for_each(Buffer::zero);
}

/// True if all pieces are zero now.
pub(crate) fn is_zero(bufs: &[Buffer]) -> bool {
    bufs.iter().all(Buffer::is_zero)
}

/// Copies `bytes` into the pieces, as far as both reach.
pub(crate) fn scatter(bufs: &[Buffer], bytes: &[u8]) {
    let mut rest = bytes;
    for buf in bufs {
        let n = buf.len().min(rest.len());
        let (now, later) = rest.split_at(n);
        buf.copy_from(now);
        rest = later;
    }
}

/// Copies the pieces into `bytes`, as far as both reach.
pub(crate) fn gather(bufs: &[Buffer], bytes: &mut [u8]) {
    let mut rest = bytes;
    for buf in bufs {
        let n = buf.len().min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        buf.copy_to(now);
        rest = later;
    }
}

/// Memory owned by the engine, aligned for direct I/O, zeroed when made.
pub struct IoBuf {
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: an IoBuf owns its memory alone, as a Box<[u8]> does.
unsafe impl Send for IoBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for IoBuf {}

/// Enough for every device that is known.
pub(crate) const IOBUF_ALIGN: usize = 4096;

impl IoBuf {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> IoBuf {
        let size = len.max(1);
        let layout = Layout::from_size_align(size, IOBUF_ALIGN)
            .unwrap_or_else(|_| Layout::new::<[u8; IOBUF_ALIGN]>());
        assert!(
            layout.size() >= len,
            "a buffer of {len} bytes is beyond the address space"
        );
        // SAFETY: the size is not zero.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout)
        };
        IoBuf { ptr, len, layout }
    }

    /// As [`IoBuf::zeroed`], for lengths that come from an image: an error, not an abort, when
    /// the memory is not there.
    pub fn try_zeroed(len: u64) -> Result<IoBuf> {
        let too_large = || Error::invalid(format!("{len} bytes of memory are not available"));
        let size = usize::try_from(len).map_err(|_| too_large())?.max(1);
        let layout = Layout::from_size_align(size, IOBUF_ALIGN).map_err(|_| too_large())?;
        // SAFETY: the size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(too_large)?;
        Ok(IoBuf {
            ptr,
            len: len as usize,
            layout,
        })
    }

    /// The memory as a request's piece.
    ///
    /// # Safety
    /// The IoBuf is neither dropped nor borrowed until the request has completed or its future
    /// has been dropped.
    pub unsafe fn buffer(&mut self) -> Buffer {
        // SAFETY: owned memory; the caller keeps it.
        unsafe { Buffer::from_raw(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: owned, initialised memory of this length.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl From<&[u8]> for IoBuf {
    fn from(bytes: &[u8]) -> IoBuf {
        let mut buf = IoBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IoBuf({})", self.len)
    }
}

/// A write put together from pieces of the caller and memory of the engine, which it keeps
/// until the write is over.
#[derive(Default)]
pub(crate) struct Gather {
    pieces: Vec<Buffer>,
    owned: Vec<IoBuf>,
}

/// Zeroes to write from; never written to.
#[repr(align(4096))]
struct ZeroPage([u8; ZERO_LEN]);
const ZERO_LEN: usize = 65536;
static ZEROES: ZeroPage = ZeroPage([0; ZERO_LEN]);

impl Gather {
    /// Adds pieces of the caller, whose contract covers the write.
    pub(crate) fn push(&mut self, bufs: &[Buffer]) {
        self.pieces.extend_from_slice(bufs);
    }

    /// Adds memory of the engine.
    pub(crate) fn push_owned(&mut self, mut buf: IoBuf) {
        if !buf.is_empty() {
            // SAFETY: the buffer moves into `owned` (its heap memory stays in place) and is
            // dropped with the Gather, which outlives the write.
            self.pieces.push(unsafe { buf.buffer() });
            self.owned.push(buf);
        }
    }

    /// Adds pieces of the caller between the first `head` bytes of a memory of the engine and what
    /// comes behind them there; so much of it is not written.
    pub(crate) fn push_around(&mut self, mut buf: IoBuf, head: usize, middle: &[Buffer]) {
        // SAFETY: as in push_owned.
        let whole = unsafe { [buf.buffer()] };
        let behind = head as u64 + total(middle);
        self.pieces.extend(slice(&whole, 0, head as u64));
        self.pieces.extend_from_slice(middle);
        self.pieces.extend(slice(
            &whole,
            behind,
            (buf.len() as u64).saturating_sub(behind),
        ));
        self.owned.push(buf);
    }

    /// Adds `len` zero bytes.
    pub(crate) fn push_zeroes(&mut self, mut len: u64) {
        while len > 0 {
            let n = len.min(ZERO_LEN as u64);
            let ptr = ZEROES.0.as_ptr().cast_mut();
            // SAFETY: static memory. A Gather is only ever written to a file, so these bytes are
            // only read.
            self.pieces
                .push(unsafe { Buffer::from_raw(ptr, n as usize) });
            len -= n;
        }
    }

    pub(crate) fn pieces(&self) -> &[Buffer] {
        &self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cross_pieces_and_stop_at_the_end() {
        let mut a = IoBuf::from(&b"abc"[..]);
        let mut b = IoBuf::from(&b"defg"[..]);
        // SAFETY: both live to the end of the test.
        let bufs = unsafe { [a.buffer(), b.buffer()] };
        let mut out = [0u8; 4];
        gather(&slice(&bufs, 1, 4), &mut out);
        assert_eq!(&out, b"bcde");
        assert_eq!(total(&slice(&bufs, 6, 100)), 1);
        assert!(slice(&bufs, 7, 1).is_empty());
        scatter(&slice(&bufs, 2, 2), b"XY");
        gather(&bufs, &mut out);
        assert_eq!(&out, b"abXY");
        zero(&bufs);
        assert!(is_zero(&bufs));
    }

    #[test]
    fn gathers_mix_callers_memory_engine_memory_and_zeroes() {
        let mut g = Gather::default();
        g.push_owned(IoBuf::from(&b"12"[..]));
        g.push_zeroes(ZERO_LEN as u64 + 5);
        assert_eq!(total(g.pieces()), ZERO_LEN as u64 + 7);
        let mut out = vec![9u8; ZERO_LEN + 7];
        gather(g.pieces(), &mut out);
        assert_eq!(&out[..2], b"12");
        assert!(out[2..].iter().all(|&b| b == 0));
        let mut g = Gather::default();
        let mut middle = IoBuf::from(&b"xy"[..]);
        // SAFETY: it lives to the end of the test.
        let middle = unsafe { [middle.buffer()] };
        g.push_around(IoBuf::from(&b"abcdef"[..]), 1, &middle);
        let mut out = [0; 6];
        gather(g.pieces(), &mut out);
        assert_eq!(&out, b"axydef");
    }
}
