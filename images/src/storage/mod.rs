//! Storage moves bytes: to files, block devices, or memory in tests. It knows no format.
//!
//! All transfers are asynchronous on the executor of the calling thread ([`crate::exec`]); the
//! small synchronous reads are for opening an image, before it does any work.
mod buffer;
mod file;
pub(crate) mod lock;
mod memory;
pub(crate) mod sys;

pub use buffer::{Buffer, IoBuf};
pub(crate) use buffer::{Gather, is_zero, scatter, slice, total, zero};
pub use file::Cache;
pub(crate) use file::FileStorage;
pub use memory::{Event, Fault, MemoryStorage, SharedLog};

use std::os::fd::AsFd;

use crate::error::{Error, ErrorKind, Result};

/// Where the bytes of one file of an image are.
pub enum Storage {
    /// A regular file or a block device.
    File(FileHandle),
    /// Memory, for tests and fuzzing: keeps a log of all that was written and flushed.
    Memory(MemoryStorage),
}

/// An opened file with its cache mode.
pub struct FileHandle(pub(crate) FileStorage);

impl From<FileStorage> for Storage {
    fn from(file: FileStorage) -> Storage {
        Storage::File(FileHandle(file))
    }
}

impl From<MemoryStorage> for Storage {
    fn from(memory: MemoryStorage) -> Storage {
        Storage::Memory(memory)
    }
}

impl Storage {
    /// Takes an opened file. Direct I/O is switched on if `cache` asks for it and the file system
    /// can do it.
    ///
    /// # Errors
    /// A file that is neither a regular file nor a block device, or one that cannot be examined.
    pub fn file(file: std::fs::File, cache: Cache) -> Result<Storage> {
        Ok(FileStorage::new(file, cache)?.into())
    }

    /// Length in bytes now.
    pub(crate) fn len(&self) -> Result<u64> {
        match self {
            Storage::File(f) => f.0.len(),
            Storage::Memory(m) => Ok(m.len()),
        }
    }

    /// Alignment in bytes that requests should have; others are bounced.
    pub(crate) fn alignment(&self) -> u32 {
        match self {
            Storage::File(f) => f.0.alignment(),
            Storage::Memory(_) => 1,
        }
    }

    /// True if bytes that the file gains by growing read as zeroes.
    pub(crate) fn grows_with_zeroes(&self) -> bool {
        match self {
            Storage::File(f) => f.0.is_regular(),
            Storage::Memory(_) => true,
        }
    }

