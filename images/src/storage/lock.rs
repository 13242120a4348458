//! Image locks that QEMU, qemu-img and libvirt's tools understand.
//!
//! A user of an image tells, with one byte-range lock per permission, what it does (bytes from
//! 100 on) and what it does not tolerate in others (bytes from 200 on). The locks are read locks
//! of the open file description: many may hold the same byte, and whoever wants to know asks
//! whether a write lock would conflict. Everybody first takes its own locks and then looks, so
//! two users that start at the same time cannot both succeed.
//!
//! | bit | permission       | byte: I use it | byte: others must not |
//! |-----|------------------|----------------|-----------------------|
//! | 0   | consistent read  | 100            | 200                   |
//! | 1   | write            | 101            | 201                   |
//! | 2   | write unchanged  | 102            | 202                   |
//! | 3   | resize           | 103            | 203                   |
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::sys;
use crate::error::{Error, ErrorKind, Result};

const USED_BASE: u64 = 100;
const FORBIDDEN_BASE: u64 = 200;
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const READ: u8 = 1;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;

/// What the holder does, and what it forbids to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// Reads; nobody may write.
    Reader,
    /// Writes; nobody else may.
    Writer,
    /// Writes, and lets others write: a disk shared by a cluster of guests.
    SharedWriter,
}

impl LockMode {
    fn used(self) -> u8 {
        match self {
            LockMode::Reader => READ,
            LockMode::Writer | LockMode::SharedWriter => READ | WRITE | RESIZE,
        }
    }

    fn forbidden(self) -> u8 {
        match self {
            LockMode::Reader | LockMode::Writer => WRITE | RESIZE,
            // A shared disk has a fixed size and cluster-aware guests.
            LockMode::SharedWriter => 0,
        }
    }
}

fn bits(set: u8) -> impl Iterator<Item = (u64, &'static str)> {
    (0u64..)
        .zip(NAMES)
        .filter(move |(bit, _)| set & (1 << bit) != 0)
}

/// Takes the locks of `mode`, replacing those held through this open file description.
///
/// # Errors
/// [`ErrorKind::Locked`] when somebody else is in the way; nothing is held afterwards.
pub(crate) fn take(file: &File, mode: LockMode, name: &str) -> Result<()> {
    let result = try_take(file, mode, name);
    if result.is_err() {
        give_up(file);
    }
    result
}

fn try_take(file: &File, mode: LockMode, name: &str) -> Result<()> {
    let fd = file.as_fd();
    let set = |base: u64, wanted: u8| -> io::Result<()> {
        for bit in 0..NAMES.len() as u64 {
            let kind = if wanted & (1 << bit) != 0 {
                libc::F_RDLCK
            } else {
                libc::F_UNLCK
            };
            sys::ofd_lock(fd, kind, base + bit, 1)?;
        }
        Ok(())
    };
    let fail = |e: io::Error| match e.raw_os_error() {
        // QEMU never takes write locks on these bytes, but somebody might.
        Some(libc::EAGAIN | libc::EACCES) => conflict(name, "image"),
        _ => Error::io(format_args!("cannot lock {name}"), &e),
    };
    set(USED_BASE, mode.used()).map_err(fail)?;
    set(FORBIDDEN_BASE, mode.forbidden()).map_err(fail)?;
    for (bit, permission) in bits(mode.used()) {
        if sys::ofd_locked_by_others(fd, FORBIDDEN_BASE + bit, 1).map_err(fail)? {
            return Err(conflict(name, permission));
        }
    }
    for (bit, permission) in bits(mode.forbidden()) {
        if sys::ofd_locked_by_others(fd, USED_BASE + bit, 1).map_err(fail)? {
            return Err(conflict(name, permission));
        }
    }
    Ok(())
}

fn conflict(name: &str, permission: &str) -> Error {
    Error::new(
        ErrorKind::Locked {
            by: format!("another process holds the \"{permission}\" lock"),
        },
        format!(
            "failed to get \"{permission}\" lock on {name}: is another process using the image?"
        ),
    )
}

/// Gives every lock up that is held through this open file description.
pub(crate) fn give_up(file: &File) {
    let n = NAMES.len() as u64;
    for base in [USED_BASE, FORBIDDEN_BASE] {
        if let Err(error) = sys::ofd_lock(file.as_fd(), libc::F_UNLCK, base, n) {
            tracing::warn!(%error, "an image lock could not be given up");
        }
    }
}
