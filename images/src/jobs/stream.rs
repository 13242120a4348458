//! Stream: what the layers beneath have moves up into the topmost one, and they leave the chain.
use super::control::{Control, Outcome};
use super::copy::{copy_all, granule};
use super::tap::{Kind, Tap};
use super::{Installed, unlock_gone};
use crate::access;
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::bits::Bits;
use crate::format::qcow2::header::{Extension, extension};
use crate::image::Image;
use crate::node::Node;
use crate::ops::create::Backing;

/// How far down to go.
#[derive(Debug, Clone, Default)]
pub struct StreamOptions {
    /// The layer that stays (2 is the second backing file) and how the image is to name it; None
    /// to make the image independent of all.
    pub base: Option<(usize, Backing)>,
}

/// Copies what the layers between the topmost one and the base have into the topmost one, and
/// takes them out of the chain. A crash leaves the old chain or the new one.
///
/// # Errors
/// No such layer, an image without a backing file, a failed read or write, another job. The disk
/// is as without the job; what was copied already stays in the topmost layer.
pub async fn stream(image: &Image, options: &StreamOptions, control: &Control) -> Result<Outcome> {
    image.check_writable()?;
    let result = run(image, options, control).await;
    control.set_phase(super::Phase::Ended);
    result
}

async fn run(image: &Image, options: &StreamOptions, control: &Control) -> Result<Outcome> {
    let layers = options.base.as_ref().map(|(depth, _)| *depth);
    let job = {
        let _alone = image.freeze_for_change().await?;
        let chain = image.chain();
        if image.top_qcow2().is_none() || chain.len() < 2 {
            return Err(Error::invalid(
                "the image has no backing file to stream from",
            ));
        }
        if layers.is_some_and(|depth| depth < 2 || depth >= chain.len()) {
            return Err(Error::invalid(
                "the base must be beneath the first backing file, and in the chain",
            ));
        }
        let todo = Bits::new(image.virtual_size(), granule(&[&chain]))?;
        todo.set_all();
        let layers = layers.unwrap_or(usize::MAX);
        Installed::new(image, Tap::new(Kind::Pull { layers }, todo))?
    };
    if copy_all(&job, control).await? == Outcome::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    access::flush(&image.chain()).await?;
    let _alone = image.freeze_for_change().await?;
    let old = image.chain();
    let top = image
        .top_qcow2()
        .ok_or_else(|| Error::invalid("the topmost layer is no qcow2 image any more"))?;
    // What was copied is durable before the header stops naming where it came from.
    top.flush().await?;
    top.change_header(|h| {
        h.backing = options.base.as_ref().map(|(_, b)| b.name.clone());
        h.extensions.retain(|e| e.kind != extension::BACKING_FORMAT);
        if let Some((_, base)) = &options.base {
            let data = base.format.name().as_bytes().to_vec();
            let kind = extension::BACKING_FORMAT;
            h.extensions.insert(0, Extension { kind, data });
        }
    })
    .await?;
    let kept = old.iter().skip(layers.unwrap_or(usize::MAX));
    let new: Vec<Node> = old.iter().take(1).chain(kept).cloned().collect();
    unlock_gone(&old, &new);
    image.current().set_chain(new);
    Ok(Outcome::Done)
}
