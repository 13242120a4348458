//! Files for the cores of guests that crash. They are made and named before the start, since a guest's
//! process opens none; those that hold no whole core go when its end is tidied up.
//!
//! Must never remove a core, nor a file that was not made here.

use crate::error::{Error, Kind, Result};
use crate::store::atomic;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a core begins with; it is written last.
const MAGIC: [u8; 4] = *b"\x7fELF";
/// Names that are tried for a file.
const TRIES: u32 = 1000;

/// Makes `count` empty files in `dir` for cores of the guest `name`, for their owner alone.
///
/// # Errors
/// What the file system says; nothing is left then.
pub fn create(dir: &Path, name: &str, count: usize) -> Result<Vec<(File, PathBuf)>> {
    atomic::create_dir(dir, 0o700)?;
    let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut made: Vec<(File, PathBuf)> = Vec::new();
    for number in 1..=TRIES {
        if made.len() == count {
            return Ok(made);
        }
        let path = dir.join(format!("{name}-{time}-{number}.core"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match file {
            Ok(file) => made.push((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                clean(made.iter().map(|(_, path)| path.as_path()));
                return Err(Error::io("create", &path, &error));
            }
        }
    }
    clean(made.iter().map(|(_, path)| path.as_path()));
    Err(Error::new(
        Kind::Exists,
        format!("{} has no free name for a core", dir.display()),
    ))
}

/// Removes those of the files that hold no whole core.
pub fn clean<'a>(paths: impl IntoIterator<Item = &'a Path>) {
    for path in paths {
        let mut begin = [0; MAGIC.len()];
        let whole = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
        let empty = match whole {
            Ok(()) => begin != MAGIC,
            Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        };
        if empty {
            // It only takes a name.
            drop(fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn cores_stay_and_what_is_none_goes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("dump");
        let mut made = create(&dir, "web01", 3).unwrap();
        // A second start in the same second finds other names.
        let more = create(&dir, "web01", 1).unwrap();
        assert!(made.iter().all(|(_, path)| *path != more[0].1));
        made[0].0.write_all(b"\x7fELF and more").unwrap();
        // Memory without the head that comes last.
        made[1].0.write_all(&[0; 100]).unwrap();
        let gone = dir.join("never-was");
        let paths = made.iter().chain(&more).map(|(_, path)| path.as_path());
        clean(paths.chain([gone.as_path()]));
        let left: Vec<_> = fs::read_dir(&dir).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path(), made[0].1);
    }

    #[test]
    fn a_folder_that_cannot_be_is_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dump"), "a file").unwrap();
        let error = create(&folder.path().join("dump"), "web01", 1).unwrap_err();
        assert!(error.to_string().contains("dump"), "{error}");
    }
}
