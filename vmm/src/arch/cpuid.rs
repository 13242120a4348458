//! What the guest's CPUID instruction shows: host-passthrough, made fit for a guest.
//!
//! The table is computed once, at the first start, and is state from then on: a restored or migrated
//! machine is given the table it had. One template serves all vCPUs; [`Table::for_vcpu`] fills in
//! what differs between them. A bit that KVM does not offer is never set: the kernel knows what it
//! can keep, the processor does not.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};
use vmm_api::spec::{CpuModel, CpuSpec, CpuTopology};

/// Leaf 1 ECX: TSC deadline timer, hypervisor present. Leaf 1 EDX: hyper-threading.
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HTT: u32 = 1 << 28;
/// Leaf 0x80000007 EDX: the TSC never changes its rate; true only while the guest never moves.
const INVARIANT_TSC: u32 = 1 << 8;
/// Leaf 0x80000001 ECX: topology extensions, core performance counters; CMP legacy.
const TOPOEXT: u32 = 1 << 22;
const PERFCTR_CORE: u32 = 1 << 23;
const CMP_LEGACY: u32 = 1 << 1;
/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
const SUBLEAF_MATTERS: u32 = 1;

/// One leaf, or one subleaf where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX that selects it.
    pub leaf: u32,
    /// ECX that selects it.
    pub subleaf: u32,
    /// Whether ECX matters.
    pub indexed: bool,
    /// Answer.
    pub eax: u32,
    /// Answer.
    pub ebx: u32,
    /// Answer.
    pub ecx: u32,
    /// Answer.
    pub edx: u32,
}

/// The CPUID of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    leaves: Vec<Leaf>,
    topology: Shape,
}

/// The topology as APIC identifiers encode it: how many bits each level takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    threads: u32,
    cores: u32,
    dies: u32,
}

impl Shape {
    fn new(spec: &CpuSpec) -> Self {
        let topology = spec.topology.unwrap_or(CpuTopology {
            sockets: spec.max,
            dies: 1,
            cores: 1,
            threads: 1,
        });
        Self {
            threads: topology.threads.max(1),
            cores: topology.cores.max(1),
            dies: topology.dies.max(1),
        }
    }

    fn thread_bits(self) -> u32 {
        bits(self.threads)
    }

    fn core_bits(self) -> u32 {
        self.thread_bits() + bits(self.cores)
    }

    fn package_bits(self) -> u32 {
        self.core_bits() + bits(self.dies)
    }

    fn per_package(self) -> u32 {
        self.threads * self.cores * self.dies
    }

    /// The identifier of vCPU `index`; each level starts at a power of two (Intel SDM 3A §10.9).
    fn apic_id(self, index: u32) -> u32 {
        let thread = index % self.threads;
        let core = index / self.threads % self.cores;
        let die = index / (self.threads * self.cores) % self.dies;
        let package = index / self.per_package();
        thread
            | core << self.thread_bits()
            | die << self.core_bits()
            | package << self.package_bits()
    }
}

