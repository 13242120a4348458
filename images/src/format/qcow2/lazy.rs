//! Lazy refcounts: counts stay in memory, and the dirty bit says so.
//!
//! ```text
//! clean --first allocation: dirty bit, durably--> postponing --settle: all counts, then the bit--> clean
//! ```
//!
//! While counts are postponed a crash leaves them wrong on disk, and whoever opens the image next
//! for writing rebuilds them from what is referred to. Mappings reach the disk in their usual
//! order all the time. Counts of more than a bounded number of blocks are written nevertheless.
use std::sync::atomic::{AtomicBool, Ordering};

use super::Qcow2;
use super::header::{Header, compatible};
use crate::error::Result;
use crate::sync::{Turn, lock};

/// Bytes of changed refcount blocks that are kept in memory.
const MAX_POSTPONED: u64 = 4 << 20;

/// Whether counts are postponed.
#[derive(Default)]
pub(super) struct Lazy {
    wanted: AtomicBool,
    /// The dirty bit is on disk.
    marked: AtomicBool,
    /// All counts are to be written now.
    settling: AtomicBool,
    /// Counts are wrong for another reason: the dirty bit stays.
    held: AtomicBool,
    turn: Turn,
}

/// All counts are written while it lives.
pub(super) struct Settling<'a>(&'a Lazy);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.settling.store(false, Ordering::Relaxed);
    }
}

impl Lazy {
    /// Begins anew with what the header says.
    pub(super) fn reset(&self, header: &Header) {
        let wanted = header.version >= 3 && header.compatible & compatible::LAZY_REFCOUNTS != 0;
        self.wanted.store(wanted, Ordering::Relaxed);
        self.marked.store(false, Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
    }

    /// Keeps the dirty bit, or lets it go.
    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn settle(&self) -> Settling<'_> {
        self.settling.store(true, Ordering::Relaxed);
        Settling(self)
    }
}

impl Qcow2 {
    /// To be called before a count changes: sets the dirty bit if counts are to be postponed.
    ///
    /// # Errors
    /// A failed write.
    pub(super) async fn before_counting(&self) -> Result<()> {
        let lazy = &self.lazy;
        if !lazy.wanted.load(Ordering::Relaxed) || lazy.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let _turn = lazy.turn.take().await;
        if !lazy.marked.load(Ordering::Acquire) {
            self.set_dirty(true).await?;
            lazy.marked.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// True if a commit may leave changed counts in memory.
    pub(super) fn postpones_counts(&self) -> bool {
        let lazy = &self.lazy;
        lazy.marked.load(Ordering::Acquire)
            && !lazy.settling.load(Ordering::Relaxed)
            && (lock(&self.refcounts.state).dirty.len() as u64) << self.geometry.cluster_bits
                <= MAX_POSTPONED
    }

    /// Clears the dirty bit if everything is on disk.
    ///
    /// # Errors
    /// A failed write.
    pub(super) async fn end_lazy(&self) -> Result<()> {
        if !self.lazy.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let clean = {
            let refs = lock(&self.refcounts.state);
            refs.dirty.is_empty() && refs.table_dirty.is_empty() && !refs.moved
        };
        if clean {
            self.set_dirty(false).await?;
            self.lazy.marked.store(false, Ordering::Release);
        }
        Ok(())
    }
}
