//! Comparing the content of two images.
use crate::error::Result;
use crate::image::Image;
use crate::ops::map::status;

/// How two images compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same content; a longer image goes on with zeroes.
    Identical {
        /// The virtual sizes are not the same.
        sizes_differ: bool,
    },
    /// The first difference, in bytes from the start.
    Differs {
        /// Where it is.
        offset: u64,
    },
    /// In strict mode: the virtual sizes are not the same.
    SizesDiffer,
}

const STEP: u64 = 2 << 20;

/// Compares two active images. With `strict`, different sizes are a difference.
///
/// # Errors
/// A failed read.
pub async fn compare(a: &Image, b: &Image, strict: bool) -> Result<Comparison> {
    let (len_a, len_b) = (a.virtual_size(), b.virtual_size());
    if strict && len_a != len_b {
        return Ok(Comparison::SizesDiffer);
    }
    let both = len_a.min(len_b);
    let mut at = 0;
    while at < both {
        let (x, y) = (
            status(&a.chain(), at, both - at).await?,
            status(&b.chain(), at, both - at).await?,
        );
        let n = x.length.min(y.length).max(1);
        if x.zero && y.zero {
            at += n;
            continue;
        }
        let n = n.min(STEP);
        let left = a.read_bytes(at, n as usize).await?;
        let right = b.read_bytes(at, n as usize).await?;
        if left[..] != right[..] {
            return Ok(Comparison::Differs {
                offset: at + first_difference(&left, &right),
            });
        }
        at += n;
    }
    let longer = if len_a > len_b { a } else { b };
    let end = len_a.max(len_b);
    while at < end {
        let entry = status(&longer.chain(), at, end - at).await?;
        let n = entry
            .length
            .max(1)
            .min(if entry.zero { u64::MAX } else { STEP });
        if !entry.zero {
            let bytes = longer.read_bytes(at, n as usize).await?;
            if let Some(i) = bytes.iter().position(|&b| b != 0) {
                return Ok(Comparison::Differs {
                    offset: at + i as u64,
                });
            }
        }
        at += n;
    }
    Ok(Comparison::Identical {
        sizes_differ: len_a != len_b,
    })
}

fn first_difference(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0) as u64
}
