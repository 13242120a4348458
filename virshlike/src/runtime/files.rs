//! Opening what a guest needs, and saying precisely why not.
//!
//! The manager opens every file and passes descriptors; it never changes the owner, mode or label
//! of a user's file. So when a file cannot be opened, the only help is a good answer: which part of
//! the path blocks, whose it is, and what its mode is.

use crate::error::{Error, Kind, Result, plain_io};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use vmm_api::spec::{Fd, NamedFd};

/// The descriptors that a spec names, open as long as this table lives.
#[derive(Debug, Default)]
pub struct Descriptors {
    open: Vec<OwnedFd>,
}

impl Descriptors {
    /// Keeps a descriptor for the guest's process and gives the number that the spec names.
    pub fn keep(&mut self, descriptor: impl Into<OwnedFd>) -> Fd {
        let descriptor = descriptor.into();
        let number = Fd(descriptor.as_raw_fd());
        self.open.push(descriptor);
        number
    }

    /// Keeps a file with the name that messages use.
    pub fn keep_named(&mut self, file: File, path: &Path) -> NamedFd {
        NamedFd {
            fd: self.keep(file),
            name: path.display().to_string(),
        }
    }

    /// The descriptors themselves.
    pub fn into_inner(self) -> Vec<OwnedFd> {
        self.open
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Opens a regular file or block device; `what` names its use, such as "the kernel".
///
/// # Errors
/// Which part of the path blocks and why; a file of another kind.
pub fn open(path: &Path, access: Access, what: &str) -> Result<File> {
    if !path.is_absolute() {
        return Err(Error::new(
            Kind::Definition,
            format!("cannot open {what} {}", path.display()),
        )
        .cause("the path is not absolute")
        .hint("write the whole path into the definition: vm edit"));
    }
    // Non-blocking, so that opening a FIFO by mistake does not hang; it means nothing to files.
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| diagnose(path, access, what, &error))?;
    let kind = file
        .metadata()
        .map_err(|error| diagnose(path, access, what, &error))?
        .file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    let is = if kind.is_dir() {
        "a directory"
    } else {
        "neither a file nor a block device"
    };
    Err(Error::new(
        Kind::Definition,
        format!("cannot use {} as {what}", path.display()),
    )
    .cause(format!("it is {is}"))
    .hint("check the path in the definition: vm edit"))
}

/// Opens a character device such as `/dev/urandom`.
///
/// # Errors
/// As [`open`].
pub fn open_device(path: &Path, access: Access, what: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        .open(path)
        .map_err(|error| diagnose(path, access, what, &error))
}

/// Why a path cannot be opened, down to the component that blocks.
pub fn diagnose(path: &Path, access: Access, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::NotFound,
        io::ErrorKind::PermissionDenied => Kind::Permission,
        _ => Kind::Io,
    };
    let base = Error::new(kind, format!("cannot open {what} {}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(base, path),
        io::ErrorKind::PermissionDenied => forbidden(base, path, access),
        io::ErrorKind::ReadOnlyFilesystem => base
            .cause("its file system is mounted read-only")
            .hint("mount it writable, or mark the disk <readonly/>"),
        io::ErrorKind::IsADirectory => base
            .cause("it is a directory")
            .hint("check the path in the definition: vm edit"),
        _ => base.cause(plain_io(error)),
    }
}

fn ancestors(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path.ancestors().map(Path::to_path_buf).collect();
    parts.reverse();
    parts
}

fn missing(base: Error, path: &Path) -> Error {
    for part in ancestors(path) {
        match fs::symlink_metadata(&part) {
            Ok(found) if found.is_symlink() && fs::metadata(&part).is_err() => {
                let target = fs::read_link(&part).unwrap_or_default();
                return base
                    .cause(format!(
                        "{} is a link to {}, which is not there",
                        part.display(),
                        target.display()
                    ))
                    .hint("mount or create what the link points at");
            }
            Ok(_) if part != path && !part.is_dir() => {
                return base
                    .cause(format!("{} is no directory", part.display()))
                    .hint("check the path");
            }
            Ok(_) => {}
            Err(_) => {
                let Some(parent) = part.parent() else { break };
                let missing = part
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let base = base.cause(format!("{} has no '{missing}'", parent.display()));
                return match near(parent, &missing) {
                    Some(name) => {
                        base.hint(format!("did you mean {}?", parent.join(name).display()))
                    }
                    None => base.hint("check the path, or whether its file system is mounted"),
                };
            }
        }
    }
    base.cause("it is not there")
}

fn near(folder: &Path, wanted: &str) -> Option<String> {
    let names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .take(1000)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let likely = names
        .iter()
        .map(String::as_str)
        .filter(|name| is_slip(wanted, name));
    crate::store::name::nearest(wanted, likely).map(str::to_string)
}

/// Whether one file's name may be a slip of the finger for the other's: images are told apart by
/// numbers and by what stands before the ending, so `b2.qcow2` is not meant by `b1.qcow2`.
fn is_slip(wanted: &str, name: &str) -> bool {
    let stem = |name: &str| {
        let stem = Path::new(name).file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    };
    let digits = |stem: &str| {
        stem.matches(|c: char| c.is_ascii_digit())
            .collect::<String>()
    };
    let (wanted, name) = (stem(wanted), stem(name));
    let most = wanted.chars().count() / 4;
    digits(&wanted) == digits(&name)
        && (name.starts_with(&wanted) || strsim::damerau_levenshtein(&wanted, &name) <= most)
}

fn forbidden(base: Error, path: &Path, access: Access) -> Error {
    let me = rustix::process::geteuid();
    for part in ancestors(path) {
        let Ok(found) = fs::metadata(&part) else {
            break;
        };
        if found.is_dir() && rustix::fs::access(&part, rustix::fs::Access::EXEC_OK).is_err() {
            return base
                .cause(format!(
                    "the directory {} (owner {}, mode {:04o}) does not let user {me} through",
                    part.display(),
                    owner(found.uid()),
                    found.permissions().mode() & 0o7777,
                ))
                .hint(format!(
                    "allow it to be searched: chmod o+x {}",
                    part.display()
                ));
        }
    }
    let (verb, flag) = match access {
        Access::Read => ("read", "r"),
        Access::ReadWrite => ("write", "rw"),
    };
    match fs::metadata(path) {
        Ok(found) => base
            .cause(format!(
                "user {me} may not {verb} it (owner {}, mode {:04o})",
                owner(found.uid()),
                found.permissions().mode() & 0o7777,
            ))
            .hint(format!(
                "give the right to the user that runs vm: setfacl -m u:{me}:{flag} {}",
                path.display()
            )),
        Err(error) => base.cause(plain_io(&error)),
    }
}

/// A user by name where /etc/passwd knows it.
fn owner(uid: u32) -> String {
    let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let id = uid.to_string();
    table
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == id).then(|| name.to_string())
        })
        .unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_image_is_no_slip_of_the_finger() {
        assert!(is_slip("cetnos.qcow2", "centos.qcow2"));
        assert!(is_slip("disk", "disk.qcow2"));
        assert!(is_slip("root.img", "root.qcow2"));
        assert!(!is_slip("b1.qcow2", "b2.qcow2"));
        assert!(!is_slip("web.qcow2", "db.qcow2"));
        assert!(!is_slip("a.img", "b.img"));
    }

    #[test]
    fn the_missing_component_is_named_with_the_nearest_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("images");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("debian.qcow2"), b"").unwrap();
        let error = open(&folder.join("debain.qcow2"), Access::Read, "disk 'vda'").unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.causes[0].contains("has no 'debain.qcow2'"), "{error}");
        assert!(error.hints[0].contains("debian.qcow2"), "{:?}", error.hints);
        let error = open(&dir.path().join("no/such/file"), Access::Read, "the kernel").unwrap_err();
        assert!(error.causes[0].contains("has no 'no'"), "{error}");
    }

    #[test]
    fn a_file_in_the_middle_of_a_path_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = open(&file.join("x"), Access::Read, "the kernel").unwrap_err();
        assert!(error.causes[0].contains("is no directory"), "{error}");
    }

    #[test]
    fn a_dangling_link_names_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        let error = open(&link, Access::Read, "the kernel").unwrap_err();
        assert!(error.causes[0].contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn only_files_and_block_devices_are_disks() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path(), Access::Read, "disk 'vda'").unwrap_err();
        assert!(error.causes[0].contains("directory"), "{error}");
        let error = open(Path::new("/dev/null"), Access::Read, "disk 'vda'").unwrap_err();
        assert!(error.causes[0].contains("neither"), "{error}");
        assert!(open(Path::new("relative"), Access::Read, "disk 'vda'").is_err());
    }
}
