//! Files that a person names for what a verb writes: a picture, a core, a process id.
//!
//! ```text
//! create: looked at, nothing touched -> a private file beside it -> keep: renamed over it
//!                                                               \-> dropped: gone, the old file as it was
//! ```
//!
//! Nothing here may replace, empty or remove anything but a regular file: what is there may be a
//! device, a socket, or a link that somebody else laid.

use crate::error::{Error, Kind, Result};
use std::fs::{self, File, FileType};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file that gets its name only when it is whole; for its owner alone (0600).
#[derive(Debug)]
pub struct OutputFile {
    part: NamedTempFile,
    target: PathBuf,
}

impl OutputFile {
    /// Makes the file beside `target`, which need not exist.
    ///
    /// # Errors
    /// A target that names no file or is there and no regular file; a folder that cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        refuse_irregular(target)?;
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let part = tempfile::Builder::new()
            .prefix(".vm-")
            .suffix(".part")
            .tempfile_in(folder)
            .map_err(|error| Error::io("write", target, error_of(&error)))?;
        Ok(Self {
            part,
            target: target.to_path_buf(),
        })
    }

    /// What is written to, readable as well.
    pub fn file(&self) -> &File {
        self.part.as_file()
    }

    /// Gives the file its name, over a regular file of that name.
    ///
    /// # Errors
    /// Something else has the name meanwhile; what the file system says. The old file stands then.
    pub fn keep(self) -> Result<()> {
        refuse_irregular(&self.target)?;
        self.part
            .persist(&self.target)
            .map(drop)
            .map_err(|error| Error::io("write", &self.target, &error.error))
    }
}

/// The kernel's error without the temporary file's name around it.
fn error_of(error: &std::io::Error) -> &std::io::Error {
    let inner = error.get_ref().and_then(std::error::Error::source);
    inner
        .and_then(|inner| inner.downcast_ref())
        .unwrap_or(error)
}

fn refuse_irregular(target: &Path) -> Result<()> {
    if target.file_name().is_none() {
        let message = format!("{} names no file", target.display());
        return Err(Error::new(Kind::Usage, message));
    }
    let kind = match fs::symlink_metadata(target) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("write", target, &error)),
    };
    if kind.is_file() {
        return Ok(());
    }
    let error = Error::new(Kind::Exists, format!("cannot write {}", target.display()))
        .cause(format!(
            "it is {}, and only a plain file is replaced",
            word(kind)
        ))
        .hint("nothing was changed; name another file");
    Err(match fs::read_link(target) {
        Ok(to) => error.hint(format!("the link leads to {}", to.display())),
        Err(_) => error,
    })
}

fn word(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a folder",
        _ if kind.is_symlink() => "a link",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "no plain file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_replaced_only_when_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "old").unwrap();
        let given_up = OutputFile::create(&path).unwrap();
        given_up.file().write_all(b"half").unwrap();
        drop(given_up);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let whole = OutputFile::create(&path).unwrap();
        whole.file().write_all(b"new").unwrap();
        whole.keep().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_plain_file_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "folder", "socket"] {
            let before = fs::symlink_metadata(at(name)).unwrap().file_type();
            let error = OutputFile::create(&at(name)).unwrap_err();
            assert_eq!(error.kind, Kind::Exists, "{name}: {error}");
            assert_eq!(fs::symlink_metadata(at(name)).unwrap().file_type(), before);
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"precious");
        assert!(fs::symlink_metadata(at("nothing")).is_err());
        let device = OutputFile::create(Path::new("/dev/null")).unwrap_err();
        assert!(device.causes.concat().contains("a device"), "{device}");
        assert_eq!(
            OutputFile::create(Path::new("..")).unwrap_err().kind,
            Kind::Usage
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_link_that_is_laid_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let made = OutputFile::create(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert!(made.keep().is_err());
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = OutputFile::create(Path::new("/nonexistent/a.ppm")).unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.message.contains("/nonexistent/a.ppm"), "{error}");
    }
}
