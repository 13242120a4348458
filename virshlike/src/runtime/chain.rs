//! The files behind a disk: the image that the definition names, and every file that images name
//! below it.
//!
//! An image is data from somebody else, so what its header names is opened for reading only, its
//! format is taken from the header that names it, and the length of the chain is bounded. A guest
//! can write any bytes into a raw disk; so a raw file that looks like qcow2 is refused at the top
//! unless the definition says raw, and formats are never guessed below.

use super::files::{self, Access, Descriptors};
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmm_api::spec::{ImageFormat, ImageSpec};

/// Longest chain that is followed.
pub const MAX_DEPTH: usize = 64;

/// qcow2 specification, header: magic, then big-endian fields.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Longest backing file name that the specification allows.
const MAX_NAME: u32 = 1023;

/// A disk's top image as a definition asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The file or block device.
    pub path: &'a Path,
    /// The format that the definition names; `None` when it names none.
    pub format: Option<ImageFormat>,
    /// The guest may not write.
    pub read_only: bool,
    /// The disk is shared with other guests on purpose.
    pub shareable: bool,
    /// What messages call it, such as "disk 'vda'".
    pub what: &'a str,
}

/// Opens a disk with its whole chain.
///
/// # Errors
/// What is wrong with which file: not there, not allowed, in use, of another format.
pub fn open(wanted: Wanted<'_>, descriptors: &mut Descriptors) -> Result<ImageSpec> {
    let access = if wanted.read_only {
        Access::Read
    } else {
        Access::ReadWrite
    };
    let file = files::open(wanted.path, access, wanted.what)?;
    let looks_qcow2 = begins_with_magic(&file);
    let format = match wanted.format {
        Some(ImageFormat::Qcow2) if !looks_qcow2 => {
            return Err(bad(wanted.what, wanted.path, "it is no qcow2 image")
                .hint("correct <driver type=.../> to 'raw', or the path"));
        }
        Some(format) => format,
        None if looks_qcow2 => {
            return Err(bad(
                wanted.what,
                wanted.path,
                "it begins like a qcow2 image, but the definition names no format",
            )
            .hint("write <driver name='qemu' type='qcow2'/> into the <disk>")
            .hint("or type='raw', if the guest shall see the image file itself"));
        }
        None => ImageFormat::Raw,
    };
    refuse_if_used(&file, wanted)?;
    let mut spec = build(file, wanted.path, format, descriptors, 0)?;
    if wanted.read_only {
        return Ok(spec);
    }
    // The data file is written with the image that names it; everything else is not.
    if let Some(data) = &mut spec.data_file {
        let path = PathBuf::from(&data.path);
        data.file = descriptors.keep(files::open(&path, Access::ReadWrite, "the data file")?);
    }
    Ok(spec)
}

fn bad(what: &str, path: &Path, why: &str) -> Error {
    Error::new(
        Kind::Definition,
        format!("cannot use {} as {what}", path.display()),
    )
    .cause(why)
}

fn begins_with_magic(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == QCOW2_MAGIC
}

fn build(
    file: File,
    path: &Path,
    format: ImageFormat,
    descriptors: &mut Descriptors,
    depth: usize,
) -> Result<ImageSpec> {
    let mut spec = ImageSpec {
        file: vmm_api::spec::Fd(-1),
        path: path.display().to_string(),
        format,
        backing: None,
        data_file: None,
    };
    if format == ImageFormat::Qcow2 {
        let names = header(&file).map_err(|why| bad("an image", path, &why))?;
        if let Some(backing) = names.backing {
            if depth >= MAX_DEPTH {
                let why = format!("more than {MAX_DEPTH} images lie below it");
                return Err(bad("an image", path, &why));
            }
            let below = resolve(path, &backing)?;
            let format = backing_format(path, names.backing_format.as_deref())?;
            let what = format!("the backing file of {}", path.display());
            let file = files::open(&below, Access::Read, &what)?;
            if format == ImageFormat::Qcow2 && !begins_with_magic(&file) {
                return Err(bad(&what, &below, "it is no qcow2 image"));
            }
            spec.backing = Some(Box::new(build(
                file,
                &below,
                format,
                descriptors,
                depth + 1,
            )?));
        }
        if let Some(data) = names.data_file {
            let below = resolve(path, &data)?;
            let what = format!("the data file of {}", path.display());
            let file = files::open(&below, Access::Read, &what)?;
            spec.data_file = Some(Box::new(build(
                file,
                &below,
                ImageFormat::Raw,
                descriptors,
                depth + 1,
            )?));
        }
    }
    spec.file = descriptors.keep(file);
    Ok(spec)
}

