//! Memory that an operation uses again: a new buffer for every step costs more than the step.
use std::cell::RefCell;

use crate::access;
use crate::error::Result;
use crate::image::Image;
use crate::node::Node;
use crate::storage::{IoBuf, lend, slice};

/// Buffers of one length.
pub(crate) struct Buffers {
    len: u64,
    spare: RefCell<Vec<IoBuf>>,
}

impl Buffers {
    /// None yet, of `len` bytes each.
    pub(crate) fn new(len: u64) -> Buffers {
        Buffers {
            len,
            spare: RefCell::default(),
        }
    }

    /// A buffer with any content.
    pub(crate) fn take(&self) -> IoBuf {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| IoBuf::zeroed(self.len as usize))
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buf: IoBuf) {
        self.spare.borrow_mut().push(buf);
    }

    /// Reads `len` bytes, at most a buffer's length, into the beginning of a buffer.
    pub(crate) async fn read(&self, image: &Image, at: u64, len: u64) -> Result<IoBuf> {
        let piece = async |bufs: &[_]| image.read(at, &slice(bufs, 0, len)).await;
        lend(self.take(), piece).await
    }

    /// As [`Buffers::read`], of a chain of layers.
    pub(crate) async fn read_chain(&self, chain: &[Node], at: u64, len: u64) -> Result<IoBuf> {
        let piece = async |bufs: &[_]| access::read(chain, at, &slice(bufs, 0, len)).await;
        lend(self.take(), piece).await
    }

    /// Writes `len` bytes of a buffer from `from` on.
    pub(crate) async fn write(
        image: &Image,
        at: u64,
        buf: IoBuf,
        (from, len): (u64, u64),
    ) -> Result<IoBuf> {
        let piece = async |bufs: &[_]| image.write(at, &slice(bufs, from, len)).await;
        lend(buf, piece).await
    }
}