/// Bits that are needed to tell `count` things apart.
fn bits(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

/// The local APIC identifiers of all vCPUs that there can ever be, in vCPU order.
pub fn apic_ids(spec: &CpuSpec) -> Vec<u32> {
    let shape = Shape::new(spec);
    (0..spec.max).map(|index| shape.apic_id(index)).collect()
}

impl Table {
    /// The table of a machine with these vCPUs, from what KVM supports.
    pub fn new(supported: &[kvm_cpuid_entry2], spec: &CpuSpec, tsc_deadline: bool) -> Self {
        let migratable = !matches!(spec.model, CpuModel::HostPassthrough { migratable: false });
        let mut leaves: Vec<Leaf> = supported.iter().map(leaf_of).collect();
        for leaf in &mut leaves {
            adapt(leaf, tsc_deadline, migratable);
        }
        Self {
            leaves,
            topology: Shape::new(spec),
        }
    }

    /// What vCPU `index` shows.
    pub fn for_vcpu(&self, index: u32) -> Vec<kvm_cpuid_entry2> {
        let shape = self.topology;
        let apic_id = shape.apic_id(index);
        let mut leaves = Vec::with_capacity(self.leaves.len() + 8);
        for leaf in &self.leaves {
            match leaf.leaf {
                // Rebuilt below: a template knows nothing of our levels.
                0xb | 0x1f => {}
                _ => leaves.push(personal(*leaf, shape, apic_id)),
            }
        }
        for number in [0xb, 0x1f] {
            if self.leaves.iter().any(|leaf| leaf.leaf == number) {
                leaves.extend(topology_leaves(number, shape, apic_id));
            }
        }
        leaves.sort_by_key(|leaf| (leaf.leaf, leaf.subleaf));
        leaves.iter().map(entry_of).collect()
    }
}

fn leaf_of(entry: &kvm_cpuid_entry2) -> Leaf {
    Leaf {
        leaf: entry.function,
        subleaf: entry.index,
        indexed: entry.flags & SUBLEAF_MATTERS != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

fn entry_of(leaf: &Leaf) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: leaf.leaf,
        index: leaf.subleaf,
        flags: u32::from(leaf.indexed) * SUBLEAF_MATTERS,
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        ..Default::default()
    }
}

/// What is the same for all vCPUs.
fn adapt(leaf: &mut Leaf, tsc_deadline: bool, migratable: bool) {
    match leaf.leaf {
        1 => {
            leaf.ecx |= HYPERVISOR;
            if tsc_deadline {
                leaf.ecx |= TSC_DEADLINE;
            }
        }
        // No performance counters: their state does not travel with the guest.
        0xa => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        0x8000_0022 => (leaf.eax, leaf.ebx) = (0, 0),
        0x8000_0001 => leaf.ecx &= !PERFCTR_CORE,
        0x8000_0007 if migratable => leaf.edx &= !INVARIANT_TSC,
        // The hypervisor's highest leaf: the feature leaf behind the signature.
        0x4000_0000 => leaf.eax = leaf.eax.max(0x4000_0001),
        _ => {}
    }
}

/// What differs between vCPUs (Intel SDM 2A CPUID; AMD APM 3 appendix E).
fn personal(mut leaf: Leaf, shape: Shape, apic_id: u32) -> Leaf {
    let per_package = shape.per_package();
    match leaf.leaf {
        1 => {
            let count = (1u32 << (shape.package_bits().min(8))).min(255);
            leaf.ebx = (leaf.ebx & 0x0000_ffff) | count << 16 | (apic_id & 0xff) << 24;
            leaf.edx &= !HTT;
            if per_package > 1 {
                leaf.edx |= HTT;
            }
        }
        // Caches: the first two levels belong to a core, further ones to the package.
        4 if leaf.eax & 0x1f != 0 => {
            let level = leaf.eax >> 5 & 7;
            let (sharing, cores) = (
                sharing(shape, level),
                (1 << (shape.package_bits() - shape.thread_bits())) - 1,
            );
            leaf.eax = (leaf.eax & 0x3fff) | (sharing & 0xfff) << 14 | (cores & 0x3f) << 26;
        }
        0x8000_001d if leaf.eax & 0x1f != 0 => {
            let level = leaf.eax >> 5 & 7;
            leaf.eax = (leaf.eax & 0x3fff) | (sharing(shape, level) & 0xfff) << 14;
        }
        0x8000_0001 => {
            leaf.ecx &= !CMP_LEGACY;
            if per_package > 1 && leaf.ecx & TOPOEXT != 0 {
                leaf.ecx |= CMP_LEGACY;
            }
        }
        0x8000_0008 => {
            leaf.ecx = shape.package_bits() << 12 | per_package.saturating_sub(1) & 0xff;
        }
        0x8000_001e => {
            let core = apic_id >> shape.thread_bits() & 0xff;
            leaf.eax = apic_id;
            leaf.ebx = core | shape.threads.saturating_sub(1) << 8;
            leaf.ecx = apic_id >> shape.package_bits() & 0xff;
        }
        _ => {}
    }
    leaf
}

/// Highest identifier, relative to the first, that shares a cache of `level`.
fn sharing(shape: Shape, level: u32) -> u32 {
    let bits = if level <= 2 {
        shape.thread_bits()
    } else {
        shape.package_bits()
    };
    (1 << bits) - 1
}

/// Leaves 0xb and 0x1f: one subleaf per level, then an empty one.
fn topology_leaves(number: u32, shape: Shape, apic_id: u32) -> Vec<Leaf> {
    let mut levels = vec![(1, shape.thread_bits(), shape.threads)];
    if number == 0x1f && shape.dies > 1 {
        levels.push((2, shape.core_bits(), shape.threads * shape.cores));
        levels.push((5, shape.package_bits(), shape.per_package()));
    } else {
        levels.push((2, shape.package_bits(), shape.per_package()));
    }
    levels.push((0, 0, 0));
    (0u32..)
        .zip(levels)
        .map(|(subleaf, (kind, shift, count))| Leaf {
            leaf: number,
            subleaf,
            indexed: true,
            eax: shift,
            ebx: count & 0xffff,
            ecx: subleaf | kind << 8,
            edx: apic_id,
        })
        .collect()
}

#[cfg(test)]
mod tests;
