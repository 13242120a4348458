//! Block copy: the disk is copied to another file while it is in use; then that is used instead.
use super::control::{Control, Outcome};
use super::copy::{Sink, copy_all, granule};
use super::tap::{Kind, Tap};
use super::{Installed, Target, unlock, unlock_gone};
use crate::access;
use crate::error::{Error, Result};
use crate::format::qcow2::bitmap::bits::Bits;
use crate::gate::Gate;
use crate::image::Image;
use crate::live::Chain;
use crate::node::Node;

/// What to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MirrorOptions {
    /// The whole disk; the target needs nothing beneath it.
    #[default]
    Full,
    /// What the topmost layer has; the target names the same backing file and shows it.
    Top,
}

/// Copies the disk of an active image to `target`, a new image of the same size. When it is
/// ready, [`Control::complete`] makes the target the image: what calls the image goes on with it.
/// The owner has noted before that the target is the disk from then on, because what is written
/// afterwards is there alone. [`Control::cancel`] leaves the image where it is; cancelled when it
/// was ready, the target is the disk as it was then.
///
/// # Errors
/// A target of another size or in use, a failed read or write of the target, another job. The
/// image is as without the job.
pub async fn mirror(
    image: &Image,
    target: Target,
    gate: &dyn Gate,
    options: MirrorOptions,
    control: &Control,
) -> Result<Outcome> {
    image.check_writable()?;
    let chain: Chain = target.open(image, gate).await?.into();
    let result = run(image, &chain, options, control).await;
    if !matches!(result, Ok(Outcome::Done)) {
        unlock(&chain);
    }
    control.set_phase(super::Phase::Ended);
    result
}

async fn run(
    image: &Image,
    target: &Chain,
    options: MirrorOptions,
    control: &Control,
) -> Result<Outcome> {
    let sizes = (image.virtual_size(), target.first().map_or(0, |t| t.size()));
    if sizes.0 != sizes.1 {
        return Err(Error::invalid(format!(
            "the target has {} bytes, the disk {}: they must be the same",
            sizes.1, sizes.0
        )));
    }
    let layers = match options {
        MirrorOptions::Full => usize::MAX,
        MirrorOptions::Top => 1,
    };
    let job = {
        let _alone = image.freeze_for_change().await?;
        let todo = Bits::new(sizes.0, granule(&[&image.chain(), target]))?;
        todo.set_all();
        let kind = Kind::Mirror {
            target: Sink::Chain(target.clone()),
            layers,
        };
        Installed::new(image, Tap::new(kind, todo))?
    };
    follow(&job, target, control).await
}

/// Copies, waits, and exchanges the layers. Also what a commit does.
pub(super) async fn follow(
    job: &Installed<'_>,
    target: &Chain,
    control: &Control,
) -> Result<Outcome> {
    let (image, tap) = (job.image, &job.tap);
    if copy_all(job, control).await? == Outcome::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    // Most of what must be durable before the exchange, while writers go on.
    access::flush(target).await?;
    let pivot = control.decision(|| tap.is_broken()).await;
    tap.check()?;
    if pivot {
        access::flush(target).await?;
    }
    let _alone = image.freeze_for_change().await?;
    tap.check()?;
    access::flush(target).await?;
    if !pivot {
        return Ok(Outcome::Cancelled);
    }
    let old = image.chain();
    // The old top is left as if it had been closed.
    access::close(&old).await?;
    let new: Vec<Node> = target.to_vec();
    unlock_gone(&old, &new);
    image.current().set_chain(new);
    Ok(Outcome::Done)
}
