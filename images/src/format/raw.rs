//! Raw images: the virtual disk is the file.
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Extent, Mapping};
use crate::error::{Error, Result};
use crate::ops::create::Preallocation;
use crate::storage::Storage;

/// The unit of the virtual size: a file that ends in the middle of a sector reads as zeroes there.
const SECTOR: u64 = 512;

/// A raw image.
pub(crate) struct Raw {
    pub(crate) storage: Storage,
    size: AtomicU64,
}

impl Raw {
    pub(crate) fn open(storage: Storage) -> Result<Raw> {
        let raw = Raw {
            storage,
            size: AtomicU64::new(0),
        };
        raw.reload()?;
        Ok(raw)
    }

    /// Looks at the size again.
    pub(crate) fn reload(&self) -> Result<()> {
        let len = self.storage.len()?;
        let size = len
            .checked_next_multiple_of(SECTOR)
            .unwrap_or(len - len % SECTOR);
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Gives the disk another size. The caller keeps all requests out.
    pub(crate) async fn resize(&self, size: u64, how: Preallocation) -> Result<()> {
        let old = self.storage.len()?;
        if how == Preallocation::Metadata {
            return Err(Error::invalid("a raw image has no metadata to preallocate"));
        }
        self.storage.set_len(size)?;
        if size > old && how == Preallocation::Falloc {
            self.storage.allocate_now(old, size - old)?;
        }
        if size > old && how == Preallocation::Full {
            super::write_zeroes(&self.storage, old, size - old).await?;
        }
        self.reload()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(crate) fn map(&self, offset: u64, len: u64) -> Extent<'_> {
        Extent {
            mapping: Mapping::Data(&self.storage, offset),
            len,
        }
    }
}
