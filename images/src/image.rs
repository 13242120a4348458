//! An image as its user sees it: opened inactive, activated, read and written, inactivated.
use std::sync::Arc;

use crate::access;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::format::qcow2::Qcow2;
use crate::format::qcow2::header::{Compression, Header};
use crate::gate::Gate;
use crate::node::{Kind, Node, open_chain};
use crate::ops::create::Preallocation;
use crate::ops::map::{MapEntry, status};
use crate::requests::{FreezeGuard, Requests};
use crate::storage::lock::LockMode;
use crate::storage::{self, Buffer, Cache, IoBuf, Storage};

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
    /// The image itself, then its backing files from the top.
    chain: Vec<Node>,
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
            chain,
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
        if self.options.no_locks {
            return Ok(());
        }
        let depth = if self.options.lock_backing {
            self.chain.len()
        } else {
            1
        };
        for (depth, node) in self.chain.iter().enumerate().take(depth) {
            let mode = match (depth, self.options.read_only, self.options.share_writers) {
                (0, false, false) => LockMode::Writer,
                (0, false, true) => LockMode::SharedWriter,
                _ => LockMode::Reader,
            };
            for storage in node.storages() {
                storage.lock(mode, &node.name)?;
            }
        }
        Ok(())
    }

    fn unlock_all(&self) {
        if !self.options.no_locks {
            self.chain
                .iter()
                .flat_map(Node::storages)
                .for_each(Storage::unlock);
        }
    }

    async fn reload(&self) -> Result<()> {
        // From the bottom, so that what is beneath is there when the top repairs itself.
        for node in self.chain.iter().rev() {
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
            match &self.top()?.kind {
                Kind::Raw(raw) => raw.storage.sync().await?,
                Kind::Qcow2(image) => image.close().await?,
            }
        }
        self.requests.set_active(false);
        self.unlock_all();
        Ok(())
    }

    /// Size of the virtual disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.chain.first().map_or(0, Node::size)
    }

    /// True if writes are refused.
    pub fn read_only(&self) -> bool {
        self.options.read_only
    }

    /// Alignment in bytes of offsets and lengths at which requests need no copying.
    pub fn alignment(&self) -> u32 {
        self.chain
            .iter()
            .flat_map(Node::storages)
            .map(Storage::alignment)
            .max()
            .unwrap_or(1)
    }

    /// Format of the topmost layer.
    pub fn format(&self) -> Format {
        self.chain.first().map_or(Format::Raw, Node::format)
    }

    /// What the layers are called, from the top.
    pub fn layer_names(&self) -> Vec<&str> {
        self.chain.iter().map(|node| node.name.as_str()).collect()
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

    fn check_writable(&self) -> Result<()> {
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
        access::read(&self.chain, offset, bufs).await
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
            self.zero_top(offset, storage::total(bufs), unmap).await?;
        } else {
            self.write_top(offset, bufs).await?;
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
        self.flush_top().await
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
            self.discard_top(offset, len).await?;
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
            self.zero_top(offset, len, unmap).await?;
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
        let done = match &self.top()?.kind {
            Kind::Raw(raw) => raw.storage.zero_fast(offset, len, unmap).await?,
            Kind::Qcow2(image) if image.zeroes_fast() => {
                image.zero(&self.chain, offset, len, unmap).await?;
                true
            }
            Kind::Qcow2(_) => false,
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
        status(&self.chain, offset, len).await
    }

    /// True if a range reads as zeroes without a look at any data.
    pub(crate) async fn reads_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let _inside = self.requests.enter().await?;
        self.check_range(offset, len)?;
        access::reads_zero(&self.chain, offset, len).await
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
    pub(crate) fn chain(&self) -> &[Node] {
        &self.chain
    }

    /// Drops everything that the topmost layer has, so that it reads as what is beneath.
    pub(crate) async fn empty(&self) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        match self.top_qcow2() {
            Some(image) => image.empty().await,
            None => Err(Error::invalid("only a qcow2 image can be emptied")),
        }
    }

    /// Makes the topmost layer fit for version 2; see [`crate::ops::amend`].
    pub(crate) async fn expand_zeroes(&self) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        match &self.top()?.kind {
            Kind::Raw(_) => Ok(()),
            Kind::Qcow2(image) => image.expand_zeroes(&self.chain).await,
        }
    }

    /// As [`Image::inactivate`], with a last change of a qcow2 image's header. The image must be
    /// opened anew afterwards.
    pub(crate) async fn inactivate_with(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let _alone = self.freeze_for_change().await?;
        if let Some(image) = self.top_qcow2() {
            image.close().await?;
            image.change_header(change).await?;
        }
        self.requests.set_active(false);
        self.unlock_all();
        Ok(())
    }

    /// Gives the disk another size; see [`crate::ops::resize`].
    pub(crate) async fn resize(&self, size: u64, how: Preallocation) -> Result<()> {
        let size = size
            .checked_next_multiple_of(512)
            .filter(|&s| i64::try_from(s).is_ok())
            .ok_or_else(|| Error::invalid(format!("{size} bytes are too many")))?;
        let _alone = self.freeze_for_change().await?;
        match &self.top()?.kind {
            Kind::Raw(raw) => raw.resize(size, how).await,
            Kind::Qcow2(image) => image.resize(&self.chain, size, how).await,
        }
    }

    /// Stores a whole cluster in compressed form; only qcow2 can.
    pub(crate) async fn write_compressed(&self, offset: u64, packed: &[u8]) -> Result<()> {
        self.check_writable()?;
        let _inside = self.requests.enter().await?;
        match &self.top()?.kind {
            Kind::Raw(_) => Err(Error::unsupported(
                "compression of raw images",
                "a raw image has no compressed clusters",
            )),
            Kind::Qcow2(image) => {
                image.record_write(offset, image.geometry.cluster());
                image.write_compressed(offset, packed).await
            }
        }
    }

    /// The topmost layer if it is qcow2.
    pub(crate) fn top_qcow2(&self) -> Option<&Qcow2> {
        match &self.chain.first()?.kind {
            Kind::Qcow2(image) => Some(image),
            Kind::Raw(_) => None,
        }
    }

    /// After a change: flushes at once if the cache mode wants it.
    async fn written(&self) -> Result<()> {
        if self.options.cache.flush_every_write() {
            self.flush_top().await
        } else {
            Ok(())
        }
    }

    fn top(&self) -> Result<&Node> {
        self.chain
            .first()
            .ok_or_else(|| Error::invalid("an image without a layer"))
    }

    async fn write_top(&self, offset: u64, bufs: &[Buffer]) -> Result<()> {
        match &self.top()?.kind {
            Kind::Raw(raw) => raw.storage.write(offset, bufs).await,
            Kind::Qcow2(image) => {
                image.record_write(offset, storage::total(bufs));
                image.write(&self.chain, offset, bufs).await
            }
        }
    }

    async fn zero_top(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        match &self.top()?.kind {
            Kind::Raw(raw) => raw.storage.zero(offset, len, unmap).await,
            Kind::Qcow2(image) => {
                image.record_write(offset, len);
                image.zero(&self.chain, offset, len, unmap).await
            }
        }
    }

    async fn discard_top(&self, offset: u64, len: u64) -> Result<()> {
        match &self.top()?.kind {
            Kind::Raw(raw) => raw.storage.discard(offset, len).await,
            Kind::Qcow2(image) => {
                image.record_write(offset, len);
                image.discard(&self.chain, offset, len).await
            }
        }
    }

    async fn flush_top(&self) -> Result<()> {
        match &self.top()?.kind {
            Kind::Raw(raw) => raw.storage.sync().await,
            Kind::Qcow2(image) => image.flush().await,
        }
    }
}
