//! How a job sees the writes of an image.
//!
//! The disk is divided into granules; a bit for each says whether it is still to be copied.
//!
//! ```text
//! granule:  to do --the job alone is inside--> copied
//!
//! mirror, commit: a write goes to the source, and where the granule is copied to the target too
//! backup:         a write into a granule that is to do copies it first
//! stream:         a write only keeps out of the granule that is being copied
//! ```
//!
//! So both sides of a mirror converge in one pass whatever the writers do. Writes that overlap
//! each other are put in an order while a mirror runs, because both sides must agree on it. What
//! goes wrong with the target ends the job, never the guest's request.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::{Sink, copy};
use crate::access::Change;
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::bits::Bits;
use crate::live::put;
use crate::node::Node;
use crate::storage;
use crate::sync::{RangeGuard, RangeLocks, lock};

/// What a job wants from writes.
pub(crate) enum Kind {
    /// They go to the target as well. Of the source only the topmost `layers` are copied.
    Mirror { target: Sink, layers: usize },
    /// What they overwrite is saved first.
    SaveBefore { target: Sink },
    /// They stay out of the way. The layers beneath the topmost are copied into it, as far as
    /// `layers` from the top.
    Pull { layers: usize },
}

/// A job at an image.
pub(crate) struct Tap {
    kind: Kind,
    /// Granules that are to be copied.
    pub(super) todo: Bits,
    granule: u64,
    /// Held by writers, together; by the job, alone.
    inside: RangeLocks,
    /// Everybody passes through on the way in, so that the job comes to its turn.
    door: RangeLocks,
    /// Mirrored writes that overlap, one after the other.
    order: RangeLocks,
    broken: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Tap {
    pub(super) fn new(kind: Kind, todo: Bits) -> Tap {
        let granule = todo.granularity();
        Tap {
            kind,
            todo,
            granule,
            inside: RangeLocks::default(),
            door: RangeLocks::default(),
            order: RangeLocks::default(),
            broken: AtomicBool::new(false),
            error: Mutex::default(),
        }
    }

    /// The job is over: writes are nothing to it any more.
    pub(super) fn end(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// What a write has found wrong with the target.
    ///
    /// # Errors
    /// That.
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.error).clone() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn fail(&self, result: Result<()>) {
        if let Err(e) = result {
            lock(&self.error).get_or_insert(e);
            self.broken.store(true, Ordering::Release);
        }
    }

    fn granules(&self, offset: u64, end: u64) -> (u64, u64) {
        let from = offset - offset % self.granule;
        (from, end.next_multiple_of(self.granule))
    }

    /// A writer's way in.
    async fn enter(&self, offset: u64, end: u64) -> RangeGuard<'_> {
        let (from, to) = self.granules(offset, end);
        let _door = self.door.take(from, to, false).await;
        self.inside.take(from, to, false).await
    }

    /// Copies what is to do of a range of whole granules, while no writer is in them.
    pub(super) async fn copy_range(&self, chain: &[Node], offset: u64, end: u64) -> Result<()> {
        let (from, to) = self.granules(offset, end);
        let _door = self.door.take(from, to, true).await;
        let _alone = self.inside.take(from, to, true).await;
        let mut at = from;
        while let Some((start, len)) = self.todo.next_run(at).filter(|run| run.0 < to) {
            let stop = (start + len).min(to);
            copy(&self.kind, chain, start, stop).await?;
            self.todo
                .clear(start / self.granule, stop.div_ceil(self.granule));
            at = stop;
        }
        Ok(())
    }

    /// Changes the topmost layer of a chain as a request of the image.
    ///
    /// # Errors
    /// What the layer says.
    pub(crate) async fn apply(
        &self,
        chain: &[Node],
        offset: u64,
        change: Change<'_>,
    ) -> Result<()> {
        let end = offset.saturating_add(change.len());
        if self.is_broken() || end == offset {
            return put(chain, offset, change).await;
        }
        match &self.kind {
            Kind::Pull { .. } => {
                let _inside = self.enter(offset, end).await;
                put(chain, offset, change).await
            }
            Kind::SaveBefore { .. } => {
                let saved = self.save(chain, offset, end).await;
                self.fail(saved);
                put(chain, offset, change).await
            }
            Kind::Mirror { target, .. } => {
                let _order = self.order.take(offset, end, true).await;
                let _inside = self.enter(offset, end).await;
                put(chain, offset, change).await?;
                if !self.is_broken() {
                    let mirrored = self.mirror(chain, target, (offset, end), change).await;
                    self.fail(mirrored);
                }
                Ok(())
            }
        }
    }

    async fn save(&self, chain: &[Node], offset: u64, end: u64) -> Result<()> {
        while let Some((start, _)) = self.todo.next_run(offset).filter(|run| run.0 < end) {
            // A granule at a time, so that others wait for little.
            self.copy_range(chain, start, start + 1).await?;
        }
        Ok(())
    }

    /// Does to the target what was done to the source, where that is copied already.
    async fn mirror(
        &self,
        chain: &[Node],
        target: &Sink,
        (offset, end): (u64, u64),
        change: Change<'_>,
    ) -> Result<()> {
        let mut at = offset;
        while at < end {
            let next = self.todo.next_run(at).filter(|run| run.0 < end);
            let (stop, after) = next.map_or((end, end), |(start, len)| {
                (start.max(at), (start + len).min(end))
            });
            if stop > at {
                let len = stop - at;
                match change {
                    Change::Write(bufs) => {
                        let pieces = storage::slice(bufs, at - offset, len);
                        target.change(at, Change::Write(&pieces)).await?;
                    }
                    Change::Zero { unmap, .. } => {
                        target.change(at, Change::Zero { len, unmap }).await?;
                    }
                    // What the source has kept of it, the target keeps too.
                    Change::Discard { .. } => copy(&self.kind, chain, at, stop).await?,
                }
            }
            at = after;
        }
        Ok(())
    }
}
