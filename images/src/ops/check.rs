//! Checking an image, and repairing it.
use std::fs::File;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
pub use crate::format::qcow2::check::Repair;
use crate::format::qcow2::{self, Qcow2};
use crate::storage::lock::LockMode;
use crate::storage::{Cache, Storage};

/// What a check found; the JSON has the names that qemu-img uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The image as its opener called it.
    pub filename: String,
    /// The format.
    pub format: &'static str,
    /// Where the last used cluster ends, in bytes.
    pub image_end_offset: u64,
    /// Clusters of the virtual disk.
    pub total_clusters: u64,
    /// Clusters of the virtual disk that have a place in the file.
    pub allocated_clusters: u64,
    /// Allocated clusters that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Compressed clusters.
    pub compressed_clusters: u64,
    /// Clusters that are counted more often than they are used: lost space, no lost data.
    pub leaks: u64,
    /// Contradictions that can lose data.
    pub corruptions: u64,
    /// Repaired leaks.
    pub leaks_fixed: u64,
    /// Repaired contradictions.
    pub corruptions_fixed: u64,
    /// Parts of the image that could not be checked.
    pub check_errors: u64,
    /// What was found, for people; bounded.
    #[serde(skip)]
    pub messages: Vec<String>,
}

impl CheckReport {
    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.corruptions == 0 && self.check_errors == 0
    }
}

/// Checks a qcow2 image that nobody else uses, and repairs what `repair` allows. The file is only
/// written by a repair.
///
/// # Errors
/// What keeps the image from being checked at all; [`ErrorKind::Locked`] if it is in use.
pub async fn check(file: File, name: &str, repair: Repair) -> Result<CheckReport> {
    let storage = Storage::file(file, Cache::Writeback)?;
    let mode = if repair == Repair::No {
        LockMode::Reader
    } else {
        LockMode::Writer
    };
    storage.lock(mode, name)?;
    let result = check_storage(storage, name, repair).await;
    result.map_err(|e| e.context(name))
}

/// As [`check`], on any storage. The locks end with the storage.
///
/// # Errors
/// As [`check`].
pub async fn check_storage(storage: Storage, name: &str, repair: Repair) -> Result<CheckReport> {
    if repair != Repair::No && !storage.writable() {
        return Err(Error::new(
            ErrorKind::ReadOnly,
            "a repair needs a writable descriptor",
        ));
    }
    let header = qcow2::read_header(&storage)?;
    let total_clusters = header.size.div_ceil(header.cluster_size());
    let image = Qcow2::for_check(storage, header);
    let found = qcow2::check::check(&image, repair).await;
    if repair == Repair::All
        && let Ok(found) = &found
        && found.corruptions == 0
    {
        image.clear_trouble().await?;
    }
    image.storage.unlock();
    let found = found?;
    Ok(CheckReport {
        filename: name.to_owned(),
        format: "qcow2",
        image_end_offset: found.end_offset,
        total_clusters,
        allocated_clusters: found.allocated,
        fragmented_clusters: found.fragmented,
        compressed_clusters: found.compressed,
        leaks: found.leaks,
        corruptions: found.corruptions,
        leaks_fixed: found.leaks_fixed,
        corruptions_fixed: found.corruptions_fixed,
        check_errors: 0,
        messages: found.messages,
    })
}
