//! Changing what lies beneath an image: another backing file, or its content moved down.
use std::fs::File;

use crate::error::{Error, Result};
use crate::exec::{Window, both};
use crate::format::qcow2::{self, Qcow2};
use crate::image::Image;
use crate::node::Node;
use crate::ops::buffers::Buffers;
use crate::ops::create::Backing;
use crate::ops::map::status;
use crate::storage::lock::LockMode;
use crate::storage::{Cache, Storage};

/// Bytes of one step.
const STEP: u64 = 256 << 10;
/// Steps at a time.
const IN_FLIGHT: usize = 8;

/// Writes another backing file name into an image that nobody uses, and looks at no data: the
/// disk reads differently unless the new file has what the old one had.
///
/// # Errors
/// An image that is in use or no qcow2; a name that does not fit.
pub async fn set_backing(file: File, name: &str, backing: Option<&Backing>) -> Result<()> {
    let storage = Storage::file(file, Cache::Writeback)?;
    set_backing_on(storage, name, backing).await
}

/// As [`set_backing`], on any storage.
///
/// # Errors
/// As [`set_backing`].
pub async fn set_backing_on(storage: Storage, name: &str, backing: Option<&Backing>) -> Result<()> {
    storage.lock(LockMode::Writer, name)?;
    let header = qcow2::read_header(&storage).map_err(|e| e.context(name))?;
    let image = Qcow2::for_check(storage, header);
    let result = image.rewrite_backing(backing).await;
    image.storage.unlock();
    result.map_err(|e| e.context(name))
}

/// Makes an active image independent of what its old backing file has and `new` (opened as an
/// image of its own, None for no backing file) has not: copies the difference. The name in the
/// image stays; follow with [`set_backing`] when the image is closed.
///
/// # Errors
/// A failed read or write.
pub async fn rebase(image: &Image, new: Option<&Image>, progress: &dyn Fn(u64, u64)) -> Result<()> {
    let size = image.virtual_size();
    let chain = image.chain();
    let below = chain.get(1..).unwrap_or_default();
    let buffers = Buffers::new(STEP);
    let mut window = Window::new(IN_FLIGHT);
    let mut at = 0;
    while at < size {
        progress(at, size);
        let entry = status(&image.chain(), at, (size - at).min(STEP)).await?;
        let n = entry.length.max(1);
        if entry.depth > 0 || !entry.present {
            let part = keep_difference(image, (below, new), (at, n), &buffers);
            window.push(Box::pin(part)).await?;
        }
        at += n;
    }
    window.finish().await?;
    progress(size, size);
    image.flush().await
}

/// Copies a range that only the old backing file has into the image, where the new one differs.
async fn keep_difference(
    image: &Image,
    (below, new): (&[Node], Option<&Image>),
    (at, len): (u64, u64),
    buffers: &Buffers,
) -> Result<()> {
    let unit = image.cluster_size().map_or(STEP, |(cluster, _)| cluster);
    let new_chain = new.map(Image::chain);
    let new_chain = new_chain.as_deref().unwrap_or_default();
    let (old_zero, new_zero) = (
        crate::access::reads_zero(below, at, len).await?,
        crate::access::reads_zero(new_chain, at, len).await?,
    );
    if old_zero && new_zero {
        return Ok(());
    }
    let there = async {
        match new_zero {
            true => Ok(None),
            false => buffers.read_chain(new_chain, at, len).await.map(Some),
        }
    };
    let (old, there) = both(buffers.read_chain(below, at, len), there).await;
    let (mut old, there) = (old?, there?);
    // Runs of clusters that differ become one write each.
    let differs = |from: u64, to: u64| {
        let range = from as usize..to as usize;
        let mine = old.get(range.clone()).unwrap_or_default();
        match &there {
            None => mine.iter().any(|&b| b != 0),
            Some(bytes) => bytes.get(range).is_none_or(|other| mine != other),
        }
    };
    let mut changed: Vec<(u64, u64)> = Vec::new();
    let mut done = 0;
    while done < len {
        let end = len.min(done + unit - (at + done) % unit);
        if differs(done, end) {
            match changed.last_mut() {
                Some((_, last)) if *last == done => *last = end,
                _ => changed.push((done, end)),
            }
        }
        done = end;
    }
    for (from, to) in changed {
        old = Buffers::write(image, at + from, old, (from, to - from)).await?;
    }
    buffers.give(old);
    there.into_iter().for_each(|buf| buffers.give(buf));
    Ok(())
}

/// Copies what the topmost layer of `top` has into `base`, which is opened and active by itself
/// and writable. `base` grows if it must. Emptying or deleting the top is the caller's business.
///
/// # Errors
/// A failed read or write; a base that cannot grow.
pub async fn commit(top: &Image, base: &Image, progress: &dyn Fn(u64, u64)) -> Result<()> {
    let size = top.virtual_size();
    if base.virtual_size() < size {
        crate::ops::resize(base, size).await?;
    }
    let buffers = Buffers::new(STEP);
    let mut window = Window::new(IN_FLIGHT);
    let mut at = 0;
    while at < size {
        progress(at, size);
        let entry = status(&top.chain(), at, (size - at).min(STEP)).await?;
        let n = entry.length.max(1);
        if entry.present && entry.depth == 0 {
            if entry.zero {
                window
                    .push(Box::pin(base.write_zeroes(at, n, true)))
                    .await?;
            } else {
                let part = move_down(top, base, (at, n), &buffers);
                window.push(Box::pin(part)).await?;
            }
        }
        at += n;
    }
    window.finish().await?;
    progress(size, size);
    base.flush().await
}

async fn move_down(
    top: &Image,
    base: &Image,
    (at, len): (u64, u64),
    buffers: &Buffers,
) -> Result<()> {
    let bytes = buffers.read(top, at, len).await?;
    let bytes = Buffers::write(base, at, bytes, (0, len)).await?;
    buffers.give(bytes);
    Ok(())
}

/// Drops everything that the topmost layer of an active image has: after a [`commit`], so that
/// it takes no space and reads as the same.
///
/// # Errors
/// A read-only image, a raw one, a failed write.
pub async fn empty(image: &Image) -> Result<()> {
    image.empty().await
}

impl Qcow2 {
    /// Writes a header with another backing file.
    async fn rewrite_backing(&self, backing: Option<&Backing>) -> Result<()> {
        use crate::format::qcow2::header::{Extension, extension};
        if let Some(b) = backing
            && (b.name.is_empty() || b.name.contains('\0'))
        {
            let message = format!("{:?} cannot be a file name", b.name);
            return Err(Error::invalid(message));
        }
        self.change_header(|header| {
            header.backing = backing.map(|b| b.name.clone());
            header
                .extensions
                .retain(|e| e.kind != extension::BACKING_FORMAT);
            if let Some(b) = backing {
                let data = b.format.name().as_bytes().to_vec();
                let kind = extension::BACKING_FORMAT;
                header.extensions.insert(0, Extension { kind, data });
            }
        })
        .await
    }
}
