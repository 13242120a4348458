//! A log of bounded size over descriptors that somebody else opened.
//!
//! When the first file is full, contents move one file on, newest first, and the first one starts
//! again: no path is opened, renamed or known here. A disk that is full loses output, never the
//! guest: the error is told once, and once more when it is over.

use crate::files::{Files, MissingFd};
use rustix::fs::{SeekFrom, fstat, ftruncate, seek};
use rustix::io::{Errno, pread, write};
use std::io;
use std::os::fd::OwnedFd;
use vmm_api::spec::LogSpec;

/// Smallest size that a file is filled to before it moves on.
const MIN_BYTES: u64 = 4096;
/// Bytes copied at once while contents move on.
const COPY: usize = 16 << 10;

/// The files of a log.
#[derive(Debug)]
pub struct LogFiles {
    /// Newest content first.
    pub files: Vec<OwnedFd>,
    /// Bytes that one of them may hold.
    pub max_bytes: u64,
}

impl LogFiles {
    /// Takes what `spec` names.
    ///
    /// # Errors
    /// [`MissingFd`] for the first one that was not passed.
    pub fn take(spec: &LogSpec, files: &Files) -> Result<Self, MissingFd> {
        let files: Result<_, _> = spec.files.iter().map(|fd| files.take(*fd)).collect();
        Ok(Self {
            files: files?,
            max_bytes: spec.max_bytes,
        })
    }
}

/// A log that is written to.
#[derive(Debug)]
pub struct RotatingLog {
    files: Vec<OwnedFd>,
    max_bytes: u64,
    /// Bytes in the first file.
    size: u64,
    failing: bool,
}

impl RotatingLog {
    /// Goes on at the end of the first file.
    ///
    /// # Errors
    /// No file at all, or one that cannot be looked at.
    pub fn new(log: LogFiles) -> io::Result<Self> {
        let first = log.files.first().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "a log needs at least one file")
        })?;
        let size = u64::try_from(fstat(first)?.st_size).unwrap_or_default();
        seek(first, SeekFrom::End(0))?;
        Ok(Self {
            max_bytes: log.max_bytes.max(MIN_BYTES),
            files: log.files,
            size,
            failing: false,
        })
    }

    /// Adds `bytes`; returns how many of them were lost.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.size >= self.max_bytes
                && let Err(error) = self.rotate()
            {
                return self.failed(error, rest.len());
            }
            let space = self.max_bytes.saturating_sub(self.size);
            let count = usize::try_from(space).unwrap_or(usize::MAX).min(rest.len());
            let Some((first, chunk)) = self.files.first().zip(rest.get(..count)) else {
                return rest.len();
            };
            match write(first, chunk) {
                Ok(0) => return self.failed(Errno::IO, rest.len()),
                Ok(written) => {
                    self.size += written as u64;
                    rest = rest.get(written..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(error) => return self.failed(error, rest.len()),
            }
        }
        if std::mem::take(&mut self.failing) {
            tracing::info!("the log can be written again");
        }
        0
    }

    fn failed(&mut self, error: Errno, lost: usize) -> usize {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "the log cannot be written; output is lost until it can");
        }
        lost
    }

    /// Moves contents one file on and empties the first. When there is no space to move them, what
    /// is old is lost rather than what is new.
    fn rotate(&mut self) -> Result<(), Errno> {
        for pair in self.files.windows(2).rev() {
            if let [newer, older] = pair
                && let Err(error) = copy(newer, older)
            {
                tracing::warn!(%error, "old log contents cannot be kept");
            }
        }
        if let Some(first) = self.files.first() {
            restart(first)?;
        }
        self.size = 0;
        Ok(())
    }
}

impl io::Write for RotatingLog {
    /// Never fails: what cannot be written is lost and told by the log itself.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        RotatingLog::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn restart(file: &OwnedFd) -> Result<(), Errno> {
    ftruncate(file, 0)?;
    seek(file, SeekFrom::Start(0))?;
    Ok(())
}

/// Replaces what `to` holds by what `from` holds.
fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    restart(to)?;
    let mut buffer = [0; COPY];
    let mut offset = 0;
    loop {
        let count = match pread(from, &mut buffer, offset) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        offset += count as u64;
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            match write(to, rest) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::io::{Read, Seek};

    fn read(file: &File) -> Vec<u8> {
        let mut file = file.try_clone().expect("a descriptor");
        let mut bytes = Vec::new();
        file.rewind().expect("seekable");
        file.read_to_end(&mut bytes).expect("readable");
        bytes
    }

    fn log_of(files: &[File], max_bytes: u64) -> RotatingLog {
        let files = files
            .iter()
            .map(|file| file.try_clone().expect("a descriptor").into())
            .collect();
        RotatingLog::new(LogFiles { files, max_bytes }).expect("files")
    }

    #[test]
    fn contents_move_one_file_on_and_the_oldest_is_lost() {
        let files: Vec<File> = (0..3)
            .map(|_| tempfile::tempfile().expect("a file"))
            .collect();
        let mut log = log_of(&files, MIN_BYTES);
        for byte in *b"abcde" {
            assert_eq!(log.write(&[byte; MIN_BYTES as usize]), 0);
        }
        assert_eq!(log.write(b"tail"), 0);
        assert_eq!(read(&files[0]), b"tail");
        assert_eq!(read(&files[1]), [b'e'; MIN_BYTES as usize]);
        assert_eq!(read(&files[2]), [b'd'; MIN_BYTES as usize]);
    }

    #[test]
    fn files_opened_for_appending_rotate_too_and_go_on_at_their_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Vec<File> = ["a", "b"]
            .iter()
            .map(|name| {
                OpenOptions::new()
                    .read(true)
                    .append(true)
                    .create(true)
                    .open(folder.path().join(name))
                    .expect("a file")
            })
            .collect();
        assert_eq!(log_of(&files, MIN_BYTES).write(&[b'1'; 4000]), 0);
        assert_eq!(log_of(&files, MIN_BYTES).write(&[b'2'; 200]), 0);
        assert_eq!(read(&files[0]), [b'2'; 104]);
        let older = read(&files[1]);
        assert_eq!((older.len(), older[3999], older[4000]), (4096, b'1', b'2'));
    }

    #[test]
    fn a_full_disk_loses_output_and_recovers() {
        let Ok(full) = OpenOptions::new().read(true).write(true).open("/dev/full") else {
            println!("skipped: no /dev/full here");
            return;
        };
        let mut log = log_of(&[full], MIN_BYTES);
        assert_eq!(log.write(b"lost"), 4);
        let file = tempfile::tempfile().expect("a file");
        log.files = vec![file.try_clone().expect("a descriptor").into()];
        assert_eq!(log.write(b"kept"), 0);
        assert_eq!(read(&file), b"kept");
    }

    #[test]
    fn a_log_without_files_is_refused() {
        let files = LogFiles {
            files: Vec::new(),
            max_bytes: 0,
        };
        assert!(RotatingLog::new(files).is_err());
    }
}
