//! The directory of definitions, read in one go: what is in it, and the state of single files by
//! their names in it, without walking its whole path for each.

use super::atomic::TEMP_PREFIX;
use super::index::Stamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Bytes of directory entries that the kernel gives at once.
const BATCH: usize = 32 << 10;

/// The directory, open.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// What is in it.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names of definitions without `.xml`, sorted; those that begin with a dot are none.
    pub names: Vec<String>,
    /// What interrupted writers left.
    pub leftovers: Vec<String>,
}

impl Folder {
    /// Opens it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Reads its names. Names that are no text belong to nobody here.
    ///
    /// # Errors
    /// What the file system says.
    pub fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut batch = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(&self.0, &mut batch);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name.starts_with(TEMP_PREFIX) {
                listing.leftovers.push(name.to_string());
            } else if let Some(name) = name.strip_suffix(".xml")
                && !name.starts_with('.')
                && entry.file_type() != FileType::Directory
            {
                listing.names.push(name.to_string());
            }
        }
        listing.names.sort_unstable();
        Ok(listing)
    }

    /// The state of a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stamp(&self, file: &str) -> io::Result<Stamp> {
        Ok(Stamp::of(&rustix::fs::statat(
            &self.0,
            file,
            AtFlags::empty(),
        )?))
    }

    /// What a file says, at most `limit` bytes of it.
    ///
    /// # Errors
    /// What the file system says; a file that is longer, or no text.
    pub fn read(&self, file: &str, limit: u64) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.0, file, flags, Mode::empty())?;
        read_limited(File::from(file), limit)
    }
}

/// What a file says, at most `limit` bytes of it.
///
/// # Errors
/// What the file system says; a file that is longer, no text, or a directory.
pub fn read_limited(file: File, limit: u64) -> io::Result<String> {
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let expected = usize::try_from(found.len().min(limit)).unwrap_or(0);
    let mut text = String::with_capacity(expected.saturating_add(1));
    let read = file
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > limit {
        let message = format!("the file has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn definitions_and_leftovers_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder.xml")).unwrap();
        for name in ["b.xml", "a.xml", ".tmp-1-0", ".hidden.xml", "note.txt"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        let listing = folder.list().unwrap();
        assert_eq!(listing.names, ["a", "b"]);
        assert_eq!(listing.leftovers, [".tmp-1-0"]);
        assert_eq!(folder.read("a.xml", 5).unwrap(), "a.xml");
        assert!(folder.read("a.xml", 4).is_err());
        assert!(folder.stamp("a.xml").is_ok() && folder.stamp("gone").is_err());
        // As many as do not fit into one batch.
        for number in 0..2000 {
            fs::write(dir.path().join(format!("n{number:04}.xml")), "").unwrap();
        }
        assert_eq!(folder_names(dir.path()).len(), 2002);
    }

    fn folder_names(path: &Path) -> Vec<String> {
        Folder::open(path).unwrap().list().unwrap().names
    }
}
