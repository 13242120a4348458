//! Guest RAM of the spec.

use serde::{Deserialize, Serialize};

/// What guest RAM is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum MemoryBacking {
    /// Private anonymous memory, huge pages advised.
    #[default]
    Anonymous,
    /// A shared memfd (`<memoryBacking><source type='memfd'/><access mode='shared'/>`).
    SharedMemfd,
    /// Huge pages from the host's pool.
    Hugetlb {
        /// 2 MiB or 1 GiB, in bytes.
        page_size: u64,
    },
}

/// The guest's RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySpec {
    /// Bytes of RAM at start, a multiple of 4096, at least 1 MiB.
    pub size: u64,
    /// Bytes that there may be at most after hot-plug (`<maxMemory>`), a multiple of 4096, at least
    /// `size`: the memory map leaves this much room for RAM. As much as `size` when absent.
    #[serde(default)]
    pub max: Option<u64>,
    /// What it is made of.
    #[serde(default)]
    pub backing: MemoryBacking,
    /// KSM may merge equal pages (off with `<nosharepages/>`).
    #[serde(default = "yes")]
    pub mergeable: bool,
    /// All of it is locked into host memory (`<locked/>`).
    #[serde(default)]
    pub locked: bool,
    /// All of it is allocated before the guest starts (`<allocation mode='immediate'/>`).
    #[serde(default)]
    pub prealloc: bool,
}

fn yes() -> bool {
    true
}

impl MemorySpec {
    /// Bytes that the memory map leaves room for.
    pub fn most(&self) -> u64 {
        self.max.unwrap_or(self.size).max(self.size)
    }

    /// `size` bytes of the default kind.
    pub fn anonymous(size: u64) -> Self {
        Self {
            size,
            max: None,
            backing: MemoryBacking::Anonymous,
            mergeable: true,
            locked: false,
            prealloc: false,
        }
    }
}