    /// Which file this is, to find loops: device and inode. None for memory.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        match self {
            Storage::File(f) => Some(f.0.identity()),
            Storage::Memory(_) => None,
        }
    }

    /// Reads at an offset without an executor; bytes beyond the end are zero. For opening.
    pub(crate) fn read_sync(&self, offset: u64, len: usize) -> Result<IoBuf> {
        match self {
            Storage::File(f) => f.0.read_sync(offset, len),
            Storage::Memory(m) => m.read_sync(offset, len),
        }
    }

    /// Writes without an executor, for making images.
    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Storage::File(f) => f.0.write_now(offset, bytes),
            Storage::Memory(m) => m.write_now(offset, bytes),
        }
    }

    /// Makes everything durable without an executor, for making images.
    pub(crate) fn sync_now(&self) -> Result<()> {
        match self {
            Storage::File(f) => f.0.sync_now(),
            Storage::Memory(_) => Ok(()),
        }
    }

    /// Reserves space without an executor, for making images.
    pub(crate) fn allocate_now(&self, offset: u64, len: u64) -> Result<()> {
        match self {
            Storage::File(f) => f.0.allocate_now(offset, len),
            Storage::Memory(_) => Ok(()),
        }
    }

    /// Reads all pieces from `offset`; bytes beyond the end are zero.
    pub(crate) async fn read(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        match self {
            Storage::File(f) => f.0.read(offset, bufs).await,
            Storage::Memory(m) => m.read(offset, bufs).await,
        }
    }

    /// Writes all pieces at `offset`; the file grows if it must.
    pub(crate) async fn write(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        match self {
            Storage::File(f) => f.0.write(offset, bufs).await,
            Storage::Memory(m) => m.write(offset, bufs).await,
        }
    }

    /// Reads into memory of the engine.
    pub(crate) async fn read_owned(&self, offset: u64, len: u64) -> Result<IoBuf> {
        fill_owned(len, async |bufs| self.read(offset, bufs).await).await
    }

    /// Writes memory of the engine.
    pub(crate) async fn write_owned(&self, offset: u64, buf: IoBuf) -> Result<()> {
        lend(buf, async |bufs| self.write(offset, bufs).await)
            .await
            .map(|_| ())
    }

    /// Writes gathered pieces.
    pub(crate) async fn write_gather(&self, offset: u64, gather: Gather) -> Result<()> {
        self.write(offset, gather.pieces()).await
    }

    /// Lets the calling thread itself write to the page cache.
    pub(crate) fn set_blocking(&self) {
        if let Storage::File(f) = self {
            f.0.set_blocking();
        }
    }

    /// Makes everything that was written before durable.
    pub(crate) async fn sync(&self) -> Result<()> {
        match self {
            Storage::File(f) => f.0.sync().await,
            Storage::Memory(m) => m.sync().await,
        }
    }

    /// Makes a range read as zeroes; gives its space back if `unmap`, keeps it otherwise where
    /// the file system can.
    pub(crate) async fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match self {
            Storage::File(f) => f.0.zero(offset, len, unmap).await,
            Storage::Memory(m) => m.zero(offset, len).await,
        }
    }

    /// As [`Storage::zero`], but false where zeroes would have to be written.
    pub(crate) async fn zero_fast(&self, offset: u64, len: u64, unmap: bool) -> Result<bool> {
        match self {
            _ if len == 0 => Ok(true),
            Storage::File(f) => f.0.zero_fast(offset, len, unmap).await,
            Storage::Memory(m) => m.zero(offset, len).await.map(|()| true),
        }
    }

    /// Gives the space of a range back if that is possible; its content is undefined afterwards.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        match self {
            Storage::File(f) => f.0.discard(offset, len).await,
            Storage::Memory(m) => m.zero(offset, len).await,
        }
    }

    /// Sets the length; new bytes are zero.
    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        match self {
            Storage::File(f) => f.0.set_len(len),
            Storage::Memory(m) => m.set_len(len),
        }
    }

    /// Makes the file longer, from `old` to `new` bytes, and takes the space for it where the file
    /// system can: writes to space that is there need no word with the file system's allocator each.
    pub(crate) fn grow(&self, old: u64, new: u64) -> Result<()> {
        match self {
            Storage::File(f) if f.0.reserve(old, new) => Ok(()),
            _ => self.set_len(new),
        }
    }

    /// Gets a range of another file without moving its bytes through this program: by sharing its
    /// space, or, if `copy`, by letting the kernel copy it. How much; 0 where that is not possible.
    /// Blocks.
    pub(crate) fn take_range(&self, at: u64, from: (&Storage, u64), len: u64, copy: bool) -> u64 {
        let (Storage::File(to), Storage::File(source)) = (self, from.0) else {
            return 0;
        };
        let (to, source) = (to.0.file().as_fd(), source.0.file().as_fd());
        if copy {
            // Whatever is in the way shows again when the bytes are read and written.
            return sys::copy_range(source, from.1, to, at, len).unwrap_or(0);
        }
        sys::clone_range(source, from.1, to, at, len).map_or(0, |()| len)
    }

    /// The length of the run from `offset` (at most `len`) that is all data or all hole, and
    /// whether it is data. What cannot be told counts as data.
    pub(crate) fn extent(&self, offset: u64, len: u64) -> (bool, u64) {
        match self {
            Storage::File(f) => f.0.extent(offset, len),
            Storage::Memory(_) => (true, len),
        }
    }

    /// True if the descriptor allows writes.
    pub(crate) fn writable(&self) -> bool {
        match self {
            Storage::File(f) => f.0.writable(),
            Storage::Memory(_) => true,
        }
    }

    /// Takes QEMU-compatible locks; see [`lock`].
    pub(crate) fn lock(&self, mode: lock::LockMode, name: &str) -> Result<()> {
        match self {
            Storage::File(f) => lock::take(f.0.file(), mode, name),
            Storage::Memory(_) => Ok(()),
        }
    }

    /// Gives all locks up.
    pub(crate) fn unlock(&self) {
        if let Storage::File(f) = self {
            lock::give_up(f.0.file());
        }
    }
}

/// Runs a request that fills `len` bytes of new memory.
#[allow(unsafe_code)]
pub(crate) async fn fill_owned(
    len: u64,
    request: impl AsyncFnOnce(&[Buffer]) -> Result<()>,
) -> Result<IoBuf> {
    let mut buf = IoBuf::try_zeroed(len)?;
    // SAFETY: `buf` belongs to this frame, which drops it after the request's future; a future
    // that is dropped early waits until the kernel has let go of the memory.
    let pieces = unsafe { [buf.buffer()] };
    request(&pieces).await?;
    Ok(buf)
}

/// Runs a request on memory of the engine, and gives it back.
#[allow(unsafe_code)]
pub(crate) async fn lend(
    mut buf: IoBuf,
    request: impl AsyncFnOnce(&[Buffer]) -> Result<()>,
) -> Result<IoBuf> {
    // SAFETY: as in fill_owned.
    let pieces = unsafe { [buf.buffer()] };
    request(&pieces).await?;
    Ok(buf)
}

/// The error of an offset that leaves the numbers a file can have.
pub(crate) fn beyond_file(offset: u64) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!("file offset {offset} is beyond what a file has"),
    )
}
