//! Why a kernel cannot be started. Each message names the file and what would be right.

use std::io;

/// Why nothing was booted. Guest memory may have been written partly, within RAM.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither of the formats that we boot.
    #[error("'{name}' is no kernel: neither bzImage nor ELF with a PVH note ({reason})")]
    NotAKernel {
        /// The file.
        name: String,
        /// What was seen.
        reason: String,
    },
    /// A kernel that this machine cannot start.
    #[error("kernel '{name}' cannot be booted: {reason}")]
    Unsupported {
        /// The file.
        name: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file could not be read.
    #[error("cannot read '{name}': {source}")]
    Read {
        /// The file.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// The RAM is too small.
    #[error(
        "{what} '{name}' needs RAM from {from:#x} to {to:#x}, which the guest does not have free; \
         give it more memory"
    )]
    NoRoom {
        /// Kernel or initrd.
        what: &'static str,
        /// The file.
        name: String,
        /// First address needed.
        from: u64,
        /// First address behind.
        to: u64,
    },
    /// The initrd fits nowhere.
    #[error(
        "initrd '{name}' has {size} bytes; between the kernel's end at {floor:#x} and its limit at \
         {ceiling:#x} there is no room for it: give the guest more memory"
    )]
    InitrdTooLarge {
        /// The file.
        name: String,
        /// Its size.
        size: u64,
        /// Lowest address that could be used.
        floor: u64,
        /// The limit.
        ceiling: u64,
    },
    /// A file that has no fixed length, or none at all.
    #[error("'{name}' {reason}; give a regular file")]
    NotRegular {
        /// The file.
        name: String,
        /// What it is.
        reason: &'static str,
    },
    /// The command line does not fit.
    #[error("the kernel command line has {len} bytes; this kernel takes at most {limit}")]
    CmdlineTooLong {
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The command line cannot be passed on.
    #[error("the kernel command line contains a zero byte at {0}; remove it")]
    CmdlineZero(usize),
    /// A machine that the tables cannot describe.
    #[error("the machine cannot be described to its guest: {0}")]
    Machine(String),
    /// Guest memory could not be written where RAM was said to be.
    #[error("guest memory at {address:#x} ({len} bytes) cannot be written: {reason}")]
    Memory {
        /// First address.
        address: u64,
        /// Bytes.
        len: u64,
        /// What vm-memory said.
        reason: String,
    },
}