fn backing_format(path: &Path, named: Option<&str>) -> Result<ImageFormat> {
    match named {
        Some("qcow2") => Ok(ImageFormat::Qcow2),
        Some("raw") => Ok(ImageFormat::Raw),
        Some(other) => {
            let why = format!("its backing file is said to be '{other}', which is not supported");
            Err(bad("an image", path, &why).hint("convert the backing file to qcow2 or raw"))
        }
        None => Err(bad(
            "an image",
            path,
            "it names a backing file, but not that file's format",
        )
        .hint("formats are never guessed: vm image rebase -u -F FORMAT -b FILE IMAGE")),
    }
}

/// A name in an image is relative to that image's directory.
fn resolve(image: &Path, name: &str) -> Result<PathBuf> {
    let name = name.strip_prefix("file:").unwrap_or(name);
    let protocol = name.split_once(':').is_some_and(|(head, _)| {
        !head.is_empty()
            && head
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    });
    if protocol {
        let why = format!("it names '{name}', which is no local file");
        return Err(bad("an image", image, &why));
    }
    Ok(image.parent().unwrap_or(Path::new("/")).join(name))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    backing: Option<String>,
    backing_format: Option<String>,
    data_file: Option<String>,
}

/// The file names in a qcow2 header (qcow2 specification, header and header extensions).
fn header(file: &File) -> Result<Names, String> {
    // The header, its extensions and the backing name lie in the first cluster; 64 KiB are more
    // than any of them may take together.
    let mut head = vec![0; 65_536];
    let length = read_up_to(file, &mut head);
    head.truncate(length);
    let number32 = |offset: usize| be32(&head, offset).ok_or("its header is cut short");
    let number64 = |offset: usize| be64(&head, offset).ok_or("its header is cut short");
    let version = number32(4)?;
    if !matches!(version, 2 | 3) {
        return Err(format!("qcow2 version {version} is not known"));
    }
    let mut names = Names::default();
    let (incompatible, extensions) = match version {
        2 => (0, 72),
        _ => (
            number64(72)?,
            usize::try_from(number32(100)?).unwrap_or(usize::MAX),
        ),
    };
    let backing_offset = number64(8)?;
    if backing_offset != 0 {
        let size = number32(16)?;
        if size > MAX_NAME {
            return Err(format!(
                "its backing file name has {size} bytes; {MAX_NAME} are allowed"
            ));
        }
        let start = usize::try_from(backing_offset).unwrap_or(usize::MAX);
        names.backing = Some(text(&head, start, size)?);
    }
    read_extensions(&head, extensions, &mut names)?;
    if incompatible & INCOMPATIBLE_DATA_FILE == 0 {
        names.data_file = None;
    } else if names.data_file.is_none() {
        return Err("it has an external data file, but names none".into());
    }
    Ok(names)
}

fn read_extensions(head: &[u8], start: usize, names: &mut Names) -> Result<(), String> {
    let mut at = start;
    while let (Some(kind), Some(size)) = (be32(head, at), be32(head, at.saturating_add(4))) {
        if kind == 0 {
            break;
        }
        let body = at.saturating_add(8);
        match kind {
            EXTENSION_BACKING_FORMAT => names.backing_format = Some(text(head, body, size)?),
            EXTENSION_DATA_FILE => names.data_file = Some(text(head, body, size)?),
            _ => {}
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        at = body
            .saturating_add(size)
            .checked_next_multiple_of(8)
            .unwrap_or(usize::MAX);
    }
    Ok(())
}

fn read_up_to(file: &File, buffer: &mut [u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, u64::try_from(done).unwrap_or(u64::MAX)) {
            Ok(0) | Err(_) => break,
            Ok(count) => done += count,
        }
    }
    done
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    let slice = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(slice.try_into().ok()?))
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    let slice = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_be_bytes(slice.try_into().ok()?))
}

