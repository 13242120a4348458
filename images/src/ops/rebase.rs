//! Changing what lies beneath an image: another backing file, or its content moved down.
use std::fs::File;

use crate::error::{Error, Result};
use crate::format::qcow2::{self, Qcow2};
use crate::image::Image;
use crate::node::Node;
use crate::ops::create::Backing;
use crate::ops::map::status;
use crate::storage::lock::LockMode;
use crate::storage::{Cache, Storage};

const STEP: u64 = 1 << 20;

/// Writes another backing file name into an image that nobody uses, and looks at no data: the
/// disk reads differently unless the new file has what the old one had.
///
/// # Errors
/// An image that is in use or no qcow2; a name that does not fit.
pub async fn set_backing(file: File, name: &str, backing: Option<&Backing>) -> Result<()> {
    let storage = Storage::file(file, Cache::Writeback)?;
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
    let mut at = 0;
    while at < size {
        progress(at, size);
        let entry = status(&image.chain(), at, (size - at).min(STEP)).await?;
        let n = entry.length.max(1);
        if entry.depth > 0 || !entry.present {
            keep_difference(image, (below, new), at, n).await?;
        }
        at += n;
    }
    progress(size, size);
    image.flush().await
}

/// Copies a range that only the old backing file has into the image, where the new one differs.
async fn keep_difference(
    image: &Image,
    (below, new): (&[Node], Option<&Image>),
    at: u64,
    len: u64,
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
    let mut done = 0;
    while done < len {
        let here = at + done;
        let n = (unit - here % unit).min(len - done);
        let old = read(below, here, n).await?;
        let there = read(new_chain, here, n).await?;
        if old[..] != there[..] {
            image.write_bytes(here, old).await?;
        }
        done += n;
    }
    Ok(())
}

async fn read(chain: &[Node], at: u64, len: u64) -> Result<crate::storage::IoBuf> {
    crate::storage::fill_owned(len, async |bufs| crate::access::read(chain, at, bufs).await).await
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
    let mut at = 0;
    while at < size {
        progress(at, size);
        let entry = status(&top.chain(), at, (size - at).min(STEP)).await?;
        let n = entry.length.max(1);
        if entry.present && entry.depth == 0 {
            if entry.zero {
                base.write_zeroes(at, n, true).await?;
            } else {
                base.write_bytes(at, top.read_bytes(at, n as usize).await?)
                    .await?;
            }
        }
        at += n;
    }
    progress(size, size);
    base.flush().await
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
