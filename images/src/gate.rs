//! The gate: every file that an image *names* is opened by the caller, or not at all.
//!
//! An image is data from somebody else. The backing file or data file that its header names may
//! be any string; this crate never opens it. It asks the caller's [`Gate`], which answers with an
//! opened file and its format, or refuses.
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;

/// What the named file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Holds what the image has not written itself. Opened for reading.
    Backing,
    /// Holds the data of the image that names it. Opened for writing if the image is.
    DataFile,
}

/// A question to the gate.
#[derive(Debug, Clone)]
pub struct GateRequest<'a> {
    /// What the file is for.
    pub layer: Layer,
    /// The name as it stands in the image, which may be any string without a NUL.
    pub name: &'a str,
    /// The format that the image claims the file to have, if it says one. A claim of an unknown
    /// format is an error before the gate is asked.
    pub format: Option<Format>,
    /// The name of the image that asks, as its opener called it.
    pub named_by: &'a str,
    /// How many images are above the named one: 1 for what the opened image itself names.
    pub depth: usize,
    /// True if it will be written to.
    pub writable: bool,
}

/// The gate's answer.
pub struct OpenedFile {
    /// The file, open for what was asked.
    pub file: File,
    /// What to call it in messages, and in further questions.
    pub name: String,
    /// Its format; the gate decides when the image does not say.
    pub format: Format,
}

/// Decides about every file that an image names.
pub trait Gate {
    /// Opens the named file, or refuses.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a file that is not allowed, or the reason why it cannot be opened.
    fn open(&self, request: &GateRequest<'_>) -> Result<OpenedFile>;
}

/// Refuses everything: for images that must stand alone.
pub struct DenyAll;

impl Gate for DenyAll {
    fn open(&self, request: &GateRequest<'_>) -> Result<OpenedFile> {
        Err(refused(
            request,
            "files named by images are not allowed here",
        ))
    }
}

fn refused(request: &GateRequest<'_>, why: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!("{} names \"{}\": {why}", request.named_by, request.name),
    )
}

/// Follows names as paths, for tools that a person runs on files of his own.
///
/// A relative name is looked up beside the image that names it. Names with a protocol prefix
/// (`nbd:`, `json:`) are refused, like FIFOs, sockets and character devices, without blocking.
pub struct PathGate {
    assume: Option<Format>,
    beneath: Option<PathBuf>,
}

impl PathGate {
    /// Follows names anywhere. An image that names a backing file without its format is refused.
    pub fn new() -> PathGate {
        PathGate {
            assume: None,
            beneath: None,
        }
    }

    /// The format of named files whose format the image does not say.
    #[must_use]
    pub fn assume_format(mut self, format: Format) -> PathGate {
        self.assume = Some(format);
        self
    }

    /// Refuses files outside this directory, symbolic links resolved.
    #[must_use]
    pub fn beneath(mut self, directory: &Path) -> PathGate {
        self.beneath = Some(directory.to_owned());
        self
    }

    /// The path that a name means.
    pub fn resolve(name: &str, named_by: &str) -> PathBuf {
        let name = name.strip_prefix("file:").unwrap_or(name);
        match Path::new(named_by).parent() {
            Some(directory) => directory.join(name),
            None => PathBuf::from(name),
        }
    }

    fn check_beneath(&self, request: &GateRequest<'_>, path: &Path) -> Result<()> {
        let Some(directory) = &self.beneath else {
            return Ok(());
        };
        let fail = |e: std::io::Error| Error::io(path.display(), &e);
        let real = path.canonicalize().map_err(fail)?;
        if real.starts_with(directory.canonicalize().map_err(fail)?) {
            return Ok(());
        }
        Err(refused(request, "it is outside the allowed directory"))
    }
}

impl Default for PathGate {
    fn default() -> Self {
        PathGate::new()
    }
}

/// True for `proto:rest` as QEMU reads it; a colon after a slash belongs to a path.
fn has_protocol(name: &str) -> bool {
    let name = name.strip_prefix("file:").unwrap_or(name);
    match (name.find(':'), name.find('/')) {
        (Some(colon), Some(slash)) => colon < slash,
        (Some(_), None) => true,
        _ => false,
    }
}

impl Gate for PathGate {
    fn open(&self, request: &GateRequest<'_>) -> Result<OpenedFile> {
        if has_protocol(request.name) {
            return Err(refused(request, "names with a protocol are not followed"));
        }
        let Some(format) = request.format.or(self.assume) else {
            return Err(refused(
                request,
                "the image does not say the format of this file, and it is never guessed",
            ));
        };
        let path = PathGate::resolve(request.name, request.named_by);
        self.check_beneath(request, &path)?;
        let fail =
            |e: std::io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
        // Looked at before it is opened for writing: opening a FIFO or a device can block or act.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
        let kind = std::fs::metadata(&path).map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refused(
                request,
                "it is neither a regular file nor a block device",
            ));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(request.writable)
            .custom_flags(flags)
            .open(&path)
            .map_err(fail)?;
        let kind = file.metadata().map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refused(
                request,
                "it is neither a regular file nor a block device",
            ));
        }
        Ok(OpenedFile {
            file,
            name: path.display().to_string(),
            format,
        })
    }
}
