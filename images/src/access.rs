//! The one data path: finds where a range is, layer by layer, and moves it.
use crate::error::{Error, Result};
use crate::exec::join_all;
use crate::format::Mapping;
use crate::node::Node;
use crate::storage::{self, Buffer};

/// A future of a part of a request.
pub(crate) type Part<'a> = crate::exec::Part<'a, Error>;

/// Parts of one request that are in flight at a time.
pub(crate) const MAX_PARTS: usize = 64;

/// Reads from a chain of layers, the topmost first. What no layer has is zero.
pub(crate) async fn read(chain: &[Node], offset: u64, bufs: &[Buffer]) -> Result<()> {
    let len = storage::total(bufs);
    if let Some(top) = chain.first()
        && len > 0
        && offset.checked_add(len).is_some_and(|end| end <= top.size())
    {
        // One extent in the topmost layer is the common case and takes no allocation.
        let extent = top.map(offset, len).await?;
        if extent.len >= len
            && let Mapping::Data(storage, at) = extent.mapping
        {
            return storage.read(at, bufs).await;
        }
    }
    read_parts(chain, offset, bufs).await
}

/// A range to look up: from which layer on, and where in the request.
struct Wanted {
    layer: usize,
    at: u64,
    len: u64,
}

async fn read_parts(chain: &[Node], offset: u64, bufs: &[Buffer]) -> Result<()> {
    let mut todo = vec![Wanted {
        layer: 0,
        at: 0,
        len: storage::total(bufs),
    }];
    let mut parts: Vec<Part<'_>> = Vec::new();
    while let Some(want) = todo.pop() {
        if want.len == 0 {
            continue;
        }
        let from = offset.saturating_add(want.at);
        let Some(node) = chain.get(want.layer).filter(|n| n.size() > from) else {
            storage::zero(&storage::slice(bufs, want.at, want.len));
            continue;
        };
        let here = want.len.min(node.size() - from);
        let extent = node.map(from, here).await?;
        let n = extent.len.clamp(1, here);
        todo.push(Wanted {
            layer: want.layer,
            at: want.at + n,
            len: want.len - n,
        });
        match extent.mapping {
            Mapping::Data(storage, at) => {
                let pieces = storage::slice(bufs, want.at, n);
                parts.push(Box::pin(async move { storage.read(at, &pieces).await }));
            }
            Mapping::Compressed(image, entry, within) => {
                let pieces = storage::slice(bufs, want.at, n);
                parts.push(Box::pin(async move {
                    let cluster = image.unpack(entry).await?;
                    storage::scatter(&pieces, cluster.get(within as usize..).unwrap_or_default());
                    Ok(())
                }));
            }
            Mapping::Zero => storage::zero(&storage::slice(bufs, want.at, n)),
            Mapping::Unallocated => {
                todo.push(Wanted {
                    layer: want.layer + 1,
                    at: want.at,
                    len: n,
                });
            }
        }
        if parts.len() >= MAX_PARTS {
            join_all(std::mem::take(&mut parts)).await?;
        }
    }
    join_all(parts).await
}

/// True if a range reads as zeroes without looking at any data.
pub(crate) async fn reads_zero(chain: &[Node], offset: u64, len: u64) -> Result<bool> {
    let mut todo = vec![Wanted {
        layer: 0,
        at: 0,
        len,
    }];
    while let Some(want) = todo.pop() {
        let from = offset.saturating_add(want.at);
        let Some(node) = chain
            .get(want.layer)
            .filter(|n| n.size() > from && want.len > 0)
        else {
            continue;
        };
        let here = want.len.min(node.size() - from);
        let extent = node.map(from, here).await?;
        let n = extent.len.clamp(1, here);
        todo.push(Wanted {
            layer: want.layer,
            at: want.at + n,
            len: want.len - n,
        });
        match extent.mapping {
            Mapping::Data(..) | Mapping::Compressed(..) => return Ok(false),
            Mapping::Zero => {}
            Mapping::Unallocated => {
                todo.push(Wanted {
                    layer: want.layer + 1,
                    at: want.at,
                    len: n,
                });
            }
        }
    }
    Ok(true)
}
