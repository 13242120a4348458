//! Copying, for all jobs that do.
use std::sync::Arc;

use super::Installed;
use super::control::{Control, Outcome};
use super::tap::Kind;
use crate::access::{self, Change};
use crate::error::Result;
use crate::image::Image;
use crate::live::{Chain, put};
use crate::node::Node;
use crate::ops::map::{MapEntry, status};
use crate::storage::{self, Buffer};

/// Bytes that are copied at a time: writers may have to wait for so much.
pub(super) const STEP: u64 = 256 << 10;

/// Where copies go.
pub(crate) enum Sink {
    /// Layers that the requests of the same image look after.
    Chain(Chain),
    /// Another image.
    Image(Arc<Image>),
}

impl Sink {
    pub(super) async fn change(&self, offset: u64, change: Change<'_>) -> Result<()> {
        match (self, change) {
            (Sink::Chain(chain), change) => put(chain, offset, change).await,
            (Sink::Image(image), Change::Write(bufs)) => image.write(offset, bufs).await,
            (Sink::Image(image), Change::Zero { len, unmap }) => {
                image.write_zeroes(offset, len, unmap).await
            }
            (Sink::Image(image), Change::Discard { len }) => image.discard(offset, len).await,
        }
    }
}

/// What is to be done with a range of the source.
enum Task {
    Nothing,
    Zero,
    Data,
}

fn task(kind: &Kind, entry: &MapEntry, whole: bool) -> Task {
    let content = if entry.zero { Task::Zero } else { Task::Data };
    match kind {
        Kind::SaveBefore { .. } => content,
        Kind::Mirror { .. } if whole => content,
        Kind::Mirror { layers, .. } => match entry.present && entry.depth < *layers {
            true => content,
            false => Task::Nothing,
        },
        Kind::Pull { layers } => match (entry.present, entry.depth) {
            (true, 0) => Task::Nothing,
            (true, depth) if depth >= *layers => Task::Nothing,
            // Without anything beneath, nothing reads as zeroes by itself.
            _ if entry.zero && whole => Task::Nothing,
            _ => content,
        },
    }
}

/// Copies a range as a job of this kind does. No writer is in it.
pub(super) async fn copy(kind: &Kind, chain: &[Node], from: u64, to: u64) -> Result<()> {
    let size = chain.first().map_or(0, |top| top.size());
    let (mut at, to) = (from, to.min(size));
    let whole = match kind {
        Kind::SaveBefore { .. } => true,
        Kind::Mirror { layers, .. } | Kind::Pull { layers } => *layers >= chain.len(),
    };
    while at < to {
        let entry = status(chain, at, (to - at).min(STEP)).await?;
        let len = entry.length.clamp(1, to - at);
        match task(kind, &entry, whole) {
            Task::Nothing => {}
            Task::Zero => {
                if !skips_zero(kind, chain, at, len, &entry).await? {
                    into(kind, chain, at, Change::Zero { len, unmap: true }).await?;
                }
            }
            Task::Data => {
                let buf =
                    storage::fill_owned(len, async |bufs| access::read(chain, at, bufs).await);
                let write = async |bufs: &[Buffer]| {
                    let change = match storage::is_zero(bufs) {
                        true => Change::Zero { len, unmap: true },
                        false => Change::Write(bufs),
                    };
                    into(kind, chain, at, change).await
                };
                storage::lend(buf.await?, write).await?;
            }
        }
        at += len;
    }
    Ok(())
}

/// What no layer has must be made zero in the top only if a layer that stays would show through.
async fn skips_zero(
    kind: &Kind,
    chain: &[Node],
    at: u64,
    len: u64,
    entry: &MapEntry,
) -> Result<bool> {
    match kind {
        Kind::Pull { layers } if !entry.present => {
            let below = chain.get(*layers..).unwrap_or_default();
            access::reads_zero(below, at, len).await
        }
        _ => Ok(false),
    }
}

async fn into(kind: &Kind, chain: &[Node], at: u64, change: Change<'_>) -> Result<()> {
    match kind {
        Kind::Mirror { target, .. } | Kind::SaveBefore { target } => {
            target.change(at, change).await
        }
        // The disk reads the same as before, so no bitmap is told.
        Kind::Pull { .. } => access::change(chain, at, change).await,
    }
}

/// Copies everything that is to do.
pub(super) async fn copy_all(job: &Installed<'_>, control: &Control) -> Result<Outcome> {
    let (image, tap) = (job.image, &job.tap);
    let step = STEP.max(tap.todo.granularity());
    control.set_total(tap.todo.count());
    let mut at = 0;
    while let Some((start, len)) = tap.todo.next_run(at) {
        if control.is_cancelled() {
            return Ok(Outcome::Cancelled);
        }
        tap.check()?;
        let n = len.min(step);
        {
            // A request like others: who wants the image alone waits for it, and space that it
            // reads from is not used again meanwhile. It comes in before it takes any lock.
            let _inside = image.requests().enter().await?;
            let chain = image.chain();
            tap.copy_range(&chain, start, start + n).await?;
        }
        control.add_done(n);
        control.pace(n).await;
        at = start + n;
    }
    tap.check()?;
    Ok(Outcome::Done)
}

/// The granule for jobs: whole clusters of every layer of the chains.
pub(super) fn granule(chains: &[&[Node]]) -> u32 {
    let clusters = chains.iter().flat_map(|chain| chain.iter()).map(|node| {
        let image = node.qcow2();
        image.map_or(1, |q| q.geometry.cluster())
    });
    clusters.max().unwrap_or(1).max(64 << 10).trailing_zeros()
}
