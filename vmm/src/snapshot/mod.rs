//! The snapshot container: a machine that stands still, as one file.
//!
//! ```text
//! header, 4096 bytes reserved     fixed, little-endian, parsed by hand for ever    [`header`]
//! region table                    where each span of RAM lies in the file          [`header`]
//! sections                        {device, kind, version, checksum, JSON}          [`sections`]
//! RAM, aligned to 2 MiB           pages as they were; zero pages are holes         [`save`]
//! ```
//!
//! The header is written last, after everything else is on stable storage: a file whose saving was
//! cut short has none and is refused. A reader trusts no number in it: everything is checked against
//! the file before it is used. RAM carries no checksum, because it is mapped and read when the guest
//! touches it. docs/snapshot-format.md is the format in full.

pub(crate) mod fuzz;
mod header;
mod restore;
mod save;
mod sections;

pub use restore::{Container, open};
pub use save::save;
pub(crate) use save::{is_own_ram, write_region};

use std::io;

/// A snapshot that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a container, or one whose saving was cut short.
    #[error("{0}")]
    NotAContainer(String),
    /// A container that this build does not read.
    #[error("the container has version {found}; this build reads version {known}")]
    Version {
        /// Found.
        found: u32,
        /// Known.
        known: u32,
    },
    /// Damaged.
    #[error("the container is damaged: {0}")]
    Damaged(String),
    /// Another machine's.
    #[error("the saved state is of another machine: {0}")]
    Mismatch(String),
    /// The file cannot take a container.
    #[error("the state cannot be saved into this file: {0}")]
    Unusable(&'static str),
    /// A device cannot be saved.
    #[error("device '{device}' cannot be saved: {reason}")]
    Unsupported {
        /// Alias.
        device: String,
        /// Its reason.
        reason: String,
    },
    /// Part of the machine's state could not be read.
    #[error("the machine's state: {0}")]
    State(String),
    /// The job was stopped.
    #[error("the job was stopped")]
    Aborted,
    /// The file could not be written or read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SnapshotError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// What the machine is, besides the state of its parts; payload of section `machine`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct MachinePart {
    /// Machine version.
    machine: String,
    /// vCPUs.
    vcpus: u32,
    /// Bytes of RAM.
    memory: u64,
    /// Nanoseconds of the paravirtual clock, where the host has one.
    clock: Option<u64>,
}

const MACHINE: &str = "machine";
const MACHINE_VERSION: u32 = 1;
const CPUID: &str = "cpuid";
const CPUID_VERSION: u32 = 1;
const VCPU: &str = "vcpu";

fn vcpu_id(index: usize) -> String {
    format!("vcpu{index}")
}

#[cfg(test)]
mod tests;
