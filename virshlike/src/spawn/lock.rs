//! Open-file-description locks, as the run lock and image locks use them: they belong to the open
//! file, pass to a child with its descriptor, and end with the last descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

fn flock(kind: libc::c_int, start: i64, length: i64) -> libc::flock {
    // The constants of lock kinds and SEEK_SET are small and fit the field's type.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Takes the whole file for writing, without waiting; `false` when somebody else has it.
///
/// # Errors
/// What the file system says, such as no support for locks.
pub fn take_lock(file: &File) -> io::Result<bool> {
    let lock = flock(libc::F_WRLCK, 0, 0);
    // SAFETY: the structure lives for the whole call and has the layout that fcntl expects.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether somebody else holds any lock on the file; takes none, so readers never disturb.
///
/// # Errors
/// What the file system says.
pub fn is_locked(file: &File) -> io::Result<bool> {
    conflict(file.as_raw_fd(), 0, 0)
}

/// Whether somebody else holds a lock on one byte of a file.
///
/// # Errors
/// What the file system says.
pub fn byte_is_locked(file: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    conflict(file.as_raw_fd(), byte, 1)
}

fn conflict(descriptor: i32, start: i64, length: i64) -> io::Result<bool> {
    let mut lock = flock(libc::F_WRLCK, start, length);
    // SAFETY: the structure lives for the whole call and has the layout that fcntl expects.
    let done = unsafe { libc::fcntl(descriptor, libc::F_OFD_GETLK, &raw mut lock) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_lock_is_seen_by_others_and_ends_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap()
        };
        let (holder, other) = (open(), open());
        assert!(!is_locked(&other).unwrap());
        assert!(take_lock(&holder).unwrap());
        assert!(is_locked(&other).unwrap());
        assert!(byte_is_locked(other.as_fd(), 101).unwrap());
        assert!(!take_lock(&other).unwrap());
        drop(holder);
        assert!(!is_locked(&other).unwrap());
    }
}
