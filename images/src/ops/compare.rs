//! Comparing the content of two images.
use std::cell::Cell;

use crate::error::Result;
use crate::exec::Window;
use crate::image::Image;
use crate::ops::buffers::Buffers;
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

/// Bytes of one step. Small enough to stay in the processor's cache, of both.
const STEP: u64 = 256 << 10;
/// Steps at a time.
const IN_FLIGHT: usize = 8;

/// Compares two active images. With `strict`, different sizes are a difference. `progress` gets
/// bytes done and in total.
///
/// # Errors
/// A failed read.
pub async fn compare(
    a: &Image,
    b: &Image,
    strict: bool,
    progress: &dyn Fn(u64, u64),
) -> Result<Comparison> {
    let (len_a, len_b) = (a.virtual_size(), b.virtual_size());
    if strict && len_a != len_b {
        return Ok(Comparison::SizesDiffer);
    }
    let both = len_a.min(len_b);
    // The first difference of all; the steps before it have begun when it is found.
    let found: Cell<Option<u64>> = Cell::new(None);
    let buffers = Buffers::new(STEP);
    let mut window = Window::new(IN_FLIGHT);
    let mut at = 0;
    while at < both && found.get().is_none() {
        progress(at, len_a.max(len_b));
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
        window
            .push(Box::pin(compare_step((a, b), (at, n), &buffers, &found)))
            .await?;
        at += n;
    }
    window.finish().await?;
    if let Some(offset) = found.get() {
        return Ok(Comparison::Differs { offset });
    }
    let longer = if len_a > len_b { a } else { b };
    let end = len_a.max(len_b);
    while at < end {
        progress(at, end);
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

async fn compare_step(
    (a, b): (&Image, &Image),
    (at, len): (u64, u64),
    buffers: &Buffers,
    found: &Cell<Option<u64>>,
) -> Result<()> {
    let left = buffers.read(a, at, len).await?;
    let right = buffers.read(b, at, len).await?;
    let (x, y) = (left.get(..len as usize), right.get(..len as usize));
    if x != y {
        let here = at + first_difference(x.unwrap_or_default(), y.unwrap_or_default());
        found.set(Some(found.get().map_or(here, |before| before.min(here))));
    }
    buffers.give(left);
    buffers.give(right);
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(0) as u64
}
