//! A larger disk while it is in use.
use crate::error::{Error, Result};
use crate::image::Image;

/// Makes the disk of an active image larger; what it gains reads as zeroes. Writers wait for the
/// change of a few tables.
///
/// # Errors
/// A size that is smaller than it is now, or that the format cannot have; a job that runs.
pub async fn grow(image: &Image, size: u64) -> Result<()> {
    let now = image.virtual_size();
    if size < now {
        return Err(Error::invalid(format!(
            "the disk has {now} bytes: it can only grow while it is in use"
        )));
    }
    crate::ops::resize(image, size).await
}
