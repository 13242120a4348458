//! Files for the cores of guests that crash. They are made and named before the start, since a guest's
//! process opens none; those that hold no whole core go when its end is tidied up, or after the host
//! was started anew, when no record is left to tidy up by.
//!
//! Must never remove a core, nor a file that was not made here.

use crate::error::{Error, Kind, Result};
use crate::store::atomic;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
        if !holds_core(path) {
            // It only takes a name.
            drop(fs::remove_file(path));
        }
    }
}

/// Removes files in `dir` that were made for cores before `boot`, when the host last started, and hold
/// none: the records that named them went with the host's uptime. Those in `named`, which a run of
/// now may still fill, stay. How many went.
pub fn sweep(dir: &Path, named: &BTreeSet<PathBuf>, boot: SystemTime) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let left_over = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_ours)
            && !named.contains(path)
            && fs::symlink_metadata(path).is_ok_and(|found| {
                found.is_file() && found.modified().is_ok_and(|written| written < boot)
            })
    };
    let paths = entries.map(|entry| entry.path());
    let gone = paths.filter(|path| left_over(path) && !holds_core(path));
    gone.filter(|path| fs::remove_file(path).is_ok()).count()
}

/// Whether a name is one that [`create`] gives: `NAME-YYYYMMDD-HHMMSS-N.core`.
fn is_ours(name: &str) -> bool {
    let Some(name) = name.strip_suffix(".core") else {
        return false;
    };
    let mut parts = name.rsplitn(4, '-');
    let mut digits = |lengths: RangeInclusive<usize>| {
        parts.next().is_some_and(|part| {
            lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let stamped = digits(1..=4) && digits(6..=6) && digits(8..=8);
    stamped && parts.next().is_some_and(|of| !of.is_empty())
}

/// Whether a file has the head of a core; one that cannot be read may have.
fn holds_core(path: &Path) -> bool {
    let mut begin = [0; MAGIC.len()];
    match File::open(path).and_then(|mut file| file.read_exact(&mut begin)) {
        Ok(()) => begin == MAGIC,
        Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
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
    fn what_an_earlier_uptime_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let made = create(dir, "web-01", 4).unwrap();
        let paths: Vec<&PathBuf> = made.iter().map(|(_, path)| path).collect();
        fs::write(paths[0], b"\x7fELF and more").unwrap();
        // Memory without the head that comes last.
        fs::write(paths[1], [0; 100]).unwrap();
        // Names that are not ours, and a link whose name is.
        let foreign = [
            "notes.core",
            "-20260101-000000-1.core",
            "web-20260101-1-1.core",
        ];
        for name in foreign {
            fs::write(dir.join(name), "").unwrap();
        }
        let link = dir.join("web-20260101-000000-1.core");
        std::os::unix::fs::symlink(paths[3], &link).unwrap();
        let named = BTreeSet::from([paths[2].clone()]);
        let hour = std::time::Duration::from_secs(3600);
        assert_eq!(sweep(dir, &named, SystemTime::now() - hour), 0);
        assert_eq!(sweep(dir, &named, SystemTime::now() + hour), 2);
        let left: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
        assert_eq!(left, [true, false, true, false]);
        assert!(foreign.iter().all(|name| dir.join(name).exists()));
        assert!(fs::symlink_metadata(link).is_ok());
        assert_eq!(sweep(&dir.join("missing"), &named, SystemTime::now()), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_is_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dump"), "a file").unwrap();
        let error = create(&folder.path().join("dump"), "web01", 1).unwrap_err();
        assert!(error.to_string().contains("dump"), "{error}");
    }
}
