//! External snapshot: a new layer takes the writes from now on, the old top stays as it is.
use super::{Target, unlock};
use crate::access;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::image::Image;
use crate::node::{Kind, Node, reopen};

/// Puts a new, empty qcow2 image of the same size on top of an active one. Its header names the
/// old top as its backing file, under the name that the owner wants; that name is not followed.
/// Writers wait while the old top is brought to the disk.
///
/// # Errors
/// An overlay that is not empty, or of another size, or in use; a failed write; a job that runs.
/// The image is as before.
pub async fn overlay(image: &Image, target: Target) -> Result<()> {
    image.check_writable()?;
    if target.format != Format::Qcow2 {
        return Err(Error::invalid("an overlay is a qcow2 image"));
    }
    let top = reopen(target.storage, target.name, target.format, image.requests())?;
    // Most of it while writers go on.
    image.flush().await?;
    let _alone = image.freeze_for_change().await?;
    image.current().no_job()?;
    image.lock_writer(&top)?;
    let result = exchange(image, &top).await;
    if result.is_err() {
        unlock(std::slice::from_ref(&top));
    }
    result
}

async fn exchange(image: &Image, top: &Node) -> Result<()> {
    top.activate().await?;
    let (size, own) = (image.virtual_size(), top.size());
    if size != own {
        return Err(Error::invalid(format!(
            "the overlay has {own} bytes, the disk {size}: they must be the same"
        )));
    }
    match &top.kind {
        Kind::Qcow2(q) if q.names_backing() && q.is_empty() => {}
        _ => {
            return Err(Error::invalid(
                "the overlay must name a backing file and have nothing of its own",
            ));
        }
    }
    let chain = image.chain();
    access::close(&chain).await?;
    if let Some(old) = chain.first() {
        if let Err(e) = image.lock_reader(old) {
            image.lock_writer(old)?;
            return Err(e);
        }
        old.set_read_only(true);
    }
    let new: Vec<Node> = std::iter::once(top).chain(chain.iter()).cloned().collect();
    image.current().set_chain(new);
    Ok(())
}
