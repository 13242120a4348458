//! Changing the size of the virtual disk.
use crate::error::Result;
use crate::image::Image;
use crate::ops::create::Preallocation;

/// Gives an active image another size, in bytes; rounded up to 512. New space reads as zeroes.
/// What a smaller disk cuts off is gone.
///
/// # Errors
/// A read-only image, a size the format cannot have, a full disk.
pub async fn resize(image: &Image, size: u64) -> Result<()> {
    image.resize(size, Preallocation::Off).await
}

/// As [`resize`], with space for what a larger disk gains.
///
/// # Errors
/// As [`resize`].
pub async fn resize_with(image: &Image, size: u64, how: Preallocation) -> Result<()> {
    image.resize(size, how).await
}
