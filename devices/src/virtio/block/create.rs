//! From the spec to a disk: descriptors become an image chain, the image becomes a device.

use super::device::{Block, capacity};
use super::state;
use crate::device::Device;
use crate::files::{Files, MissingFd};
use crate::registry::{Context, CreateError};
use crate::state::Origin;
use crate::virtio::transport::pci::VirtioPci;
use images::storage::MemoryStorage;
use images::{
    Cache, DenyAll, ErrorKind, Format, Gate, GateRequest, Image, Layer, OpenOptions, OpenedFile,
};
use images::{Error, PathGate};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_api::spec::{
    BlkSpec, CacheMode, DetectZeroes, DiscardMode, Fd, ImageFormat, ImageSpec, PciAddress,
};

/// Makes a disk. Its image is opened inactive: no lock is taken and nothing is written.
///
/// # Errors
/// [`CreateError`] when a file was not passed, the image cannot be used, the address is taken, or
/// saved state does not fit the image.
pub fn create(
    id: &str,
    address: PciAddress,
    spec: &BlkSpec,
    context: &Context,
    origin: Origin<'_>,
) -> Result<Arc<dyn Device>, CreateError> {
    let image = open(id, spec, &context.files)?;
    let saved = state::load(id, capacity(&image), origin)?;
    let block = Block::new(id, spec, image, context);
    block
        .start_iothreads()
        .map_err(|source| CreateError::Host {
            id: id.to_string(),
            what: "cannot start its iothreads".into(),
            source,
        })?;
    if let Some(saved) = saved {
        block.restore(&saved);
    }
    VirtioPci::create(id, address, Arc::new(block), context, origin)
}

/// A disk of `size` bytes of memory, for fuzz bodies.
pub(crate) fn in_memory(
    address: PciAddress,
    size: usize,
    read_only: bool,
    context: &Context,
) -> Result<Arc<dyn Device>, CreateError> {
    let id = "virtio-disk0";
    let mut spec = BlkSpec::new(ImageSpec {
        file: Fd(-1),
        path: "memory".into(),
        format: ImageFormat::Raw,
        backing: None,
        data_file: None,
    });
    (spec.read_only, spec.discard) = (read_only, DiscardMode::Unmap);
    let storage = MemoryStorage::with_bytes(&vec![0; size]);
    let mut options = OpenOptions::new(Format::Raw).read_only(read_only);
    options.discard = images::DiscardMode::Unmap;
    let image = Image::open_storage(storage.into(), "memory", &options, &DenyAll);
    let image = image.map_err(|error| CreateError::Image {
        id: id.into(),
        source: error.into(),
    })?;
    let block = Block::new(id, &spec, image, context);
    VirtioPci::create(id, address, Arc::new(block), context, Origin::Fresh)
}

fn open(id: &str, spec: &BlkSpec, files: &Files) -> Result<Image, CreateError> {
    let missing = |source| CreateError::File {
        id: id.into(),
        source,
    };
    let file = File::from(files.take(spec.image.file).map_err(missing)?);
    let gate = Passed::collect(&spec.image, files).map_err(missing)?;
    let mut options = OpenOptions::new(format(spec.image.format))
        .read_only(spec.read_only)
        .cache(match spec.cache {
            CacheMode::None => Cache::None,
            CacheMode::Writeback => Cache::Writeback,
            CacheMode::Writethrough => Cache::Writethrough,
            CacheMode::Directsync => Cache::DirectSync,
            CacheMode::Unsafe => Cache::Unsafe,
        });
    options.discard = match spec.discard {
        DiscardMode::Ignore => images::DiscardMode::Ignore,
        DiscardMode::Unmap => images::DiscardMode::Unmap,
    };
    options.detect_zeroes = match spec.detect_zeroes {
        DetectZeroes::Off => images::DetectZeroes::Off,
        DetectZeroes::On => images::DetectZeroes::On,
        DetectZeroes::Unmap => images::DetectZeroes::Unmap,
    };
    Image::open(file, &spec.image.path, &options, &gate).map_err(|error| CreateError::Image {
        id: id.into(),
        source: error.into(),
    })
}

fn format(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    }
}

/// A file that the manager opened because an image names it.
struct PassedFile {
    layer: Layer,
    named_by: String,
    path: String,
    format: Format,
    file: File,
}

/// The gate of a disk: images get what the manager passed for the very name that they hold, once,
/// and nothing else.
struct Passed(Mutex<Vec<PassedFile>>);

impl Passed {
    fn collect(top: &ImageSpec, files: &Files) -> Result<Self, MissingFd> {
        let mut passed = Vec::new();
        let mut above = vec![top];
        while let Some(image) = above.pop() {
            let below = [
                (Layer::Backing, &image.backing),
                (Layer::DataFile, &image.data_file),
            ];
            for (layer, below) in below {
                let Some(below) = below.as_deref() else {
                    continue;
                };
                passed.push(PassedFile {
                    layer,
                    named_by: image.path.clone(),
                    path: below.path.clone(),
                    format: format(below.format),
                    file: files.take(below.file)?.into(),
                });
                above.push(below);
            }
        }
        Ok(Self(Mutex::new(passed)))
    }
}

impl Gate for Passed {
    fn open(&self, request: &GateRequest<'_>) -> images::error::Result<OpenedFile> {
        let refused = |why: String| {
            let message = format!("{} names \"{}\": {why}", request.named_by, request.name);
            Error::new(ErrorKind::Refused, message)
        };
        let path = PathGate::resolve(request.name, request.named_by);
        let mut passed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = passed.iter().position(|file| {
            file.layer == request.layer
                && file.named_by == request.named_by
                && Path::new(&file.path) == path
        });
        let Some(found) = found else {
            return Err(refused(format!(
                "no descriptor was passed for {}",
                path.display()
            )));
        };
        let file = passed.swap_remove(found);
        if request.format.is_some_and(|format| format != file.format) {
            return Err(refused("its format is not the one that was passed".into()));
        }
        Ok(OpenedFile {
            file: file.file,
            name: file.path,
            format: file.format,
        })
    }
}
