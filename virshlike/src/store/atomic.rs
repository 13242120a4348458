//! Files that are the old one or the new one at every instant, and nothing in between.
//!
//! Write a temporary file in the same directory, sync it, rename it over the target, sync the
//! directory. Whoever is interrupted leaves a `.tmp-` file at most, which the next writer removes.

use super::fault;
use crate::error::{Error, Result};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// How temporary files begin.
pub const TEMP_PREFIX: &str = ".tmp-";

/// Replaces or creates `path` with `bytes`, mode 0600.
///
/// # Errors
/// What the file system says; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    stage(path, bytes)?.commit()
}

/// A file's new content, safe on disk beside the old one; gone with this unless it is committed.
#[derive(Debug)]
pub struct Staged {
    temp: PathBuf,
    path: PathBuf,
}

/// The first half of [`write`].
///
/// # Errors
/// As [`write`].
pub fn stage(path: &Path, bytes: &[u8]) -> Result<Staged> {
    let Some(folder) = path.parent() else {
        let error = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(Error::io("write", path, &error));
    };
    let staged = Staged {
        temp: temp_path(folder),
        path: path.to_path_buf(),
    };
    write_temp(&staged.temp, bytes).map_err(|error| Error::io("write", path, &error))?;
    Ok(staged)
}

impl Staged {
    /// The second half: the old content is replaced.
    ///
    /// # Errors
    /// As [`write`].
    pub fn commit(self) -> Result<()> {
        fs::rename(&self.temp, &self.path)
            .map_err(|error| Error::io("write", &self.path, &error))?;
        fault::point("atomic.renamed");
        sync_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        fault::point("atomic.dir-synced");
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit nothing has this name; else the next writer removes what stays.
        let _ = fs::remove_file(&self.temp);
    }
}

fn write_temp(temp: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temp)?;
    fault::point("atomic.temp-created");
    file.write_all(bytes)?;
    fault::point("atomic.temp-written");
    file.sync_all()?;
    fault::point("atomic.temp-synced");
    Ok(())
}

fn temp_path(folder: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{TEMP_PREFIX}{}-{number}", std::process::id()))
}

/// As [`write`], without syncing: for the runtime directory, which does not survive the host's
/// end anyway. A killed writer still leaves the old file or the new one.
///
/// # Errors
/// What the file system says; the old file is then untouched.
pub fn write_volatile(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = temp_path(path.parent().unwrap_or(Path::new("/")));
    let result = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temp, path));
    result.map_err(|error| {
        // The error being reported matters more than a leftover in a directory that is removed.
        let _ = fs::remove_file(&temp);
        Error::io("write", path, &error)
    })
}

/// Removes a file; one that is not there is fine.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, &error))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|error| Error::io("sync", folder, &error))
}

/// Creates a directory and its parents; the last one gets `mode`, parents 0755.
///
/// # Errors
/// What the file system says.
pub fn create_dir(folder: &Path, mode: u32) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(|error| Error::io("create", parent, &error))?;
    }
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("create", folder, &error))
        }
        _ => Ok(()),
    }
}

/// Removes temporary files that interrupted writers left in `folder`. The caller holds the lock
/// under which files there are written, so every one of them is a leftover.
pub fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
            // A leftover that cannot be removed does no harm.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.xml");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_staged_and_not_committed_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.xml");
        write(&path, b"one").unwrap();
        let staged = stage(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        drop(staged);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        stage(&path, b"two").unwrap().commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".tmp-1-1"), b"x").unwrap();
        fs::write(dir.path().join("a.xml"), b"x").unwrap();
        sweep(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
