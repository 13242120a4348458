//! What can go wrong with an image, in kinds that a device can hang a policy on.
//!
//! An error never changes the image behind the caller's back: the request that got it can be
//! sent again later.
use std::fmt;
use std::io;

/// What kind of failure this is. A device chooses between "stop the guest" and "tell the guest"
/// by the kind alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file system or the device under the image is full, or a quota is used up.
    NoSpace,
    /// The host refused or failed the transfer; the errno if there was one.
    Io(Option<i32>),
    /// Somebody else holds a lock that conflicts; what is known of the holder.
    Locked {
        /// The permission that conflicts ("write", "resize", ...), and who holds it if known.
        by: String,
    },
    /// The image contradicts itself.
    Corrupt,
    /// The image uses a feature that this engine does not have; its name.
    Unsupported(String),
    /// A write to an image that was opened read-only.
    ReadOnly,
    /// A request to an image that is not active.
    Inactive,
    /// A request outside the virtual disk.
    OutOfRange,
    /// The caller's gate did not allow a file that the image names.
    Refused,
    /// An option or an argument that cannot be used.
    InvalidInput,
    /// The thread has no executor to run the request on.
    NoExecutor,
}

/// An error of the image engine: kind, what was being done, and the cause.
// Users of the crate know it as `images::Error`.
#[allow(clippy::error_impl_error)]
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// The kind, for policies.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// A failed system call: ENOSPC, EDQUOT and EFBIG become [`ErrorKind::NoSpace`].
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Error {
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            errno => ErrorKind::Io(errno),
        };
        Error::new(kind, format!("{what}: {error}"))
    }

    /// The image contradicts itself; `what` names the field and its value.
    pub fn corrupt(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, what)
    }

    /// A feature, by name, that is not built.
    pub fn unsupported(feature: &str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported(feature.to_owned()), message)
    }

    /// An argument that cannot be used.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidInput, message)
    }

    /// Puts `context` ("backing file base.qcow2") before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The nearest errno, for callers that answer in errnos (block devices, NBD).
    pub fn errno(&self) -> i32 {
        match &self.kind {
            ErrorKind::NoSpace => libc::ENOSPC,
            ErrorKind::Io(errno) => errno.unwrap_or(libc::EIO),
            ErrorKind::Locked { .. } => libc::EAGAIN,
            ErrorKind::Corrupt | ErrorKind::NoExecutor => libc::EIO,
            ErrorKind::Unsupported(_) => libc::ENOTSUP,
            ErrorKind::ReadOnly => libc::EROFS,
            ErrorKind::Inactive => libc::EPERM,
            ErrorKind::OutOfRange | ErrorKind::InvalidInput => libc::EINVAL,
            ErrorKind::Refused => libc::EACCES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disks_are_no_space_and_keep_their_errno() {
        for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            let e = Error::io("write", &io::Error::from_raw_os_error(errno));
            assert_eq!(e.kind(), &ErrorKind::NoSpace);
            assert_eq!(e.errno(), libc::ENOSPC);
        }
        let e = Error::io("write", &io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(e.kind(), &ErrorKind::Io(Some(libc::EIO)));
    }

    #[test]
    fn context_goes_in_front() {
        let e = Error::corrupt("bad magic").context("a.qcow2");
        assert_eq!(e.to_string(), "a.qcow2: bad magic");
    }
}
