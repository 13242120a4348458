//! Internal snapshots of an active image. Requests wait while one is taken, deleted or applied.
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::snapshot::{Snapshot, find};
use crate::image::{DiscardMode, Image};
use crate::ops::info::SnapshotInfo;

fn qcow2(image: &Image) -> Result<Arc<Qcow2>> {
    image.top_qcow2().ok_or_else(|| {
        Error::unsupported(
            "internal snapshots of raw images",
            "only qcow2 images have internal snapshots",
        )
    })
}

/// The snapshots of an image.
///
/// # Errors
/// A format without snapshots; a table that cannot be.
pub fn list(image: &Image) -> Result<Vec<SnapshotInfo>> {
    Ok(qcow2(image)?
        .snapshots()?
        .iter()
        .map(SnapshotInfo::from)
        .collect())
}

/// Takes a snapshot; its id.
///
/// # Errors
/// A name that is too long, a read-only image, a full disk.
pub async fn take(image: &Image, name: &str, vm_clock: Duration) -> Result<String> {
    if name.is_empty() || name.len() > 255 {
        return Err(Error::invalid("the name of a snapshot has 1 to 255 bytes"));
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let new = Snapshot {
        id: Vec::new(),
        name: name.as_bytes().to_vec(),
        l1_offset: 0,
        l1_size: 0,
        seconds: now.as_secs() as u32,
        nanoseconds: now.subsec_nanos(),
        vm_clock: u64::try_from(vm_clock.as_nanos()).unwrap_or(u64::MAX),
        vm_state_size: 0,
        disk_size: None,
        rest: Vec::new(),
    };
    let _alone = image.freeze_for_change().await?;
    qcow2(image)?.take_snapshot(new).await
}

/// Deletes a snapshot by id or name.
///
/// # Errors
/// No such snapshot, a read-only image, a failed write.
pub async fn delete(image: &Image, wanted: &str) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    let image_format = qcow2(image)?;
    let at = find(&image_format.snapshots()?, wanted)?;
    image_format
        .delete_snapshot(at, image.options().discard == DiscardMode::Unmap)
        .await
}

/// Makes the disk what it was when a snapshot was taken; the snapshot stays. The virtual size
/// becomes that of the snapshot.
///
/// # Errors
/// No such snapshot, a read-only image, a failed write.
pub async fn apply(image: &Image, wanted: &str) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    image.current().no_job()?;
    let image_format = qcow2(image)?;
    let at = find(&image_format.snapshots()?, wanted)?;
    image_format
        .apply_snapshot(at, image.options().discard == DiscardMode::Unmap)
        .await
}
