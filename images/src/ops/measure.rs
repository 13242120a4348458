//! How large the file of a new image would be.
use serde::Serialize;

use crate::error::Result;
use crate::format::Format;
use crate::image::Image;
use crate::ops::create::{CreateOptions, metadata_size};
use crate::ops::map::status;

/// Sizes of the file of an image that does not exist yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measurement {
    /// With the data that there is now, in bytes.
    pub required: u64,
    /// When every cluster is used, in bytes.
    pub fully_allocated: u64,
}

/// Measures a conversion of `source` (or an empty image of the options' size) to `options`.
///
/// # Errors
/// Options that do not go together; a failed read of metadata.
pub async fn measure(source: Option<&Image>, options: &CreateOptions) -> Result<Measurement> {
    let size = match source {
        Some(image) => image.virtual_size(),
        None => options.size,
    };
    let size = size.next_multiple_of(512);
    let unit = if options.format == Format::Raw {
        1
    } else {
        options.cluster_size
    };
    let mut used = 0u64;
    if let Some(image) = source {
        let (mut at, mut counted) = (0, 0u64);
        while at < size {
            let entry = status(&image.chain(), at, size - at).await?;
            let end = at + entry.length.max(1);
            if !entry.zero {
                // Whole clusters, each counted once.
                let first = (at / unit).max(counted);
                let last = end.div_ceil(unit);
                used += last.saturating_sub(first);
                counted = counted.max(last);
            }
            at = end;
        }
    }
    if options.format == Format::Raw {
        return Ok(Measurement {
            required: if source.is_some() { used } else { 0 }.max(size),
            fully_allocated: size,
        });
    }
    let full = size.div_ceil(unit);
    let metadata = metadata_size(&CreateOptions {
        size,
        ..options.clone()
    })?;
    Ok(Measurement {
        required: metadata + used * unit,
        fully_allocated: metadata + full * unit,
    })
}
