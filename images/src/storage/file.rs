//! Regular files and block devices.
//!
//! With direct I/O, requests whose offset, length or memory is not aligned go through an aligned
//! copy; the write of a part of a block reads the block first, and no other write overlaps that.
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffer::{self, Buffer, IoBuf};
use super::{beyond_file, sys};
use crate::error::{Error, Result};
use crate::exec::{self, Op, OpKind};
use crate::sync::RangeLocks;

/// How writes reach the disk, under libvirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Direct I/O, flushes honoured. Falls back to `Writeback` where direct I/O is refused.
    #[default]
    None,
    /// Host page cache, flushes honoured.
    Writeback,
    /// Host page cache, every write is flushed.
    Writethrough,
    /// Host page cache, flushes ignored: fast, and lost with the host.
    Unsafe,
    /// Direct I/O, every write is flushed.
    DirectSync,
}

impl Cache {
    /// True if the page cache of the host is passed by.
    pub fn direct(self) -> bool {
        matches!(self, Cache::None | Cache::DirectSync)
    }

    /// True if every write is made durable before it completes.
    pub fn flush_every_write(self) -> bool {
        matches!(self, Cache::Writethrough | Cache::DirectSync)
    }
}

/// At most this much in one operation; the kernel's own limit is a page less than 2 GiB.
const MAX_TRANSFER: u64 = 1 << 30;
/// At most this many pieces in one operation (IOV_MAX).
const MAX_PIECES: usize = 1024;
/// Reads up to this size are tried in the page cache first, without the ring.
const INLINE_READ: u64 = 128 << 10;
/// Bounce buffers are at most this large.
const MAX_BOUNCE: u64 = 1 << 20;

/// A file with its cache mode.
pub(crate) struct FileStorage {
    file: Arc<File>,
    regular: bool,
    writable: bool,
    direct: bool,
    /// Writes through the page cache are made by the calling thread.
    blocking: AtomicBool,
    ignore_flush: bool,
    offset_align: u32,
    memory_align: u32,
    identity: (u64, u64),
    /// Writes with direct I/O, so that the rewrite of a partial block overlaps none.
    writes: RangeLocks,
    can_punch: AtomicBool,
    can_zero: AtomicBool,
    can_nowait: AtomicBool,
    can_reserve: AtomicBool,
    /// A failed fdatasync through the page cache: what it lost can never be told.
    lost_writes: AtomicBool,
}

