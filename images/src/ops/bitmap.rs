//! Persistent dirty bitmaps of a qcow2 image: which parts of the disk were written since some
//! moment. They are stored when the image is inactivated.

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::bitmap::bits::Bits;
use crate::format::qcow2::bitmap::{Described, Fault};
use crate::image::Image;

/// A bitmap; the JSON has the names that qemu-img uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BitmapInfo {
    /// "in-use" if it was not stored properly and cannot be used; "auto" if it records writes.
    pub flags: Vec<&'static str>,
    /// The name.
    pub name: String,
    /// Bytes of the disk for each bit.
    pub granularity: u64,
}

impl From<&Described> for BitmapInfo {
    fn from(d: &Described) -> BitmapInfo {
        let flags = [(d.in_use, "in-use"), (d.auto, "auto")];
        BitmapInfo {
            flags: flags.iter().filter(|f| f.0).map(|f| f.1).collect(),
            name: d.name.clone(),
            granularity: d.granularity,
        }
    }
}

fn qcow2(image: &Image) -> Result<Arc<Qcow2>> {
    image.top_qcow2().ok_or_else(|| {
        Error::unsupported(
            "bitmaps of raw images",
            "only qcow2 images have persistent bitmaps",
        )
    })
}

/// The bitmaps of an active, writable image.
///
/// # Errors
/// A format without bitmaps.
pub fn list(image: &Image) -> Result<Vec<BitmapInfo>> {
    let bitmaps = qcow2(image)?.live_bitmaps();
    Ok(bitmaps.iter().map(BitmapInfo::from).collect())
}

/// A bitmap that cannot be used, and a word for what is wrong: `inconsistent` (it was not stored when the
/// image was closed), `stale` (the image was written to by a program without support for bitmaps),
/// `unknown` (it is of a kind that is not known) or `damaged`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenBitmap {
    /// The name.
    pub name: String,
    /// What is wrong.
    pub fault: &'static str,
}

/// The bitmaps as they are stored, of an image that is only read, and those of them that cannot be used;
/// none where the format has none.
///
/// # Errors
/// A directory that cannot be; a failed read.
pub async fn stored(image: &Image) -> Result<(Vec<BitmapInfo>, Vec<BrokenBitmap>)> {
    let (mut usable, mut broken) = (Vec::new(), Vec::new());
    let Some(format) = image.top_qcow2() else {
        return Ok((usable, broken));
    };
    for (bitmap, fault) in format.judged_bitmaps().await? {
        let fault = match fault {
            None => {
                usable.push(BitmapInfo::from(&bitmap));
                continue;
            }
            Some(Fault::Inconsistent) => "inconsistent",
            Some(Fault::Stale) => "stale",
            Some(Fault::Unknown) => "unknown",
            Some(Fault::Damaged) => "damaged",
        };
        broken.push(BrokenBitmap {
            name: bitmap.name,
            fault,
        });
    }
    Ok((usable, broken))
}

/// Gives an image a copy of another one's bitmap, with its name, granularity and state.
///
/// # Errors
/// As [`add`] and [`merge`].
pub async fn copy(image: &Image, from: Option<&Image>, bitmap: &BitmapInfo) -> Result<()> {
    let enabled = bitmap.flags.contains(&"auto");
    add(image, &bitmap.name, Some(bitmap.granularity), enabled).await?;
    merge(image, &bitmap.name, from, &bitmap.name).await
}

/// Adds a bitmap with nothing set. The granularity is a power of two from 512 to 2 GiB; without
/// one it is that of the clusters, within 4 and 64 KiB.
///
/// # Errors
/// A name that is taken or cannot be; a version 2 image.
pub async fn add(image: &Image, name: &str, granularity: Option<u64>, enabled: bool) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    let image = qcow2(image)?;
    let default = image.geometry.cluster().clamp(4096, 65536);
    image.add_bitmap(name, granularity.unwrap_or(default), enabled)
}

/// Removes a bitmap, also one that cannot be used.
///
/// # Errors
/// No such bitmap.
pub async fn remove(image: &Image, name: &str) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    qcow2(image)?.remove_bitmap(name)
}

/// Clears a bitmap.
///
/// # Errors
/// No such bitmap, or one that cannot be used.
pub async fn clear(image: &Image, name: &str) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    qcow2(image)?.change_bits(name, Bits::clear_all)
}

/// Lets a bitmap record writes, or stops it.
///
/// # Errors
/// No such bitmap, or one that cannot be used.
pub async fn enable(image: &Image, name: &str, enabled: bool) -> Result<()> {
    let _alone = image.freeze_for_change().await?;
    qcow2(image)?.enable_bitmap(name, enabled)
}

/// Adds to bitmap `name` what bitmap `from` has, of the same image or of `other`.
///
/// # Errors
/// No such bitmap, or one that cannot be used; disks of different sizes.
pub async fn merge(image: &Image, name: &str, other: Option<&Image>, from: &str) -> Result<()> {
    let source = bits_of(other.unwrap_or(image), from).await?;
    if source.size() != image.virtual_size() {
        return Err(Error::invalid(format!(
            "the disks have different sizes ({} and {} bytes): their bitmaps cannot be merged",
            source.size(),
            image.virtual_size()
        )));
    }
    let _alone = image.freeze_for_change().await?;
    qcow2(image)?.change_bits(name, |bits| bits.merge(&source))
}

/// The ranges (offset, length in bytes) of the disk that a bitmap has set.
///
/// # Errors
/// No such bitmap, or one that cannot be used; a failed read.
pub async fn dirty(image: &Image, name: &str) -> Result<Vec<(u64, u64)>> {
    Ok(bits_of(image, name).await?.runs().collect())
}

/// A copy of the bits of a bitmap.
async fn bits_of(image: &Image, name: &str) -> Result<Bits> {
    let format = qcow2(image)?;
    if image.read_only() {
        return format.stored_bits(name).await;
    }
    Ok(format.live_bitmap(name)?.bits.copy())
}
