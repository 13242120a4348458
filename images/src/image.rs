//! An image as its user sees it: opened inactive, activated, read and written, inactivated.
use std::sync::Arc;

use crate::access::{self, Change};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::header::Compression;
use crate::gate::Gate;
use crate::live::{Chain, Current};
use crate::node::{Kind, Node, open_chain};
use crate::ops::map::{MapEntry, status};
use crate::requests::{FreezeGuard, Requests};
use crate::storage::lock::LockMode;
use crate::storage::{self, Buffer, Cache, IoBuf, Storage};
use crate::sync::lock;

/// What a discard by the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiscardMode {
    /// Nothing.
    Ignore,
    /// Space goes back to the host.
    #[default]
    Unmap,
}

/// What writes of zeroes become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DetectZeroes {
    /// Plain writes.
    #[default]
    Off,
    /// Zeroing, without giving space back.
    On,
    /// Zeroing that gives space back.
    Unmap,
}

/// How to open an image.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The format; never guessed.
    pub format: Format,
    /// Refuse writes. A read-only image may be shared by many readers.
    pub read_only: bool,
    /// Cache mode of every file of the image.
    pub cache: Cache,
    /// What discards do.
    pub discard: DiscardMode,
    /// What writes of zeroes become.
    pub detect_zeroes: DetectZeroes,
    /// Let other processes write the same image: for guests with a cluster file system.
    pub share_writers: bool,
    /// Take no locks at all. Only for looking at an image that somebody else uses: what is read
    /// may be stale or torn.
    pub no_locks: bool,
    /// Take locks on the backing files too. Without, somebody else must hold what protects them.
    pub lock_backing: bool,
}

impl OpenOptions {
    /// Read and write, with the defaults of each option.
    pub fn new(format: Format) -> OpenOptions {
        OpenOptions {
            format,
            read_only: false,
            cache: Cache::default(),
            discard: DiscardMode::default(),
            detect_zeroes: DetectZeroes::default(),
            share_writers: false,
            no_locks: false,
            lock_backing: true,
        }
    }

    /// Refuse writes.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> OpenOptions {
        self.read_only = read_only;
        self
    }

    /// Cache mode.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> OpenOptions {
        self.cache = cache;
        self
    }

    /// What discards do.
    #[must_use]
    pub fn discard(mut self, discard: DiscardMode) -> OpenOptions {
        self.discard = discard;
        self
    }

    /// What writes of zeroes become.
    #[must_use]
    pub fn detect_zeroes(mut self, detect: DetectZeroes) -> OpenOptions {
        self.detect_zeroes = detect;
        self
    }
}

/// A disk image. Shared by reference (`Arc<Image>`) between threads, each with its own executor.
///
/// Dropping it without [`Image::inactivate`] is like a power cut: what was flushed is there.
pub struct Image {
    options: OpenOptions,
    current: Current,
    requests: Arc<Requests>,
}

impl Image {
    /// Opens an image inactive: no locks are taken and nothing is written, not even repairs.
    /// `file` was opened by the caller, `name` is what messages call it. Files that the image
    /// names are asked from `gate`.
    ///
    /// # Errors
    /// What is wrong with the image, by field; [`ErrorKind::Refused`] from the gate.
    pub fn open(
        file: std::fs::File,
        name: &str,
        options: &OpenOptions,
        gate: &dyn Gate,
    ) -> Result<Image> {
        let storage = Storage::file(file, options.cache).map_err(|e| e.context(name))?;
        Image::open_storage(storage, name, options, gate)
    }