impl FileStorage {
    pub(crate) fn new(file: File, cache: Cache) -> Result<FileStorage> {
        let meta = file
            .metadata()
            .map_err(|e| Error::io("cannot examine the file", &e))?;
        let kind = meta.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::invalid("not a regular file or a block device"));
        }
        let flags = sys::flags(file.as_fd()).map_err(|e| Error::io("fcntl", &e))?;
        let identity = if kind.is_file() {
            (meta.dev(), meta.ino())
        } else {
            (0, meta.rdev())
        };
        let mut storage = FileStorage {
            file: Arc::new(file),
            regular: kind.is_file(),
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            direct: false,
            blocking: AtomicBool::new(false),
            ignore_flush: cache == Cache::Unsafe,
            offset_align: 1,
            memory_align: 1,
            identity,
            writes: RangeLocks::default(),
            can_punch: AtomicBool::new(true),
            can_zero: AtomicBool::new(true),
            can_nowait: AtomicBool::new(true),
            can_reserve: AtomicBool::new(true),
            lost_writes: AtomicBool::new(false),
        };
        if cache.direct() {
            storage.switch_direct(flags);
        } else if flags & libc::O_DIRECT != 0 {
            let _ = sys::set_flags(storage.file.as_fd(), flags & !libc::O_DIRECT);
        }
        Ok(storage)
    }

    /// Turns direct I/O on, or says why not.
    fn switch_direct(&mut self, flags: i32) {
        let fd = self.file.as_fd();
        let told = sys::direct_alignment(fd);
        let switched = sys::set_flags(fd, flags | libc::O_DIRECT);
        let alignment = match (told, switched) {
            (Some((0, _)), _) | (_, Err(_)) => None,
            (Some(told), Ok(())) => Some(told),
            (None, Ok(())) => self.probe_alignment(),
        };
        if let Some((memory, offset)) = alignment
            && memory.is_power_of_two()
            && offset.is_power_of_two()
            && offset <= 1 << 16
            && memory <= buffer::IOBUF_ALIGN as u32
        {
            self.direct = true;
            self.memory_align = memory;
            self.offset_align = offset;
            return;
        }
        let _ = sys::set_flags(self.file.as_fd(), flags & !libc::O_DIRECT);
        tracing::info!("direct I/O is not possible on this file: using the host's page cache");
    }

    /// Finds the alignment by reading, for kernels that do not tell.
    fn probe_alignment(&self) -> Option<(u32, u32)> {
        [512u32, 4096].into_iter().find_map(|align| {
            let mut buf = IoBuf::zeroed(2 * 4096);
            let part = buf.get_mut(..align as usize)?;
            self.file.read_at(part, u64::from(align)).ok()?;
            Some((align, align))
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.regular
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    pub(crate) fn alignment(&self) -> u32 {
        self.offset_align
    }

    pub(crate) fn len(&self) -> Result<u64> {
        sys::end_offset(self.file.as_fd()).map_err(|e| Error::io("cannot find the size", &e))
    }

    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        if !self.regular {
            return Ok(());
        }
        self.file
            .set_len(len)
            .map_err(|e| Error::io("cannot set the size of the file", &e))
    }

    /// Makes the file reach `new` with space from `old` on; false where that is not possible. A disk
    /// that has no room for so much ahead may still have some for what is needed.
    pub(crate) fn reserve(&self, old: u64, new: u64) -> bool {
        if !self.regular || !self.can_reserve.load(Ordering::Relaxed) {
            return false;
        }
        match sys::fallocate(self.file.as_fd(), 0, old, new.saturating_sub(old)) {
            Ok(()) => true,
            Err(e) => {
                if e.raw_os_error() != Some(libc::ENOSPC) {
                    self.can_reserve.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }

    pub(crate) fn read_sync(&self, offset: u64, len: usize) -> Result<IoBuf> {
        let align = u64::from(self.offset_align.max(512));
        let start = offset - offset % align;
        let end = offset
            .checked_add(len as u64)
            .ok_or_else(|| beyond_file(offset))?;
        let end = end
            .checked_next_multiple_of(align)
            .ok_or_else(|| beyond_file(offset))?;
        let mut buf = IoBuf::try_zeroed(end - start)?;
        let mut at = 0;
        while let Some(rest) = buf.get_mut(at..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, start + at as u64) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The unaligned end of a file with direct I/O.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) && at > 0 => break,
                Err(e) => return Err(Error::io(format_args!("read at {offset}"), &e)),
            }
        }
        let skip = (offset - start) as usize;
        if skip == 0 && buf.len() == len {
            return Ok(buf);
        }
        let wanted = buf.get(skip..skip + len).unwrap_or_default();
        Ok(IoBuf::from(wanted))
    }

    fn is_aligned(&self, offset: u64, bufs: &[Buffer]) -> bool {
        if !self.direct {
            return true;
        }
        let (off, mem) = (u64::from(self.offset_align), self.memory_align as usize);
        offset.is_multiple_of(off)
            && bufs.iter().all(|b| {
                (b.as_mut_ptr() as usize).is_multiple_of(mem)
                    && (b.len() as u64).is_multiple_of(off)
            })
    }

    pub(crate) async fn read(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        if !self.is_aligned(offset, bufs) {
            return self.read_bounced(offset, bufs).await;
        }
        if !self.direct && self.try_cached(offset, bufs) {
            return Ok(());
        }
        self.transfer(offset, bufs, false).await
    }

    /// Reads from the page cache without a trip through the ring, if all is there.
    fn try_cached(&self, offset: u64, bufs: &[Buffer]) -> bool {
        let len = buffer::total(bufs);
        if len > INLINE_READ || bufs.len() > MAX_PIECES || !self.can_nowait.load(Ordering::Relaxed)
        {
            return false;
        }
        match sys::preadv_nowait(self.file.as_fd(), bufs, offset) {
            Ok(n) => n as u64 == len,
            Err(e) => {
                if e.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.can_nowait.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }

    /// Moves all pieces, in as many operations as it takes.
    async fn transfer(&self, offset: u64, bufs: &[Buffer], write: bool) -> Result<()> {
        let len = buffer::total(bufs);
        offset.checked_add(len).ok_or_else(|| beyond_file(offset))?;
        let mut done = 0;
        while done < len {
            let part;
            let now = if done == 0 && bufs.len() <= MAX_PIECES && len <= MAX_TRANSFER {
                bufs
            } else {
                part = self.next_part(bufs, done, len);
                &part
            };
            let at = offset + done;
            let (file, pieces) = (self.file.clone(), exec::Pieces::new(now));
            let kind = if write {
                OpKind::Write {
                    file,
                    offset: at,
                    pieces,
                }
            } else {
                OpKind::Read {
                    file,
                    offset: at,
                    pieces,
                }
            };
            let n = match exec::run(Op::new(kind)).await {
                Ok(n) => u64::from(n),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => continue,
                Err(e) => return Err(self.failed(if write { "write" } else { "read" }, at, &e)),
            };
            if n == 0 && write {
                return Err(self.failed("write", at, &io::Error::from_raw_os_error(libc::EIO)));
            }
            if !write && (n == 0 || !(done + n).is_multiple_of(self.offset_align.into())) {
                // The end of the file: the rest reads as zeroes.
                buffer::zero(&buffer::slice(bufs, done + n, len - done - n));
                return Ok(());
            }
            done += n;
        }
        Ok(())
    }

    /// Lets the calling thread itself copy into the page cache: for programs that have nothing else
    /// to do meanwhile, since another thread of the kernel costs more than the copy.
    pub(crate) fn set_blocking(&self) {
        self.blocking.store(true, Ordering::Relaxed);
    }

    fn write_blocking(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        let len = buffer::total(bufs);
        offset.checked_add(len).ok_or_else(|| beyond_file(offset))?;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let result = if done == 0 {
                sys::pwritev(self.file.as_fd(), bufs, at)
            } else {
                sys::pwritev(
                    self.file.as_fd(),
                    &buffer::slice(bufs, done, len - done),
                    at,
                )
            };
            match result {
                Ok(0) => {
                    let error = io::Error::from_raw_os_error(libc::EIO);
                    return Err(self.failed("write", at, &error));
                }
                Ok(n) => done += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("write", at, &e)),
            }
        }
        Ok(())
    }

    /// The next pieces that fit one operation; aligned like the whole.
    fn next_part(&self, bufs: &[Buffer], done: u64, len: u64) -> Vec<Buffer> {
        let mut part = buffer::slice(bufs, done, (len - done).min(MAX_TRANSFER));
        part.truncate(MAX_PIECES);
        part
    }

    fn failed(&self, what: &str, offset: u64, error: &io::Error) -> Error {
        Error::io(format_args!("{what} at file offset {offset}"), error)
    }

    /// Reads whole blocks into an aligned buffer and copies what was asked for.
    async fn read_bounced(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        let len = buffer::total(bufs);
        let mut done = 0;
        while done < len {
            let (start, end) = self.blocks(offset + done, len - done)?;
            let skip = offset + done - start;
            let n = (end - start - skip).min(len - done);
            let bounce = self.read_blocks(start, end).await?;
            let bytes = bounce
                .get(skip as usize..(skip + n) as usize)
                .unwrap_or_default();
            buffer::scatter(&buffer::slice(bufs, done, n), bytes);
            done += n;
        }
        Ok(())
    }

    /// The blocks around a range, at most a bounce buffer's worth.
    fn blocks(&self, offset: u64, len: u64) -> Result<(u64, u64)> {
        let align = u64::from(self.offset_align);
        let start = offset - offset % align;
        let end = offset.checked_add(len).ok_or_else(|| beyond_file(offset))?;
        let end = end
            .checked_next_multiple_of(align)
            .ok_or_else(|| beyond_file(offset))?;
        Ok((start, end.min(start + MAX_BOUNCE)))
    }

    #[allow(unsafe_code)]
    async fn read_blocks(&self, start: u64, end: u64) -> Result<IoBuf> {
        let mut bounce = IoBuf::try_zeroed(end - start)?;
        // SAFETY: `bounce` belongs to this frame, which drops it after the transfer's future.
        let pieces = unsafe { [bounce.buffer()] };
        self.transfer(start, &pieces, false).await?;
        Ok(bounce)
    }

    pub(crate) async fn write(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        if !self.direct {
            if self.blocking.load(Ordering::Relaxed) && bufs.len() <= MAX_PIECES {
                return self.write_blocking(offset, bufs);
            }
            return self.transfer(offset, bufs, true).await;
        }
        let end = offset
            .checked_add(buffer::total(bufs))
            .ok_or_else(|| beyond_file(offset))?;
        let align = u64::from(self.offset_align);
        let whole = offset.is_multiple_of(align) && end.is_multiple_of(align);
        if whole {
            let _others = self.writes.take(offset, end, false).await;
            if self.is_aligned(offset, bufs) {
                return self.transfer(offset, bufs, true).await;
            }
            return self.write_bounced(offset, bufs).await;
        }
        let first = offset - offset % align;
        let last = end
            .checked_next_multiple_of(align)
            .ok_or_else(|| beyond_file(offset))?;
        let _others = self.writes.take(first, last, true).await;
        self.write_bounced(offset, bufs).await
    }

    /// Copies into an aligned buffer; blocks that are written in part are read first.
    #[allow(unsafe_code)]
    async fn write_bounced(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        let len = buffer::total(bufs);
        let mut done = 0;
        while done < len {
            let (start, end) = self.blocks(offset + done, len - done)?;
            let skip = offset + done - start;
            let n = (end - start - skip).min(len - done);
            let partial = skip != 0 || skip + n != end - start;
            let mut bounce = if partial {
                self.read_blocks(start, end).await?
            } else {
                IoBuf::try_zeroed(end - start)?
            };
            let target = bounce
                .get_mut(skip as usize..(skip + n) as usize)
                .unwrap_or_default();
            buffer::gather(&buffer::slice(bufs, done, n), target);
            // A block that reaches over the end of the file would make it longer than it was
            // asked to be.
            let file_end = if partial && self.regular {
                self.len()?.max(offset + len)
            } else {
                end
            };
            // SAFETY: `bounce` belongs to this frame, which drops it after the transfer's future.
            let pieces = unsafe { [bounce.buffer()] };
            self.transfer(start, &pieces, true).await?;
            if end > file_end {
                self.set_len(file_end)?;
            }
            done += n;
        }
        Ok(())
    }

    pub(crate) async fn sync(&self) -> Result<()> {
        if self.ignore_flush {
            return Ok(());
        }
        if self.lost_writes.load(Ordering::Relaxed) {
            return Err(Error::io(
                "an earlier flush failed and the host may have dropped written data",
                &io::Error::from_raw_os_error(libc::EIO),
            ));
        }
        let op = Op::new(OpKind::Sync {
            file: self.file.clone(),
        });
        exec::run(op).await.map(|_| ()).map_err(|e| {
            if !self.direct && e.raw_os_error() == Some(libc::EIO) {
                self.lost_writes.store(true, Ordering::Relaxed);
            }
            Error::io("flush", &e)
        })
    }

    async fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let kind = OpKind::Fallocate {
            file: self.file.clone(),
            mode,
            offset,
            len,
        };
        exec::run(Op::new(kind)).await.map(|_| ())
    }

    /// Tries fallocate with a mode that this file system may lack; false if it does.
    async fn try_mode(&self, able: &AtomicBool, mode: i32, at: u64, len: u64) -> Result<bool> {
        if !able.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self
            .fallocate(mode | libc::FALLOC_FL_KEEP_SIZE, at, len)
            .await
        {
            Ok(()) => Ok(true),
            Err(e) => match e.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => {
                    able.store(false, Ordering::Relaxed);
                    Ok(false)
                }
                // Unaligned on a block device: this range only.
                Some(libc::EINVAL) => Ok(false),
                _ => Err(Error::io(format_args!("fallocate at {at}"), &e)),
            },
        }
    }

    /// Zeroes without writing; false where that is not possible.
    pub(crate) async fn zero_fast(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        if unmap && self.try_mode(&self.can_punch, punch, offset, len).await? {
            return Ok(true);
        }
        let mode = libc::FALLOC_FL_ZERO_RANGE;
        self.try_mode(&self.can_zero, mode, offset, len).await
    }

    pub(crate) async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        if self.zero_fast(offset, len, unmap).await? {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(MAX_BOUNCE);
            let mut zeroes = buffer::Gather::default();
            zeroes.push_zeroes(n);
            self.write(offset + done, zeroes.pieces()).await?;
            done += n;
        }
        Ok(())
    }

    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.try_mode(&self.can_punch, libc::FALLOC_FL_PUNCH_HOLE, offset, len)
            .await
            .map(|_| ())
    }

    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| Error::io(format_args!("write at file offset {offset}"), &e))
    }

    pub(crate) fn sync_now(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("flush", &e))
    }

    pub(crate) fn allocate_now(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        sys::fallocate(self.file.as_fd(), 0, offset, len)
            .map_err(|e| Error::io(format_args!("cannot reserve {len} bytes at {offset}"), &e))
    }

    pub(crate) fn extent(&self, offset: u64, len: u64) -> (bool, u64) {
        let fd = self.file.as_fd();
        match sys::seek(fd, offset, true) {
            Ok(Some(data)) if data > offset => (false, (data - offset).min(len)),
            Ok(None) => (false, len),
            Ok(Some(_)) => match sys::seek(fd, offset, false) {
                Ok(Some(hole)) if hole > offset => (true, (hole - offset).min(len)),
                _ => (true, len),
            },
            Err(_) => (true, len),
        }
    }
}
