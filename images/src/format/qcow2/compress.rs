//! Compressed clusters: unpacking, and a small memory of what was unpacked last.
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::Qcow2;
use super::header::Compression;
use crate::error::{Error, Result};
use crate::exec::Workers;
use crate::sync::lock;

/// Unpacked clusters that are kept: a sequential reader comes back to the same one.
const KEPT: usize = 4;

/// What was unpacked last, by the L2 entry.
#[derive(Default)]
pub(crate) struct Unpacked {
    kept: Mutex<Vec<(u64, Arc<Vec<u8>>)>>,
    /// Clusters are unpacked on threads of their own: for tools that have nothing else to do.
    threads: AtomicBool,
    workers: OnceLock<Option<Workers>>,
}

impl Unpacked {
    /// From now on clusters are unpacked on one thread per processor.
    pub(crate) fn use_threads(&self) {
        self.threads.store(true, Ordering::Relaxed);
    }

    /// The threads, which begin with the first cluster; none if they are not wanted or not to be had.
    fn workers(&self) -> Option<&Workers> {
        if !self.threads.load(Ordering::Relaxed) {
            return None;
        }
        self.workers.get_or_init(|| Workers::new(0).ok()).as_ref()
    }

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
        let (kind, cluster) = (self.geometry.compression, self.geometry.cluster() as usize);
        let bytes = match self.unpacked.workers() {
            Some(workers) => {
                let work = move || unpack(kind, &packed, cluster);
                workers.run(work).await?
            }
            None => unpack(kind, &packed, cluster),
        };
        let bytes = bytes
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

thread_local! {
    /// What unpacking needs beside the data, used again for every cluster.
    static INFLATE: RefCell<libdeflater::Decompressor> =
        RefCell::new(libdeflater::Decompressor::new());
    static UNZSTD: RefCell<Option<Decoder<'static>>> = RefCell::new(Decoder::new().ok());
}

fn inflate(packed: &[u8], out: &mut [u8]) -> Result<usize> {
    // The quick way reads streams that end where the cluster does, as they all should.
    let quick = INFLATE.try_with(|z| z.borrow_mut().deflate_decompress(packed, out));
    if let Ok(Ok(n)) = quick
        && n == out.len()
    {
        return Ok(n);
    }
    inflate_slowly(packed, out)
}

/// Takes what comes before the stream breaks off.
fn inflate_slowly(packed: &[u8], out: &mut [u8]) -> Result<usize> {
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
    let kept = UNZSTD.try_with(|kept| kept.borrow_mut().take());
    let mut decoder = match kept.ok().flatten() {
        Some(decoder) => decoder,
        None => Decoder::new().map_err(fail)?,
    };
    decoder.reinit().map_err(fail)?;
    let done = unzstd_with(&mut decoder, packed, out)?;
    // At the end of a thread it is dropped instead.
    let _ = UNZSTD.try_with(|kept| *kept.borrow_mut() = Some(decoder));
    Ok(done)
}

fn unzstd_with(decoder: &mut Decoder<'_>, packed: &[u8], out: &mut [u8]) -> Result<usize> {
    let fail = |e: std::io::Error| Error::corrupt(format!("zstd: {e}"));
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
                    // On clusters its lowest level packs as well as zlib's default.
                    let level = libdeflater::CompressionLvl::new(1);
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
            if looks_random(bytes) {
                return None;
            }
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

    /// Bytes that are looked at, and the length of a piece of them.
    const SAMPLE: usize = 8192;
    const PIECE: usize = 512;

    /// True for what is packed or encrypted already: all byte values are equally common in a sample,
    /// and nothing in it comes twice. A guess that saves most of the time on such clusters.
    fn looks_random(bytes: &[u8]) -> bool {
        if bytes.len() < 2 * SAMPLE {
            return false;
        }
        let step = bytes.len() / (SAMPLE / PIECE);
        let mut counts = [0u32; 256];
        let mut words: Vec<[u8; 8]> = Vec::with_capacity(SAMPLE / 64);
        for piece in bytes.chunks(step) {
            let piece = piece.get(..PIECE.min(piece.len())).unwrap_or_default();
            for &byte in piece {
                counts[usize::from(byte)] += 1;
            }
            words.extend(piece.as_chunks::<8>().0.iter().step_by(8));
        }
        // With `n` random bytes the counts have a variance of about their mean; text has far more.
        let n: u32 = counts.iter().sum();
        let mean = f64::from(n) / 256.0;
        let variance: f64 = counts
            .iter()
            .map(|&count| (f64::from(count) - mean).powi(2))
            .sum::<f64>()
            / 256.0;
        if variance > 1.6 * mean {
            return false;
        }
        words.sort_unstable();
        words.windows(2).all(|pair| pair[0] != pair[1])
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_does_not_pack_is_told_by_a_look() {
            let mut state = 1u64;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let random: Vec<u8> = (0..8192).flat_map(|_| next().to_le_bytes()).collect();
            assert!(looks_random(&random));
            let twice = random[..16384].repeat(4);
            assert!(!looks_random(&twice), "what comes again packs");
            let text: Vec<u8> = random.iter().map(|b| b'a' + b % 26).collect();
            assert!(!looks_random(&text));
            assert!(!looks_random(&random[..4096]), "too little to tell");
            let records: Vec<u8> = (0..65536usize)
                .map(|i| if i % 8 < 2 { 0 } else { random[i] })
                .collect();
            assert!(!looks_random(&records));
            for kind in [Compression::Zlib, Compression::Zstd] {
                assert!(Packer::new(kind).pack(&twice).is_some());
                assert!(Packer::new(kind).pack(&random).is_none());
            }
        }
    }
}
