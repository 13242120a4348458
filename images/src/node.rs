//! One layer of an image: a format on its storage; and how a chain of layers is opened.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::header::extension;
use crate::format::qcow2::{self, Qcow2};
use crate::format::raw::Raw;
use crate::format::vmdk::{self, Vmdk};
use crate::format::{Extent, Format};
use crate::gate::{Gate, GateRequest, Layer, OpenedFile};
use crate::image::OpenOptions;
use crate::ops::create::Preallocation;
use crate::requests::Requests;
use crate::storage::Storage;

/// Layers of a chain, at most.
const MAX_DEPTH: usize = 200;

/// What a layer is.
pub(crate) enum Kind {
    Raw(Raw),
    Qcow2(Arc<Qcow2>),
    Vmdk(Vmdk),
}

/// What there is to a layer.
pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// One layer: the image itself, or a backing file. Clones are the same layer.
#[derive(Clone)]
pub(crate) struct Node(Arc<Inner>);

impl std::ops::Deref for Node {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Node {
    fn new(name: String, kind: Kind) -> Node {
        Node(Arc::new(Inner { name, kind }))
    }

    /// True if both are the same layer.
    pub(crate) fn is(&self, other: &Node) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The layer if it is qcow2.
    pub(crate) fn qcow2(&self) -> Option<&Arc<Qcow2>> {
        match &self.kind {
            Kind::Qcow2(image) => Some(image),
            Kind::Raw(_) | Kind::Vmdk(_) => None,
        }
    }

    /// Whether it is written to from its next activation on.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        if let Some(image) = self.qcow2() {
            image.read_only.store(read_only, Ordering::Relaxed);
        }
    }

    /// Gives it another size. `chain` begins with it; no request is inside.
    pub(crate) async fn resize(&self, chain: &[Node], size: u64, how: Preallocation) -> Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.resize(size, how).await,
            Kind::Qcow2(image) => image.resize(chain, size, how).await,
            Kind::Vmdk(_) => Err(vmdk::read_only()),
        }
    }

    pub(crate) fn format(&self) -> Format {
        match &self.kind {
            Kind::Raw(_) => Format::Raw,
            Kind::Qcow2(_) => Format::Qcow2,
            Kind::Vmdk(_) => Format::Vmdk,
        }
    }

    /// Virtual size in bytes.
    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::Raw(raw) => raw.size(),
            Kind::Qcow2(image) => image.size(),
            Kind::Vmdk(disk) => disk.size(),
        }
    }

    /// The files of the layer: the format's own, then those that hold its data if there are any.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage> {
        let (own, data, files) = match &self.kind {
            Kind::Raw(raw) => (Some(&raw.storage), None, &[][..]),
            Kind::Qcow2(image) => (Some(&image.storage), image.data.as_ref(), &[][..]),
            Kind::Vmdk(disk) => (None, None, disk.files.as_slice()),
        };
        own.into_iter().chain(data).chain(files)
    }

    /// Where `offset` is; `len` bounds the answer and is not zero.
    pub(crate) async fn map(&self, offset: u64, len: u64) -> Result<Extent<'_>> {
        match &self.kind {
            Kind::Raw(raw) => Ok(raw.map(offset, len)),
            Kind::Qcow2(image) => image
                .map(offset, len)
                .await
                .map_err(|e| e.context(&self.name)),
            Kind::Vmdk(disk) => disk
                .map(offset, len)
                .await
                .map_err(|e| e.context(&self.name)),
        }
    }

    /// Forgets what is cached and reads it again.
    pub(crate) async fn activate(&self) -> Result<()> {
        match &self.kind {
            Kind::Raw(raw) => raw.reload(),
            Kind::Qcow2(image) => image.activate().await,
            // Nobody writes such a disk here: what was read when it was opened still holds.
            Kind::Vmdk(_) => Ok(()),
        }
        .map_err(|e| e.context(&self.name))
    }
}

/// What a chain is opened with.
struct Opening<'a> {
    options: &'a OpenOptions,
    gate: &'a dyn Gate,
    requests: &'a Arc<Requests>,
    /// Files that are in the chain already, to find loops.
    seen: Vec<(u64, u64)>,
    /// Parts of a disk whose descriptor names them.
    parts: Vec<(u64, u64)>,
}

/// The file of a layer that is still to be opened.
struct Next {
    storage: Storage,
    name: String,
    format: Format,
}

/// Opens an image and everything beneath it, the topmost layer first.
pub(crate) fn open_chain(
    storage: Storage,
    name: &str,
    options: &OpenOptions,
    gate: &dyn Gate,
    requests: &Arc<Requests>,
) -> Result<Vec<Node>> {
    let mut opening = Opening {
        options,
        gate,
        requests,
        seen: Vec::new(),
        parts: Vec::new(),
    };
    let mut chain = Vec::new();
    let mut next = Some(Next {
        storage,
        name: name.to_owned(),
        format: options.format,
    });
    while let Some(this) = next.take() {
        if chain.len() == MAX_DEPTH {
            return Err(Error::corrupt(format!(
                "the chain of backing files has more than {MAX_DEPTH} layers"
            )));
        }
        let name = this.name.clone();
        opening.note(&this.storage, &name)?;
        let (node, below) = opening
            .layer(this, chain.len())
            .map_err(|e| e.context(&name))?;
        chain.push(node);
        next = below;
    }
    Ok(chain)
}

