//! The one data path: finds where a range is, layer by layer, and moves it.
use crate::error::{Error, Result};
use crate::exec::join_all;
use crate::format::{Mapping, vmdk};
use crate::node::{Kind, Node};
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
            Mapping::Grain(grains, storage, at, within) => {
                let pieces = storage::slice(bufs, want.at, n);
                parts.push(Box::pin(async move {
                    let bytes = grains.unpack(storage, at).await?;
                    storage::scatter(&pieces, bytes.get(within as usize..).unwrap_or_default());
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
            Mapping::Data(..) | Mapping::Compressed(..) | Mapping::Grain(..) => return Ok(false),
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

/// A change of a range.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    /// New content.
    Write(&'a [Buffer]),
    /// `len` bytes of zeroes, which give space back if `unmap`.
    Zero { len: u64, unmap: bool },
    /// `len` bytes whose content does not matter any more.
    Discard { len: u64 },
}

impl Change<'_> {
    /// Bytes of the range.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Change::Write(bufs) => storage::total(bufs),
            Change::Zero { len, .. } | Change::Discard { len } => *len,
        }
    }
}

fn top(chain: &[Node]) -> Result<&Node> {
    chain
        .first()
        .ok_or_else(|| Error::invalid("an image without a layer"))
}

/// Changes the topmost layer of a chain.
pub(crate) async fn change(chain: &[Node], offset: u64, change: Change<'_>) -> Result<()> {
    match (&top(chain)?.kind, change) {
        (Kind::Raw(raw), Change::Write(bufs)) => raw.storage.write(offset, bufs).await,
        (Kind::Raw(raw), Change::Zero { len, unmap }) => raw.storage.zero(offset, len, unmap).await,
        (Kind::Raw(raw), Change::Discard { len }) => raw.storage.discard(offset, len).await,
        (Kind::Qcow2(image), Change::Write(bufs)) => image.write(chain, offset, bufs).await,
        (Kind::Qcow2(image), Change::Zero { len, unmap }) => {
            image.zero(chain, offset, len, unmap).await
        }
        (Kind::Qcow2(image), Change::Discard { len }) => image.discard(chain, offset, len).await,
        (Kind::Vmdk(_), _) => Err(vmdk::read_only()),
    }
}

/// Makes what was written to the topmost layer of a chain durable.
pub(crate) async fn flush(chain: &[Node]) -> Result<()> {
    match &top(chain)?.kind {
        Kind::Raw(raw) => raw.storage.sync().await,
        Kind::Qcow2(image) => image.flush().await,
        Kind::Vmdk(_) => Ok(()),
    }
}

/// Brings everything of the topmost layer to the disk. No request is inside.
pub(crate) async fn close(chain: &[Node]) -> Result<()> {
    match &top(chain)?.kind {
        Kind::Raw(raw) => raw.storage.sync().await,
        Kind::Qcow2(image) => image.close().await,
        Kind::Vmdk(_) => Ok(()),
    }
}
