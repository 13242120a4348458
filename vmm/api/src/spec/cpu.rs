//! Virtual CPUs of the spec.

use serde::{Deserialize, Serialize};

/// Most vCPUs a machine may have: xAPIC identifiers 0 to 253 and one for the IOAPIC.
pub const MAX_VCPUS: u32 = 254;

/// What the guest's CPUID shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum CpuModel {
    /// Everything that this host's KVM supports; migratable features only when asked.
    HostPassthrough {
        /// Leave out what cannot be migrated.
        migratable: bool,
    },
    /// The default: host-passthrough, migratable.
    #[default]
    Default,
}

/// How vCPUs are grouped. The product is the largest number of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTopology {
    /// Packages, at least 1.
    pub sockets: u32,
    /// Dies per package, at least 1.
    pub dies: u32,
    /// Cores per die, at least 1.
    pub cores: u32,
    /// Threads per core, at least 1.
    pub threads: u32,
}

impl CpuTopology {
    /// How many vCPUs this topology has room for; `None` when the product overflows.
    pub fn vcpus(&self) -> Option<u32> {
        self.sockets
            .checked_mul(self.dies)?
            .checked_mul(self.cores)?
            .checked_mul(self.threads)
    }
}

/// The virtual CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSpec {
    /// vCPUs present at start, 1 to [`MAX_VCPUS`].
    pub count: u32,
    /// vCPUs there can ever be; at least `count`.
    pub max: u32,
    /// The topology; one socket per vCPU when absent, as libvirt does.
    #[serde(default)]
    pub topology: Option<CpuTopology>,
    /// The CPU model.
    #[serde(default)]
    pub model: CpuModel,
}

impl CpuSpec {
    /// `count` vCPUs and no more.
    pub fn fixed(count: u32) -> Self {
        Self {
            count,
            max: count,
            topology: None,
            model: CpuModel::Default,
        }
    }
}
