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
    /// One of [`crate::cpu::MODELS`], and nothing beside it but what the rules add.
    Named {
        /// The model's name.
        name: String,
        /// Everything that the host has beyond the model, too (`match='minimum'`).
        #[serde(default)]
        beyond: bool,
    },
}

/// What is to happen to one feature; libvirt's `<feature policy=...>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeaturePolicy {
    /// Shown, also where the host lacks it; a bit that KVM does not offer is never shown, so it is
    /// refused like [`Self::Require`] there.
    Force,
    /// Shown, or the machine is refused.
    Require,
    /// Shown where the host has it.
    Optional,
    /// Not shown.
    Disable,
    /// Not shown, and a host that has it is refused.
    Forbid,
}

/// A rule for one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRule {
    /// libvirt's name, one of [`crate::cpu::Feature`].
    pub name: String,
    /// What is to happen to it.
    pub policy: FeaturePolicy,
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

    /// Bits that the threads of a core, the cores of a die and the dies of a package take in an
    /// APIC identifier: each level starts at a power of two (Intel SDM 3A §10.9).
    pub fn level_bits(&self) -> [u32; 3] {
        [self.threads, self.cores, self.dies].map(bits)
    }

    /// The APIC identifier of vCPU `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        let [threads, cores, dies] = [self.threads, self.cores, self.dies].map(|n| n.max(1));
        let [thread_bits, core_bits, die_bits] = self.level_bits();
        let per_die = threads.saturating_mul(cores).max(1);
        let thread = index % threads;
        let core = index / threads % cores;
        let die = index / per_die % dies;
        let package = index / per_die.saturating_mul(dies).max(1);
        let shifted = |value: u32, by: u32| value.checked_shl(by).unwrap_or(0);
        thread
            | shifted(core, thread_bits)
            | shifted(die, thread_bits + core_bits)
            | shifted(package, thread_bits + core_bits + die_bits)
    }

    /// The highest APIC identifier, which must not exceed [`MAX_APIC_ID`].
    pub fn highest_apic_id(&self) -> u32 {
        self.vcpus()
            .map_or(u32::MAX, |count| self.apic_id(count.saturating_sub(1)))
    }
}

/// Bits that are needed to tell `count` things apart.
fn bits(count: u32) -> u32 {
    count
        .max(1)
        .checked_next_power_of_two()
        .map_or(32, u32::trailing_zeros)
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
    /// Rules for single features, in order; a later one of the same feature wins.
    #[serde(default)]
    pub features: Vec<FeatureRule>,
    /// The twelve letters of the vendor that the guest reads; the host's when absent.
    #[serde(default)]
    pub vendor_id: Option<String>,
    /// Bits of a guest physical address; the host's when absent.
    #[serde(default)]
    pub physical_bits: Option<u8>,
}

/// Bits of an APIC identifier that there are: xAPIC identifiers are bytes, and 255 is everybody.
pub const MAX_APIC_ID: u32 = 254;

impl CpuSpec {
    /// `count` vCPUs and no more.
    pub fn fixed(count: u32) -> Self {
        Self {
            count,
            max: count,
            topology: None,
            model: CpuModel::Default,
            features: Vec::new(),
            vendor_id: None,
            physical_bits: None,
        }
    }
}