    /// As [`Image::open`], on any storage.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_storage(
        storage: Storage,
        name: &str,
        options: &OpenOptions,
        gate: &dyn Gate,
    ) -> Result<Image> {
        if !options.read_only && !storage.writable() {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                format!("{name}: opened for writing, but its descriptor only reads"),
            ));
        }
        let requests = Arc::new(Requests::default());
        let chain = open_chain(storage, name, options, gate, &requests)?;
        Ok(Image {
            options: options.clone(),
            current: Current::new(chain),
            requests,
        })
    }

    /// Takes the locks, drops everything cached and reads it again.
    /// An active image stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when somebody else uses the image; the image stays inactive.
    pub async fn activate(&self) -> Result<()> {
        let _alone = self.requests.freeze().await;
        if self.requests.is_active() {
            return Ok(());
        }
        let result = match self.lock_all() {
            Ok(()) => self.reload().await,
            Err(e) => Err(e),
        };
        if result.is_err() {
            self.unlock_all();
        } else {
            self.requests.set_active(true);
        }
        result
    }

    fn lock_all(&self) -> Result<()> {
        self.lock_chain(&self.chain())
    }

    /// Takes the locks of layers: the first is written to.
    pub(crate) fn lock_chain(&self, chain: &[Node]) -> Result<()> {
        let depth = if self.options.lock_backing {
            chain.len()
        } else {
            1
        };
        for (depth, node) in chain.iter().enumerate().take(depth) {
            let result = match depth {
                0 if !self.options.read_only => self.lock_writer(node),
                _ => self.lock_reader(node),
            };
            if result.is_err() {
                unlock(chain);
                return result;
            }
        }
        Ok(())
    }

    /// Locks a layer that is written to.
    pub(crate) fn lock_writer(&self, node: &Node) -> Result<()> {
        self.lock(
            node,
            match self.options.share_writers {
                false => LockMode::Writer,
                true => LockMode::SharedWriter,
            },
        )
    }

    /// Locks a layer that is read.
    pub(crate) fn lock_reader(&self, node: &Node) -> Result<()> {
        self.lock(node, LockMode::Reader)
    }

    fn lock(&self, node: &Node, mode: LockMode) -> Result<()> {
        if self.options.no_locks {
            return Ok(());
        }
        node.storages()
            .try_for_each(|storage| storage.lock(mode, &node.name))
    }

    pub(crate) fn unlock_all(&self) {
        if !self.options.no_locks {
            unlock(&self.chain());
        }
    }

    async fn reload(&self) -> Result<()> {
        // From the bottom, so that what is beneath is there when the top repairs itself.
        for node in self.chain().iter().rev() {
            node.activate().await?;
        }
        Ok(())
    }

    /// Waits for the requests inside, flushes, and gives the locks up. Every later request is
    /// refused until the image is activated again. An inactive image stays as it is.
    ///
    /// # Errors
    /// When the flush fails the image stays active, so that nothing is lost by trying again.
    pub async fn inactivate(&self) -> Result<()> {
        let _alone = self.requests.freeze().await;
        if !self.requests.is_active() {
            return Ok(());
        }
        if !self.options.read_only {
            access::close(&self.chain()).await?;
        }
        self.requests.set_active(false);
        self.unlock_all();
        Ok(())
    }

    /// Lets the calling thread itself copy what is written into the page cache: for tools, which
    /// have nothing else to do meanwhile. Nothing changes for direct I/O.
    pub fn write_blocking(&self) {
        self.chain()
            .iter()
            .flat_map(Node::storages)
            .for_each(Storage::set_blocking);
    }

    /// Unpacks compressed clusters on threads of their own, one per processor: for tools.
    pub(crate) fn unpack_on_threads(&self) {
        let chain = self.chain();
        let layers = chain.iter().filter_map(Node::qcow2);
        layers.for_each(|layer| layer.unpacked.use_threads());
    }

    /// Reads an internal snapshot, by id or name, instead of the disk: from the next activation on.
    ///
    /// # Errors
    /// An image that may be written, or whose format has no snapshots. That there is no such snapshot
    /// shows at the activation.
    pub fn read_snapshot(&self, wanted: &str) -> Result<()> {
        match self.top_qcow2() {
            Some(image) if self.options.read_only => {
                *lock(&image.as_of) = Some(wanted.to_owned());
                Ok(())
            }
            Some(_) => Err(Error::invalid("a snapshot can only be read")),
            None => Err(Error::unsupported(
                "internal snapshots of raw images",
                "only qcow2 images have internal snapshots",
            )),
        }
    }

    /// Size of the virtual disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.current.top_size()
    }

    /// True if writes are refused.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// Alignment in bytes of offsets and lengths at which requests need no copying.
    pub fn alignment(&self) -> u32 {
        self.chain()
            .iter()
            .flat_map(Node::storages)
            .map(Storage::alignment)
            .max()
            .unwrap_or(1)
    }

    /// Format of the topmost layer.
    pub fn format(&self) -> Format {
        self.chain().first().map_or(Format::Raw, Node::format)
    }

    /// What the layers are called, from the top.
    pub fn layer_names(&self) -> Vec<String> {
        let chain = self.chain();
        chain.iter().map(|node| node.name.clone()).collect()
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &OpenOptions {
        &self.options
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.virtual_size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{len} bytes at {offset} reach over the end of the disk ({size} bytes)"),
            )),
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the image is read-only"));
        }
        Ok(())
    }

    /// Reads into all pieces, from `offset`.
    ///
    /// # Errors
    /// The request has failed as a whole; the memory may have been written in part.
    pub async fn read(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        let _inside = self.requests.enter().await?;
        self.check_range(offset, storage::total(bufs))?;
        access::read(&self.chain(), offset, bufs).await
    }

    /// Writes all pieces at `offset`. Durable after the next [`Image::flush`] only.
    ///
    /// # Errors
    /// Some of the range may have been written; the request can be sent again.
    pub async fn write(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        self.check_writable()?;
        let _inside = self.requests.enter().await?;
        self.check_range(offset, storage::total(bufs))?;
        if self.options.detect_zeroes != DetectZeroes::Off && storage::is_zero(bufs) {
            let unmap = self.options.detect_zeroes == DetectZeroes::Unmap
                && self.options.discard == DiscardMode::Unmap;
            let len = storage::total(bufs);
            self.change(offset, Change::Zero { len, unmap }).await?;
        } else {
            self.change(offset, Change::Write(bufs)).await?;
        }
        self.written().await
    }

    /// Makes everything durable whose request has completed.
    ///
    /// # Errors
    /// What is not durable may be flushed again later.
    pub async fn flush(&self) -> Result<()> {
        let _inside = self.requests.enter_flush().await?;
        if self.options.read_only {
            return Ok(());
        }
        access::flush(&self.chain()).await
    }

    /// The content of the range is no longer needed; it may read as anything that it was, or as
    /// zeroes.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        if self.options.discard == DiscardMode::Unmap && len > 0 {
            self.change(offset, Change::Discard { len }).await?;
            self.written().await?;
        }
        Ok(())
    }

    /// Makes the range read as zeroes; gives its space back if `may_unmap` and if discards do.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<()> {
        self.check_writable()?;
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        if len > 0 {
            let unmap = may_unmap && self.options.discard == DiscardMode::Unmap;
            self.change(offset, Change::Zero { len, unmap }).await?;
            self.written().await?;
        }
        Ok(())
    }

    /// As [`Image::write_zeroes`], but false, with nothing changed that matters, where zeroes would
    /// have to be written as data.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub async fn write_zeroes_fast(&self, offset: u64, len: u64, may_unmap: bool) -> Result<bool> {
        self.check_writable()?;
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        let unmap = may_unmap && self.options.discard == DiscardMode::Unmap;
        let live = self.current.get();
        let done = match live.chain.first().map(|top| &top.kind) {
            // A job does not know of this short way.
            Some(Kind::Raw(raw)) if live.tap.is_none() => {
                raw.storage.zero_fast(offset, len, unmap).await?
            }
            Some(Kind::Qcow2(image)) if image.zeroes_fast() => {
                live.apply(offset, Change::Zero { len, unmap }).await?;
                true
            }
            _ => false,
        };
        if done {
            self.written().await?;
        }
        Ok(done)
    }

    /// What is at `offset`, and for how many bytes, as far as metadata and the file system tell.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub async fn block_status(&self, offset: u64, len: u64) -> Result<MapEntry> {
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        status(&self.chain(), offset, len).await
    }

    /// True if a range reads as zeroes without a look at any data.
    pub(crate) async fn reads_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        access::reads_zero(&self.chain(), offset, len).await
    }

    /// Reads into memory of the engine, for callers without guest memory.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub async fn read_bytes(&self, offset: u64, len: usize) -> Result<IoBuf> {
        storage::fill_owned(len as u64, async |bufs| self.read(offset, bufs).await).await
    }

    /// Writes memory of the engine, for callers without guest memory.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub async fn write_bytes(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.write_again(offset, buf).await.map(|_| ())
    }

    /// Reads into memory that is given and comes back: for loops that use it again.
    ///
    /// # Errors
    /// As [`Image::read`]; the memory is gone then.
    pub async fn read_again(&self, offset: u64, buf: IoBuf) -> Result<IoBuf> {
        storage::lend(buf, async |bufs| self.read(offset, bufs).await).await
    }

    /// Writes memory that is given and comes back: for loops that use it again.
    ///
    /// # Errors
    /// As [`Image::write`]; the memory is gone then.
    pub async fn write_again(&self, offset: u64, buf: IoBuf) -> Result<IoBuf> {
        storage::lend(buf, async |bufs| self.write(offset, bufs).await).await
    }

    /// Keeps all requests out, for an operation that changes the whole image.
    pub(crate) async fn freeze_for_change(&self) -> Result<FreezeGuard<'_>> {
        self.check_writable()?;
        let guard = self.requests.freeze().await;
        if !self.requests.is_active() {
            return Err(Error::new(ErrorKind::Inactive, "the image is not active"));
        }
        Ok(guard)
    }

    /// Bytes of a cluster and how clusters are compressed, of a qcow2 image.
    pub(crate) fn cluster_size(&self) -> Option<(u64, Compression)> {
        self.top_qcow2()
            .map(|q| (q.geometry.cluster(), q.geometry.compression))
    }

    /// The layers, from the top.
    pub(crate) fn chain(&self) -> Chain {
        self.current.chain()
    }

    /// Layers and job.
    pub(crate) fn current(&self) -> &Current {
        &self.current
    }

    /// The door.
    pub(crate) fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// The topmost layer if it is qcow2.
    pub(crate) fn top_qcow2(&self) -> Option<Arc<Qcow2>> {
        self.chain().first()?.qcow2().cloned()
    }

    /// After a change: flushes at once if the cache mode wants it.
    async fn written(&self) -> Result<()> {
        if self.options.cache.flush_every_write() {
            access::flush(&self.chain()).await
        } else {
            Ok(())
        }
    }

    async fn change(&self, offset: u64, change: Change<'_>) -> Result<()> {
        self.current.get().apply(offset, change).await
    }
}

/// Gives the locks of layers up.
fn unlock(chain: &[Node]) {
    chain
        .iter()
        .flat_map(Node::storages)
        .for_each(Storage::unlock);
}
