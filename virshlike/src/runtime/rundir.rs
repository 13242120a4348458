//! A domain's runtime directory: the lock that says alive, the records, and the sockets.
//!
//! Sockets are bound and reached through the directory's descriptor (`/proc/self/fd/N/control`),
//! because a socket's path may have 107 bytes only and a store may lie deeper than that.

use super::cores;
use super::passt;
use super::record::{LastRun, RECORD_VERSION, RunEnd, RunRecord};
use super::socket;
use crate::error::{Error, Result};
use crate::spawn;
use crate::store::atomic;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use vmm_api::end::EndRecord;

/// The control socket's file name.
pub const CONTROL: &str = "control";
/// The console socket's file name.
pub const CONSOLE: &str = "console";
const LOCK: &str = "lock";
const RUN: &str = "run.json";
const END: &str = "end.json";
const LAST: &str = "last.json";
const SPEC: &str = "spec.json";
const LIVE: &str = "live.xml";

/// What a runtime directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing ran since the host booted.
    Never,
    /// Its process lives.
    Alive(Box<RunRecord>),
    /// It ran and ended.
    Ended(LastRun),
}

/// A domain's runtime directory, present or not.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The directory at `path`; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the guest's process lives, and what is known of it or of its end. Writes nothing.
    ///
    /// # Errors
    /// A directory that exists and cannot be read.
    pub fn liveness(&self) -> Result<Liveness> {
        let held = self.lock_is_held()?;
        let Some(record) = self.read::<RunRecord>(RUN) else {
            return Ok(self.read(LAST).map_or(Liveness::Never, Liveness::Ended));
        };
        if held {
            return Ok(Liveness::Alive(Box::new(record)));
        }
        Ok(Liveness::Ended(self.ended(&record)))
    }

    /// What is written down of a run that has not been tidied away.
    pub fn record(&self) -> Option<RunRecord> {
        self.read(RUN)
    }

    /// The process's last words, if it wrote any.
    pub fn end_record(&self) -> Option<EndRecord> {
        EndRecord::parse(&fs::read_to_string(self.path.join(END)).ok()?)
    }

    /// The file that the process writes its last words into, to be read also when the directory is
    /// tidied up meanwhile.
    pub fn open_end(&self) -> Option<LastWords> {
        let file = File::open(self.path.join(END)).ok()?;
        Some(LastWords { file })
    }

    /// Writes down why a process ended that could not say so itself, unless it did.
    ///
    /// # Errors
    /// What the file system says.
    pub fn say_end(&self, end: &EndRecord) -> Result<()> {
        if self.end_record().is_some() {
            return Ok(());
        }
        let path = self.path.join(END);
        // Into the same file: whoever has it open reads it there.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(end.to_line().as_bytes()))
            .map_err(|error| Error::io("write", &path, &error))
    }

    fn ended(&self, record: &RunRecord) -> LastRun {
        let (reason, detail, ended) = match self.end_record() {
            Some(end) => (RunEnd::Said(end.reason), end.detail, end.time),
            None => (RunEnd::Vanished, String::new(), 0),
        };
        LastRun {
            version: RECORD_VERSION,
            name: record.name.clone(),
            id: record.id,
            end: reason,
            detail,
            ended,
        }
    }

    /// Whether a process holds the run lock.
    ///
    /// # Errors
    /// A lock file that exists and cannot be read.
    pub fn lock_is_held(&self) -> Result<bool> {
        let path = self.path.join(LOCK);
        match File::open(&path) {
            Ok(file) => {
                spawn::is_locked(&file).map_err(|error| Error::io("read the lock", &path, &error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("open the lock", &path, &error)),
        }
    }

    /// Takes the run lock for a process about to be started; `None` when one lives.
    ///
    /// # Errors
    /// What the file system says.
    pub fn take_lock(&self) -> Result<Option<File>> {
        atomic::create_dir(&self.path, 0o700)?;
        let path = self.path.join(LOCK);
        let file = self.create(LOCK)?;
        let taken =
            spawn::take_lock(&file).map_err(|error| Error::io("take the lock", &path, &error))?;
        Ok(taken.then_some(file))
    }

    fn create(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Error::io("create", &path, &error))
    }

    /// An empty file for the end record.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create_end(&self) -> Result<File> {
        atomic::remove(&self.path.join(END))?;
        self.create(END)
    }

    /// Binds a listening socket in the directory, over a stale one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn listen(&self, name: &str) -> Result<UnixListener> {
        let path = self.path.join(name);
        atomic::remove(&path)?;
        self.through_dir(name, UnixListener::bind::<PathBuf>)
            .map_err(|error| Error::io("create the socket", &path, &error))
    }

    /// Connects to a socket in the directory.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect(&self, name: &str) -> io::Result<UnixStream> {
        self.through_dir(name, UnixStream::connect::<PathBuf>)
    }

    /// As [`RunDir::connect`], without waiting for a process that accepts nobody: it would block is
    /// the answer then. The socket stays so that it never blocks.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect_at_once(&self, name: &str) -> io::Result<UnixStream> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        self.through_dir(name, |path| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let kind = SocketType::STREAM;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(UnixStream::from(socket))
        })
    }

    fn through_dir<T>(
        &self,
        name: &str,
        act: impl FnOnce(PathBuf) -> io::Result<T>,
    ) -> io::Result<T> {
        let dir = File::open(&self.path)?;
        act(PathBuf::from(format!(
            "/proc/self/fd/{}/{name}",
            dir.as_raw_fd()
        )))
    }

    /// Writes the frozen spec and gives back a descriptor to read it by.
    ///
    /// # Errors
    /// What the file system says.
    pub fn freeze_spec(&self, json: &[u8]) -> Result<File> {
        let path = self.path.join(SPEC);
        atomic::write_volatile(&path, json)?;
        File::open(&path).map_err(|error| Error::io("open", &path, &error))
    }

    /// The frozen spec of the run.
    pub fn spec(&self) -> Option<Vec<u8>> {
        fs::read(self.path.join(SPEC)).ok()
    }

    /// Writes the definition that the process runs.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_live(&self, xml: &str) -> Result<()> {
        atomic::write_volatile(&self.path.join(LIVE), xml.as_bytes())
    }

    /// The definition that the process runs.
    pub fn live(&self) -> Option<String> {
        fs::read_to_string(self.path.join(LIVE)).ok()
    }

    /// Writes the record of the run.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_record(&self, record: &RunRecord) -> Result<()> {
        let json = serde_json::to_vec_pretty(record).unwrap_or_default();
        atomic::write_volatile(&self.path.join(RUN), &json)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path.join(name)).ok()?).ok()
    }

    /// Keeps what is worth knowing of an ended run and removes the rest. Does nothing while the
    /// process lives. The caller holds the domain's lock.
    ///
    /// # Errors
    /// What the file system says.
    pub fn tidy(&self) -> Result<()> {
        let Some(record) = self.read::<RunRecord>(RUN) else {
            return Ok(());
        };
        if self.lock_is_held()? {
            return Ok(());
        }
        passt::end_all(&record.helpers);
        cores::clean(record.cores.iter().map(Path::new));
        if record.transient {
            self.remove_sockets(&record);
            return self.remove();
        }
        let last = serde_json::to_vec_pretty(&self.ended(&record)).unwrap_or_default();
        atomic::write_volatile(&self.path.join(LAST), &last)?;
        // run.json goes last: while it stands, the end is read from the files beside it.
        self.remove_sockets(&record);
        for name in [CONTROL, SPEC, LIVE, RUN, END] {
            atomic::remove(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Removes the sockets of consoles and channels; nobody listens on them any more. One that
    /// cannot be removed is bound over by the next start.
    fn remove_sockets(&self, record: &RunRecord) {
        let consoles = record.consoles.values().map(|name| self.path.join(name));
        let channels = record.sockets.values().map(PathBuf::from);
        // Records of older builds name no console.
        let first = self.path.join(CONSOLE);
        for path in consoles.chain(channels).chain([first]) {
            // A channel's path may be another program's by now.
            socket::remove_left(&path);
        }
    }

    /// Forgets a start that did not succeed, keeping what was known of the run before it.
    pub fn abandon(&self, record: &RunRecord) {
        passt::end_all(&record.helpers);
        cores::clean(record.cores.iter().map(Path::new));
        self.remove_sockets(record);
        for name in [CONTROL, SPEC, LIVE, RUN, END] {
            let _ = fs::remove_file(self.path.join(name));
        }
    }

    /// Removes everything, for a domain that is no more.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

/// The last words of one run's process, written or not.
#[derive(Debug)]
pub struct LastWords {
    file: File,
}

impl LastWords {
    /// What was written so far.
    pub fn read(&self) -> Option<EndRecord> {
        // One line; a longer file is none of ours.
        let mut bytes = vec![0; 64 << 10];
        let length = self.file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(length);
        EndRecord::parse(&String::from_utf8(bytes).ok()?)
    }
}

/// Runtime directories below `run` whose run has not been tidied away: the living and the freshly
/// ended.
///
/// # Errors
/// A directory that cannot be read; one that is not there is empty.
pub fn runs(run: &Path) -> Result<Vec<RunDir>> {
    let entries = match fs::read_dir(run) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", run, &error)),
    };
    Ok(entries
        .flatten()
        .map(|entry| RunDir::new(entry.path()))
        .filter(|dir| dir.path.join(RUN).exists())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use vmm_api::end::EndReason;

    fn record() -> RunRecord {
        RunRecord {
            version: RECORD_VERSION,
            id: 3,
            name: "a".into(),
            uuid: Uuid::from_u128(1),
            started: 0,
            transient: false,
            pty: None,
            taps: Default::default(),
            helpers: Vec::new(),
            ports: Default::default(),
            ttys: Default::default(),
            consoles: Default::default(),
            sockets: Default::default(),
            cpu: None,
            cores: Vec::new(),
            vnc: None,
            process: None,
        }
    }

    fn run_dir() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("u"));
        (dir, run)
    }

    #[test]
    fn lock_held_is_alive_and_lock_free_without_a_word_is_a_crash() {
        let (_dir, run) = run_dir();
        assert_eq!(run.liveness().unwrap(), Liveness::Never);
        let lock = run.take_lock().unwrap().unwrap();
        run.write_record(&record()).unwrap();
        assert_eq!(run.liveness().unwrap(), Liveness::Alive(Box::new(record())));
        assert!(run.take_lock().unwrap().is_none());
        drop(lock);
        let Liveness::Ended(last) = run.liveness().unwrap() else {
            panic!("not ended");
        };
        assert_eq!(last.end, RunEnd::Vanished);
    }

    #[test]
    fn tidying_keeps_the_reason_and_spares_the_living() {
        let (_dir, run) = run_dir();
        let lock = run.take_lock().unwrap().unwrap();
        run.write_record(&record()).unwrap();
        run.tidy().unwrap();
        assert!(matches!(run.liveness().unwrap(), Liveness::Alive(_)));
        let line = EndRecord::new(EndReason::Destroyed, "by hand", 7).to_line();
        fs::write(run.path().join(END), line).unwrap();
        drop(lock);
        run.tidy().unwrap();
        assert!(!run.path().join(RUN).exists());
        let Liveness::Ended(last) = run.liveness().unwrap() else {
            panic!("not ended");
        };
        assert_eq!((last.end.as_str(), last.ended), ("destroyed", 7));
    }

    #[test]
    fn last_words_are_read_after_the_directory_is_gone() {
        let (_dir, run) = run_dir();
        assert!(run.open_end().is_none());
        let _lock = run.take_lock().unwrap().unwrap();
        run.create_end().unwrap();
        let words = run.open_end().unwrap();
        assert_eq!(words.read(), None);
        // Of a process that was killed somebody else says it, once.
        let killed = EndRecord::new(EndReason::Destroyed, "it did not answer", 7);
        run.say_end(&killed).unwrap();
        run.say_end(&EndRecord::new(EndReason::Saved, "", 8))
            .unwrap();
        run.remove().unwrap();
        assert_eq!(words.read(), Some(killed));
    }

    #[test]
    fn sockets_work_below_paths_longer_than_a_socket_address() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(100)).join("y".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let run = RunDir::new(deep);
        let _listener = run.listen(CONTROL).unwrap();
        run.connect(CONTROL).unwrap();
        // Nobody accepts: at some number a caller would wait, and this one does not.
        let mut callers = Vec::new();
        let full = loop {
            match run.connect_at_once(CONTROL) {
                Ok(caller) => callers.push(caller),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
