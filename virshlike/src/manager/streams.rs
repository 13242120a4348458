//! What is behind serial ports, virtio consoles and channels: sockets, ptys and logs, opened at start.
//!
//! The first console of a machine (its first serial port, else its first virtio console) is the one
//! that `vm console` and `vm ttyconsole` mean when nobody says which.

use crate::error::{Error, Kind, Result, plain_io};
use crate::model::{self, CharBackend};
use crate::runtime::files::Descriptors;
use crate::runtime::record::RunRecord;
use crate::runtime::rundir::{CONSOLE, RunDir};
use crate::runtime::socket;
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use vmm_api::spec::{DeviceKind, LogSpec, MachineSpec, PortStream};

/// Bytes of one console log file.
const CONSOLE_LOG: u64 = 2 << 20;

/// Opens what the spec's character devices need, and writes down where it is.
pub(super) fn open(
    spec: &mut MachineSpec,
    descriptors: &mut Descriptors,
    model: &model::Domain,
    dir: &RunDir,
    logs: &Path,
    record: &mut RunRecord,
) -> Result<()> {
    let mut opener = Opener {
        descriptors,
        dir,
        logs,
        record,
        names: BTreeSet::new(),
    };
    // Serial ports first: the first of them is the machine's console.
    for device in &mut spec.devices {
        if let DeviceKind::Serial(serial) = &mut device.kind {
            serial.pty = Some(opener.pty(&device.id)?);
            serial.console = Some(opener.console(&device.id)?);
            serial.log = Some(opener.log(&device.id)?);
        }
    }
    for device in &mut spec.devices {
        let DeviceKind::VirtioConsole(console) = &mut device.kind else {
            continue;
        };
        for port in &mut console.ports {
            match &mut port.stream {
                PortStream::Null => {}
                PortStream::Socket { listener } => {
                    let channel = model.channels.iter().find(|one| one.alias == port.id);
                    *listener = opener.channel(&port.id, channel)?;
                }
                PortStream::Console { log, socket, pty } => {
                    *pty = Some(opener.pty(&port.id)?);
                    // A channel's pty is for one program; a console has viewers and a log.
                    if port.console {
                        *socket = Some(opener.console(&port.id)?);
                        *log = Some(opener.log(&port.id)?);
                    }
                }
            }
        }
    }
    Ok(())
}

struct Opener<'a> {
    descriptors: &'a mut Descriptors,
    dir: &'a RunDir,
    logs: &'a Path,
    record: &'a mut RunRecord,
    /// File names of channel sockets.
    names: BTreeSet<String>,
}

impl Opener<'_> {
    fn pty(&mut self, alias: &str) -> Result<vmm_api::spec::Fd> {
        let (master, name) = pty()?;
        self.record.ttys.insert(alias.into(), name);
        Ok(self.descriptors.keep(master))
    }

    /// The socket of a console; that of the first has the plain name.
    fn console(&mut self, alias: &str) -> Result<vmm_api::spec::Fd> {
        let name = match self.record.consoles.len() {
            0 => {
                self.record.pty = self.record.ttys.get(alias).cloned();
                CONSOLE.to_string()
            }
            number => format!("{CONSOLE}.{number}"),
        };
        let listener = self.dir.listen(&name)?;
        self.record.consoles.insert(alias.into(), name);
        Ok(self.descriptors.keep(listener))
    }

    /// The log of the console whose socket was just made.
    fn log(&mut self, alias: &str) -> Result<LogSpec> {
        let first = self
            .record
            .consoles
            .get(alias)
            .is_some_and(|n| n == CONSOLE);
        let name = if first {
            "console.log".to_string()
        } else {
            format!("console-{}.log", file_name(alias))
        };
        log(self.descriptors, self.logs, &name, CONSOLE_LOG)
    }

    /// The socket of a channel: at the path that the definition gives, else in the run directory.
    fn channel(
        &mut self,
        alias: &str,
        channel: Option<&model::Channel>,
    ) -> Result<vmm_api::spec::Fd> {
        let given = channel.and_then(|channel| match &channel.backend {
            CharBackend::UnixListen(path) => path.as_deref(),
            _ => None,
        });
        let (listener, path) = match given {
            Some(path) => (listen_at(Path::new(path))?, path.to_string()),
            None => {
                let wanted = channel.and_then(|channel| channel.name.as_deref());
                let mut name = format!("channel.{}", file_name(wanted.unwrap_or(alias)));
                if !self.names.insert(name.clone()) {
                    name = format!("channel.{}", file_name(alias));
                    self.names.insert(name.clone());
                }
                let path = self.dir.path().join(&name);
                (self.dir.listen(&name)?, path.display().to_string())
            }
        };
        self.record.sockets.insert(alias.into(), path);
        Ok(self.descriptors.keep(listener))
    }
}

/// A name as part of a file's name, whatever a person wrote.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let safe = |c| if plain(c) { c } else { '_' };
    name.chars().take(100).map(safe).collect()
}

/// Binds a socket where the definition wants it, over one that nobody listens on any more.
pub(super) fn listen_at(path: &Path) -> Result<UnixListener> {
    let refused = |why: &str| {
        Error::new(
            Kind::Busy,
            format!("the channel's socket {} cannot be made", path.display()),
        )
        .cause(why)
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(refused("something that is no socket is there")
                .hint("move it away, or give the channel another <source path=...>"));
        }
        Ok(_) if !socket::is_left(path) => {
            return Err(refused("another program listens on it")
                .hint("give the channel another <source path=...>, or none"));
        }
        Ok(_) => fs::remove_file(path).map_err(|error| Error::io("remove", path, &error))?,
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(|error| Error::io("create the socket", path, &error))
}

/// A pty whose slave passes bytes as they are; the slave's name.
fn pty() -> Result<(OwnedFd, String)> {
    let make = || -> std::io::Result<(OwnedFd, String)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let name = name.to_string_lossy().into_owned();
        // The settings stay with the pty as long as the master is open.
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(&name)?;
        let mut settings = rustix::termios::tcgetattr(&slave)?;
        settings.make_raw();
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
        Ok((master, name))
    };
    make().map_err(|error| {
        Error::new(Kind::Host, "cannot make a pty for the console")
            .cause(plain_io(&error))
            .hint("is /dev/pts mounted?")
    })
}

/// A log of three files, newest first.
pub(super) fn log(
    descriptors: &mut Descriptors,
    logs: &Path,
    name: &str,
    max: u64,
) -> Result<LogSpec> {
    let mut files = Vec::new();
    for suffix in ["", ".1", ".2"] {
        let file = create_log(&logs.join(format!("{name}{suffix}")), false)?;
        files.push(descriptors.keep(file));
    }
    Ok(LogSpec {
        files,
        max_bytes: max,
    })
}

pub(super) fn create_log(path: &Path, fresh: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(fresh)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("open the log", path, &error))
}
