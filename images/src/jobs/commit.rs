//! Commit of the active layer: what the layers above a base have moves down into it.
use super::control::{Control, Outcome};
use super::copy::{Sink, granule};
use super::mirror::follow;
use super::tap::{Kind, Tap};
use super::{Installed, Target, unlock};
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::bits::Bits;
use crate::image::Image;
use crate::live::Chain;
use crate::node::{Node, reopen};
use crate::ops::create::Preallocation;

/// Moves what the layers above the base have down into it. The base is the layer `depth` from the
/// top (1 is the first backing file); `base` is its file, opened once more for writing. When the
/// job is ready, [`Control::complete`] makes the base the topmost layer; the owner has noted that
/// before, because what is written afterwards is there alone. A base that is smaller than the disk
/// grows. Until then the chain stays as it is, and what the base has got already is what the
/// layers above it show anyway.
///
/// # Errors
/// No such layer, a base that others use or that is another file, a failed read or write of the
/// base, another job. The disk is as without the job.
pub async fn commit(
    image: &Image,
    depth: usize,
    base: Target,
    control: &Control,
) -> Result<Outcome> {
    image.check_writable()?;
    let result = run(image, depth, base, control).await;
    control.set_phase(super::Phase::Ended);
    result
}

async fn run(image: &Image, depth: usize, base: Target, control: &Control) -> Result<Outcome> {
    let (job, target) = begin(image, depth, base).await?;
    let result = follow(&job, &target, control).await;
    if !matches!(result, Ok(Outcome::Done)) {
        give_back(image, &target).await;
    }
    result
}

/// Makes the base writable and puts the job in its place, all at once.
async fn begin(image: &Image, depth: usize, base: Target) -> Result<(Installed<'_>, Chain)> {
    let _alone = image.freeze_for_change().await?;
    image.current().no_job()?;
    let chain = image.chain();
    let old = chain
        .get(depth)
        .filter(|_| depth > 0)
        .ok_or_else(|| Error::invalid(format!("there is no layer {depth} beneath the top")))?;
    let same = old.storages().next().map(|s| s.identity());
    if base.storage.identity().is_some() && same != Some(base.storage.identity()) {
        return Err(Error::invalid(format!(
            "{} is not the file of the layer {}",
            base.name, old.name
        )));
    }
    let new = reopen(base.storage, base.name, base.format, image.requests())?;
    if new.format() != old.format() {
        return Err(Error::invalid(format!(
            "the layer {} is {}, not {}",
            old.name,
            old.format(),
            new.format()
        )));
    }
    let mut below = chain.get(depth..).unwrap_or_default().to_vec();
    if let Some(top) = below.first_mut() {
        *top = new.clone();
    }
    // Our own lock of a reader would be in the way.
    unlock(std::slice::from_ref(old));
    let ready = prepare(image, &below).await;
    if let Err(e) = ready {
        unlock(&below[..1]);
        image.lock_reader(old)?;
        return Err(e);
    }
    let target: Chain = below.clone().into();
    let todo = Bits::new(image.virtual_size(), granule(&[&chain]))?;
    todo.set_all();
    let kind = Kind::Mirror {
        target: Sink::Chain(target.clone()),
        layers: depth,
    };
    let mut all: Vec<Node> = chain.iter().take(depth).cloned().collect();
    all.extend(below);
    image.current().set_chain(all);
    Ok((Installed::new(image, Tap::new(kind, todo))?, target))
}

async fn prepare(image: &Image, below: &[Node]) -> Result<()> {
    let Some(base) = below.first() else {
        return Ok(());
    };
    image.lock_writer(base)?;
    base.activate().await?;
    let size = image.virtual_size();
    if base.size() < size {
        base.resize(below, size, Preallocation::Off).await?;
    }
    Ok(())
}

/// The base is a backing file as before.
async fn give_back(image: &Image, target: &Chain) {
    let Some(base) = target.first() else { return };
    let _alone = image.requests().freeze().await;
    // What it has got is not needed: a failure costs nothing but space.
    if let Err(error) = crate::access::close(target).await {
        tracing::warn!(%error, "the base of a commit that broke off was not closed");
    }
    base.set_read_only(true);
    if image.requests().is_active()
        && let Err(error) = image.lock_reader(base)
    {
        tracing::warn!(%error, "the base of a commit that broke off is not locked");
    }
}
