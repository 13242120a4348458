//! Deleting an internal snapshot in steps, between which writers go on.
use super::Phase;
use super::control::{Control, Outcome};
use crate::error::{Error, Result};
use crate::format::qcow2::snapshot::find;
use crate::image::{DiscardMode, Image};

/// Deletes an internal snapshot by id or name. It is gone at once; what it alone referred to
/// becomes free table by table, and writers wait for one table at a time. A crash in the middle
/// leaves the dirty bit, and whoever opens the image next for writing finishes the work.
/// Cancelling is possible before the snapshot is gone, not afterwards.
///
/// # Errors
/// No such snapshot, a failed write, a job that runs.
pub async fn delete_snapshot(image: &Image, wanted: &str, control: &Control) -> Result<Outcome> {
    let result = run(image, wanted, control).await;
    control.set_phase(Phase::Ended);
    result
}

async fn run(image: &Image, wanted: &str, control: &Control) -> Result<Outcome> {
    if control.is_cancelled() {
        return Ok(Outcome::Cancelled);
    }
    let (format, mut deletion) = {
        let _alone = image.freeze_for_change().await?;
        image.current().no_job()?;
        let format = image
            .top_qcow2()
            .ok_or_else(|| Error::invalid("only qcow2 images have internal snapshots"))?;
        let at = find(&format.snapshots()?, wanted)?;
        let deletion = format.begin_deletion(at).await?;
        (format, deletion)
    };
    control.set_total(deletion.tables());
    loop {
        {
            let _alone = image.freeze_for_change().await?;
            if !format.delete_step(&mut deletion).await? {
                break;
            }
        }
        control.add_done(1);
        control.pace(format.geometry.cluster()).await;
    }
    let _alone = image.freeze_for_change().await?;
    let punch = image.options().discard == DiscardMode::Unmap;
    format.end_deletion(deletion, punch).await?;
    Ok(Outcome::Done)
}
