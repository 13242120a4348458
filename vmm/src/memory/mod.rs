//! Guest RAM: from the spec to mapped regions, each of the kind that the spec asks for.
//!
//! Nothing else may assume what a region is made of. RAM is never part of a core dump. A region
//! that comes from a snapshot is a private mapping of the container: pages are read when they
//! are first touched, and writes never reach the file.
#![allow(unsafe_code)]

pub mod layout;
mod region;
mod rom;

pub use region::is_zero;
pub use rom::{Rom, RomError};

use devices::memory::{GuestMemory, GuestRegion};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use vmm_api::spec::MemorySpec;

/// RAM that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host would not map it.
    #[error("{size} bytes of guest RAM at {start:#x} cannot be mapped ({kind}): {source}")]
    Map {
        /// Guest physical address.
        start: u64,
        /// Bytes.
        size: u64,
        /// What it was to be made of.
        kind: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host would not do with it what the spec asks.
    #[error("guest RAM at {start:#x} cannot be {what}: {source}")]
    Advise {
        /// Guest physical address.
        start: u64,
        /// Past participle, such as `locked`.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A saved region is not where this machine has RAM.
    #[error("the saved memory does not fit this machine: {0}")]
    Saved(String),
    /// The regions do not make up a memory map.
    #[error("the memory map cannot be built: {0}")]
    Layout(String),
}

/// Where a saved region lies in its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedRegion {
    /// Guest physical addresses.
    pub span: Range<u64>,
    /// Offset in the container, a multiple of the page size.
    pub offset: u64,
}

/// Builds the RAM that `spec` asks for, all zero.
///
/// # Errors
/// [`MemoryError`].
pub fn build(spec: &MemorySpec) -> Result<GuestMemory, MemoryError> {
    let mut regions = Vec::new();
    for span in layout::ram_spans(spec.size) {
        regions.push(region::fresh(spec, span)?);
    }
    assemble(regions)
}

/// Builds the RAM that `spec` asks for with the contents that `container` holds.
///
/// # Errors
/// [`MemoryError`], also when the saved regions are not exactly this machine's.
pub fn restore(
    spec: &MemorySpec,
    container: &Arc<File>,
    saved: &[SavedRegion],
) -> Result<GuestMemory, MemoryError> {
    let spans = layout::ram_spans(spec.size);
    let found: Vec<_> = saved.iter().map(|region| region.span.clone()).collect();
    if spans != found {
        return Err(MemoryError::Saved(format!(
            "RAM at {spans:x?} was expected, RAM at {found:x?} was saved"
        )));
    }
    let mut regions = Vec::new();
    for part in saved {
        regions.push(region::saved(spec, container, part)?);
    }
    assemble(regions)
}

fn assemble(regions: Vec<GuestRegion>) -> Result<GuestMemory, MemoryError> {
    GuestMemory::from_regions(regions).map_err(|error| MemoryError::Layout(error.to_string()))
}

#[cfg(test)]
mod tests;
