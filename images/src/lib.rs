//! Disk images: raw and qcow2, read and written through one asynchronous path.
//!
//! The layers, from the outside in:
//!
//! ```text
//! Image      (image.rs)    open inactive, activate, inactivate; checks every request
//! live       (live.rs)     its layers and the job that looks at its writes, at this moment
//! access     (access.rs)   the one data path: walks the chain, moves what the format points at
//! format/    raw, qcow2    answers *where* data is: data at an offset, zero, unallocated, compressed
//! storage/   file, memory  moves bytes; alignment bouncing, locks, growth of the file
//! exec/                    one thread, one ring (or a thread pool), one small executor
//! ops/                     whole-image operations: create, info, check, ...
//! jobs/                    overlay, commit, stream, mirror, backup: while it is in use
//! nbd/                     an image for other programs, over a socket
//! gate.rs                  every file that an image *names* is opened by the caller, or not at all
//! ```
//!
//! This crate knows nothing of virtual machines, opens no path by itself outside
//! [`PathGate`], and never trusts a byte of an image.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod access;
pub mod error;
pub mod exec;
mod format;
pub mod fuzz;
pub mod gate;
mod image;
pub mod jobs;
mod live;
pub mod nbd;
mod node;
pub mod ops;
mod requests;
pub mod storage;
mod sync;
mod whole;

pub use error::{Error, ErrorKind};
pub use format::qcow2::header::Compression;
pub use format::{Format, detect};
pub use gate::{DenyAll, Gate, GateRequest, Layer, OpenedFile, PathGate};
pub use image::{DetectZeroes, DiscardMode, Image, OpenOptions};
pub use storage::{Buffer, Cache, IoBuf};
