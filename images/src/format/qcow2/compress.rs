//! Compressed clusters: unpacking, and a small memory of what was unpacked last.
use std::sync::{Arc, Mutex};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::Qcow2;
use super::header::Compression;
use crate::error::{Error, Result};
use crate::sync::lock;

/// Unpacked clusters that are kept: a sequential reader comes back to the same one.
const KEPT: usize = 4;

/// What was unpacked last, by the L2 entry.
#[derive(Default)]
pub(crate) struct Unpacked {
    kept: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
}

impl Unpacked {
    pub(crate) fn clear(&self) {
        lock(&self.kept).clear();
    }

    fn get(&self, entry: u64) -> Option<Arc<Vec<u8>>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|(e, _)| *e == entry)?;
        let found = kept.remove(at);
        let bytes = found.1.clone();
        kept.push(found);
        Some(bytes)
    }

    fn put(&self, entry: u64, bytes: Arc<Vec<u8>>) {
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((entry, bytes));
    }

    /// Forgets a cluster whose space is used for something else from now on.
    pub(crate) fn forget(&self, entry: u64) {
        lock(&self.kept).retain(|(e, _)| *e != entry);
    }
}

impl Qcow2 {
    /// Reads and unpacks the compressed cluster that an L2 entry describes.
    ///
    /// # Errors
    /// A range outside the file, data that does not unpack to a cluster, a failed read.
    pub(crate) async fn unpack(&self, entry: u64) -> Result<Arc<Vec<u8>>> {
        if let Some(bytes) = self.unpacked.get(entry) {
            return Ok(bytes);
        }
        let (offset, len) = self.geometry.compressed_range(entry);
        let file_len = self.storage.len()?;
        if offset >= file_len {
            return Err(Error::corrupt(format!(
                "a compressed cluster at file offset {offset} is behind the end of the file"
            )));
        }
        let packed = self
            .storage
            .read_owned(offset, len.min(file_len - offset))
            .await?;
        let cluster = self.geometry.cluster() as usize;
        let bytes = unpack(self.geometry.compression, &packed, cluster)
            .map_err(|e| e.context(format_args!("compressed cluster at file offset {offset}")))?;
        let bytes = Arc::new(bytes);
        self.unpacked.put(entry, bytes.clone());
        Ok(bytes)
    }
}

/// Unpacks exactly `cluster` bytes; what follows the stream in `packed` does not matter.
///
/// # Errors
/// A stream that is broken or too short.
pub(crate) fn unpack(kind: Compression, packed: &[u8], cluster: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; cluster];
    let done = match kind {
        Compression::Zlib => inflate(packed, &mut out)?,
        Compression::Zstd => unzstd(packed, &mut out)?,
    };
    if done != cluster {
        return Err(Error::corrupt(format!(
            "it unpacks to {done} bytes, not to {cluster}"
        )));
    }
    Ok(out)
}

fn inflate(packed: &[u8], out: &mut [u8]) -> Result<usize> {
    // A raw deflate stream; a full window reads the streams of every writer.
    let mut z = Decompress::new(false);
    loop {
        let (before_in, before_out) = (z.total_in() as usize, z.total_out() as usize);
        let input = packed.get(before_in..).unwrap_or_default();
        let output = out.get_mut(before_out..).unwrap_or_default();
        let status = z
            .decompress(input, output, FlushDecompress::Finish)
            .map_err(|e| Error::corrupt(format!("deflate: {e}")))?;
        let done = z.total_out() as usize;
        let stuck = z.total_in() as usize == before_in && done == before_out;
        if status == Status::StreamEnd || done == out.len() || stuck {
            return Ok(done);
        }
    }
}

fn unzstd(packed: &[u8], out: &mut [u8]) -> Result<usize> {
    let fail = |e: std::io::Error| Error::corrupt(format!("zstd: {e}"));
    let mut decoder = Decoder::new().map_err(fail)?;
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around(out);
    loop {
        let before = (input.pos(), output.pos());
        decoder.run(&mut input, &mut output).map_err(fail)?;
        if output.pos() == output.capacity() || before == (input.pos(), output.pos()) {
            return Ok(output.pos());
        }
    }
}

/// Packing clusters.
pub(crate) mod pack {
    use super::Compression;

    /// Packs clusters of one image; one per thread, its memory is used again.
    pub(crate) struct Packer {
        kind: Engine,
        out: Vec<u8>,
    }

    enum Engine {
        Zlib(libdeflater::Compressor),
        Zstd(Option<zstd::bulk::Compressor<'static>>),
    }

    impl Packer {
        pub(crate) fn new(kind: Compression) -> Packer {
            let kind = match kind {
                Compression::Zlib => {
                    let level = libdeflater::CompressionLvl::new(3);
                    let level = level.unwrap_or_default();
                    Engine::Zlib(libdeflater::Compressor::new(level))
                }
                Compression::Zstd => Engine::Zstd(zstd::bulk::Compressor::new(3).ok()),
            };
            Packer {
                kind,
                out: Vec::new(),
            }
        }

        /// The packed bytes, or None if they would not be at least a sector shorter.
        pub(crate) fn pack(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            let most = bytes.len().checked_sub(512)?;
            self.out.resize(most, 0);
            let n = match &mut self.kind {
                Engine::Zlib(z) => z.deflate_compress(bytes, &mut self.out).ok()?,
                Engine::Zstd(z) => z.as_mut()?.compress_to_buffer(bytes, &mut self.out).ok()?,
            };
            self.out
                .get(..n)
                .filter(|p| !p.is_empty())
                .map(<[u8]>::to_vec)
        }
    }
}