fn text(bytes: &[u8], start: usize, size: u32) -> Result<String, String> {
    let end = usize::try_from(size)
        .ok()
        .and_then(|size| start.checked_add(size));
    let slice = end.and_then(|end| bytes.get(start..end));
    let slice = slice.ok_or("a name in its header lies outside the header")?;
    if slice.contains(&0) {
        return Err("a name in its header contains a zero byte".into());
    }
    String::from_utf8(slice.to_vec()).map_err(|_| "a name in its header is not UTF-8".into())
}

/// Sizes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes that the guest sees.
    pub capacity: u64,
    /// Bytes that the file takes on the host.
    pub allocation: u64,
    /// Bytes from the file's beginning to its end.
    pub physical: u64,
}

/// Measures an image without locking it: of a running domain the numbers are of this instant.
///
/// # Errors
/// As [`files::open`]; a qcow2 header that is cut short.
pub fn measure(path: &Path, format: ImageFormat) -> Result<Sizes> {
    let file = files::open(path, Access::Read, "the disk")?;
    let found = file
        .metadata()
        .map_err(|error| Error::io("read", path, &error))?;
    let physical = if found.file_type().is_block_device() {
        (&file)
            .seek(SeekFrom::End(0))
            .map_err(|error| Error::io("read", path, &error))?
    } else {
        found.len()
    };
    let capacity = match format {
        ImageFormat::Raw => physical,
        // qcow2 specification, header: bytes 24 to 31 are the virtual size.
        ImageFormat::Qcow2 => {
            let mut head = [0; 32];
            let complete = read_up_to(&file, &mut head) == head.len();
            let size = be64(&head, 24).filter(|_| complete && begins_with_magic(&file));
            size.ok_or_else(|| bad("an image", path, "it is no qcow2 image"))?
        }
    };
    Ok(Sizes {
        capacity,
        allocation: found.blocks().saturating_mul(512),
        physical,
    })
}

/// How long the locks of a process that was killed may outlive it: the kernel closes files that
/// were in flight on a ring some time after the process is gone.
const LOCKS_LINGER: Duration = Duration::from_secs(1);

/// Refuses a disk that somebody else uses, by the locks that QEMU and this project's `vmm` take on
/// bytes 100 (what I use) and 200 (what others must not) plus the permission's number. The `vmm`
/// takes the locks themselves; asking first makes the refusal cheap and its words good.
fn refuse_if_used(file: &File, wanted: Wanted<'_>) -> Result<()> {
    let deadline = Instant::now() + LOCKS_LINGER;
    loop {
        match used_now(file, wanted) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            answer => return answer,
        }
    }
}

fn used_now(file: &File, wanted: Wanted<'_>) -> Result<()> {
    const FORBIDDEN_TO_OTHERS: [i64; 3] = [201, 203, 200];
    const USED_BY_OTHERS: [i64; 2] = [101, 103];
    let locked = |byte: &i64| crate::spawn::byte_is_locked(file.as_fd(), *byte).unwrap_or(false);
    let forbidden = if wanted.read_only {
        locked(&200)
    } else {
        FORBIDDEN_TO_OTHERS.iter().any(locked)
    };
    let used = !wanted.shareable && USED_BY_OTHERS.iter().any(locked);
    if !forbidden && !used {
        return Ok(());
    }
    let why = if used {
        "another process writes to it (it holds the \"write\" lock)"
    } else {
        "another process uses it and forbids writing (it holds the shared \"write\" lock)"
    };
    Err(Error::new(
        Kind::Busy,
        format!("{} ({}) is in use", wanted.what, wanted.path.display()),
    )
    .cause(why)
    .hint("stop whoever uses it; a disk that guests share on purpose needs <shareable/> in all of them"))
}

#[cfg(test)]
mod tests;
