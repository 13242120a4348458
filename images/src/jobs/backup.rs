//! Backup: the disk as it is when the job starts, or what a bitmap says has changed of it.
use std::sync::Arc;

use super::Installed;
use super::control::{Control, Outcome};
use super::copy::{Sink, copy_all, granule};
use super::tap::{Kind, Tap};
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::bits::Bits;
use crate::image::Image;

/// What to back up.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// A bitmap of the image. It is empty when the job starts, so that it has what the next backup
    /// needs; if the job does not succeed, it gets back what it had.
    pub bitmap: Option<String>,
    /// Copy only what the bitmap has. Otherwise the whole disk.
    pub incremental: bool,
}

/// Has back what it had unless the backup succeeds.
struct Taken<'a> {
    image: &'a Image,
    name: &'a str,
    bits: Bits,
    kept: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let back = self
            .image
            .top_qcow2()
            .map(|q| q.change_bits(self.name, |bits| bits.merge(&self.bits)));
        if let Some(Err(error)) = back {
            tracing::warn!(%error, "a bitmap did not get back what a backup had taken from it");
        }
    }
}

/// Copies the disk as it is at the start of the job to another active image, which is at least as
/// large. For an incremental backup the target is a copy of the disk of the moment in which the
/// bitmap was empty, or an overlay of one. Writers go on; what they overwrite is copied first.
///
/// # Errors
/// No such bitmap, a target that is too small, a failed read or write of the target, another job.
pub async fn backup(
    image: &Image,
    target: &Arc<Image>,
    options: &BackupOptions,
    control: &Control,
) -> Result<Outcome> {
    let result = run(image, target, options, control).await;
    control.set_phase(super::Phase::Ended);
    result
}

async fn run(
    image: &Image,
    target: &Arc<Image>,
    options: &BackupOptions,
    control: &Control,
) -> Result<Outcome> {
    let (job, mut taken) = begin(image, target, options).await?;
    if copy_all(&job, control).await? == Outcome::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    target.flush().await?;
    if let Some(taken) = &mut taken {
        taken.kept = true;
    }
    Ok(Outcome::Done)
}

/// The moment that is backed up.
async fn begin<'a>(
    image: &'a Image,
    target: &Arc<Image>,
    options: &'a BackupOptions,
) -> Result<(Installed<'a>, Option<Taken<'a>>)> {
    if options.incremental && options.bitmap.is_none() {
        return Err(Error::invalid("an incremental backup needs a bitmap"));
    }
    let _alone = image.freeze_for_change().await?;
    let size = image.virtual_size();
    if target.virtual_size() < size {
        return Err(Error::invalid(format!(
            "the target has {} bytes, the disk {size}",
            target.virtual_size()
        )));
    }
    let todo = Bits::new(size, granule(&[&image.chain(), &target.chain()]))?;
    let taken = match &options.bitmap {
        None => None,
        Some(name) => {
            let format = image
                .top_qcow2()
                .ok_or_else(|| Error::invalid("a raw image has no bitmaps"))?;
            let bits = format.live_bitmap(name)?.bits.copy();
            Some((name, bits))
        }
    };
    match &taken {
        Some((_, bits)) if options.incremental => todo.merge(bits),
        _ => todo.set_all(),
    }
    let kind = Kind::SaveBefore {
        target: Sink::Image(target.clone()),
    };
    let job = Installed::new(image, Tap::new(kind, todo))?;
    let taken = match taken {
        None => None,
        Some((name, bits)) => {
            if let Some(format) = image.top_qcow2() {
                format.change_bits(name, Bits::clear_all)?;
            }
            let kept = false;
            Some(Taken {
                image,
                name,
                bits,
                kept,
            })
        }
    };
    Ok((job, taken))
}
