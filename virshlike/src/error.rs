//! The one error of the manager: what was attempted, why it failed, and what to do next.
//!
//! Everything that fails here fails in front of a person or a script, so errors are built as
//! sentences where the facts are known, not as enums that somebody far away has to word. The kind
//! is for programs (`--format json`); the message, causes and hints are for people. This module
//! must never print: `cli::ui` is the only place that does.

use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What kind of failure it is; stable words for `--format json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line is wrong.
    Usage,
    /// No such domain, file or device.
    NotFound,
    /// The name, UUID or file is there already.
    Exists,
    /// A definition is wrong; the causes carry file, line and column.
    Definition,
    /// The domain's state does not allow it.
    State,
    /// The operator lacks the right.
    Permission,
    /// Somebody else holds what is needed.
    Busy,
    /// The host lacks something, such as KVM, memory or space.
    Host,
    /// A deadline passed.
    Timeout,
    /// The guest's process failed or refused.
    Guest,
    /// This build cannot do it.
    Unsupported,
    /// The system said no in another way.
    Io,
}

/// A failure, complete enough to act on.
#[derive(Debug, Clone, Serialize)]
pub struct Error {
    /// The kind.
    pub kind: Kind,
    /// What was attempted and failed, in one sentence without a full stop.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

/// A result of the manager.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message only.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// An operating system error on a path, with the usual next step for its kind.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Permission,
            std::io::ErrorKind::AlreadyExists => Kind::Exists,
            _ => Kind::Io,
        };
        let mut result =
            Self::new(kind, format!("cannot {action} {}", path.display())).cause(plain_io(error));
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            let closed = path.ancestors().skip(1).filter(|folder| {
                let search = rustix::fs::Access::EXEC_OK;
                rustix::fs::access(*folder, search) == Err(rustix::io::Errno::ACCESS)
            });
            // From the longest to the shortest: the last one is where the way ends.
            if let Some(folder) = closed.last() {
                result
                    .causes
                    .push(format!("you may not enter {}", folder.display()));
            }
        }
        result.hints.extend(match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Some("make room on that file system; nothing was changed".to_string())
            }
            std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("remount it writable; nothing was changed".to_string())
            }
            _ => None,
        });
        result
    }

    /// Adds a cause below the present ones.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Puts a wider message above this one, which becomes the first cause.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.message, message.into());
        self.causes.insert(0, inner);
        self
    }

    /// virsh's "Requested operation is not valid".
    pub fn invalid_operation(why: &str) -> Self {
        Self::new(
            Kind::State,
            format!("Requested operation is not valid: {why}"),
        )
    }
}

/// An operating system error in its own words, without the number that Rust adds.
pub fn plain_io(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text.get(..end).unwrap_or_default().to_string(),
        None => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_stands_above_its_cause() {
        let error = Error::new(Kind::State, "domain is not running")
            .context("Failed to suspend domain 'a'");
        assert_eq!(
            error.to_string(),
            "Failed to suspend domain 'a': domain is not running"
        );
    }

    #[test]
    fn a_full_disk_says_that_nothing_was_changed() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("write", Path::new("/etc/vm/domains/a.xml"), &io);
        assert!(error.message.contains("/etc/vm/domains/a.xml"));
        assert!(
            error
                .hints
                .iter()
                .any(|hint| hint.contains("nothing was changed"))
        );
    }
}