/// Opens one layer for writing, whatever it names: what is beneath it is known already.
///
/// # Errors
/// What is wrong with the image; one that has its data in another file.
pub(crate) fn reopen(
    storage: Storage,
    name: String,
    format: Format,
    requests: &Arc<Requests>,
) -> Result<Node> {
    if !storage.writable() {
        return Err(Error::new(
            ErrorKind::ReadOnly,
            format!("{name}: its descriptor only reads"),
        ));
    }
    match format {
        Format::Raw => return Ok(Node::new(name, Kind::Raw(Raw::open(storage)?))),
        Format::Vmdk => return Err(vmdk::read_only().context(name)),
        Format::Qcow2 => {}
    }
    let header = qcow2::read_header(&storage).map_err(|e| e.context(&name))?;
    if header.incompatible & qcow2::header::incompatible::DATA_FILE != 0 {
        return Err(Error::unsupported(
            "jobs with data files",
            format!("{name} has its data in another file: it cannot become a layer of a job"),
        ));
    }
    let image = Qcow2::open(storage, None, header, false, requests.clone());
    Ok(Node::new(name, Kind::Qcow2(Arc::new(image))))
}

impl Opening<'_> {
    fn note(&mut self, storage: &Storage, name: &str) -> Result<()> {
        let Some(identity) = storage.identity() else {
            return Ok(());
        };
        if self.seen.contains(&identity) {
            return Err(Error::corrupt(format!(
                "{name} is in its own chain of backing files: the chain is a loop"
            )));
        }
        self.seen.push(identity);
        Ok(())
    }

    fn layer(&mut self, this: Next, depth: usize) -> Result<(Node, Option<Next>)> {
        let Next {
            storage,
            name,
            format,
        } = this;
        if format == Format::Raw {
            let raw = Kind::Raw(Raw::open(storage)?);
            return Ok((Node::new(name, raw), None));
        }
        if format == Format::Vmdk {
            if depth == 0 && !self.options.read_only {
                return Err(vmdk::read_only());
            }
            let disk = Vmdk::open(storage, &mut |line| self.part(line, &name, depth))?;
            return Ok((Node::new(name, Kind::Vmdk(disk)), None));
        }
        let header = qcow2::read_header(&storage)?;
        let read_only = depth > 0 || self.options.read_only;
        let data = match self.data_file(&header, &name, depth, read_only)? {
            Some(opened) => Some(self.take(opened)?.storage),
            None => None,
        };
        let below = match &header.backing {
            Some(backing) => {
                let format = header
                    .backing_format()?
                    .map(|f| known_format(&f))
                    .transpose()?;
                let request = GateRequest {
                    layer: Layer::Backing,
                    name: backing,
                    format,
                    named_by: &name,
                    depth: depth + 1,
                    writable: false,
                };
                let opened = self.gate.open(&request)?;
                Some(self.take(opened)?)
            }
            None => None,
        };
        let image = Qcow2::open(storage, data, header, read_only, self.requests.clone());
        Ok((Node::new(name, Kind::Qcow2(Arc::new(image))), below))
    }

    fn data_file(
        &mut self,
        header: &qcow2::header::Header,
        name: &str,
        depth: usize,
        read_only: bool,
    ) -> Result<Option<OpenedFile>> {
        if header.incompatible & qcow2::header::incompatible::DATA_FILE == 0 {
            return Ok(None);
        }
        let Some(data) = header.data_file()? else {
            return Err(Error::corrupt(format!(
                "the image has its data in another file, but does not name it (header extension \
                 0x{:08x})",
                extension::DATA_FILE
            )));
        };
        let request = GateRequest {
            layer: Layer::DataFile,
            name: &data,
            format: Some(Format::Raw),
            named_by: name,
            depth: depth + 1,
            writable: !read_only,
        };
        let opened = self.gate.open(&request)?;
        if opened.format != Format::Raw {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("the data file {} must be raw", opened.name),
            ));
        }
        Ok(Some(opened))
    }

    /// The file of a part of a disk whose descriptor names it.
    fn part(&mut self, line: &vmdk::descriptor::Line, name: &str, depth: usize) -> Result<Storage> {
        let format = match line.kind {
            vmdk::descriptor::Kind::Sparse => Format::Vmdk,
            _ => Format::Raw,
        };
        let request = GateRequest {
            layer: Layer::DataFile,
            name: &line.file,
            format: Some(format),
            named_by: name,
            depth: depth + 1,
            writable: false,
        };
        let opened = self.gate.open(&request)?;
        if opened.format != format {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{} must be {format}", opened.name),
            ));
        }
        let storage = self.take(opened)?.storage;
        let Some(identity) = storage.identity() else {
            return Ok(storage);
        };
        if self.seen.contains(&identity) {
            return Err(Error::corrupt(format!(
                "{name} names {} as a part, which is the disk itself or above it",
                line.file
            )));
        }
        if self.parts.contains(&identity) {
            return Err(Error::corrupt(format!(
                "{name} names the same file twice: {} is already a part of the disk",
                line.file
            )));
        }
        self.parts.push(identity);
        Ok(storage)
    }

    fn take(&mut self, opened: OpenedFile) -> Result<Next> {
        let OpenedFile { file, name, format } = opened;
        let storage = Storage::file(file, self.options.cache).map_err(|e| e.context(&name))?;
        Ok(Next {
            storage,
            name,
            format,
        })
    }
}

/// A format that an image claims for a file it names.
fn known_format(name: &str) -> Result<Format> {
    Format::from_name(name).ok_or_else(|| {
        Error::unsupported(
            &format!("backing format {name}"),
            format!("the backing file's format {name:?} is not known (raw, qcow2 and vmdk are)"),
        )
    })
}
