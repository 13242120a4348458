//! What the guest's CPUID instruction shows: what KVM offers, cut down to the features that
//! [`vmm_api::cpu::choose`] chose, and made fit for a guest.
//!
//! The table is computed once, at the first start, and is state from then on: a restored or migrated
//! machine is given the table it had. One template serves all vCPUs; [`Table::for_vcpu`] fills in
//! what differs between them. A bit that KVM does not offer is never set: the kernel knows what it
//! can keep, the processor does not.

mod model;

use crate::kvm::{KvmError, System};
use crate::sandbox;
use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use vmm_api::cpu::{self, HostCpu, Leaf, Trouble};
use vmm_api::spec::{CpuSpec, CpuTopology};

/// Leaf 1 EDX: hyper-threading.
const HTT: u32 = 1 << 28;
/// Leaf 0x80000001 ECX: topology extensions; CMP legacy.
const TOPOEXT: u32 = 1 << 22;
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 7 EDX: there is IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 1 << 29;
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
const SUBLEAF_MATTERS: u32 = 1;

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
        let topology = topology_of(spec);
        Self {
            threads: topology.threads.max(1),
            cores: topology.cores.max(1),
            dies: topology.dies.max(1),
        }
    }

    fn topology(self) -> CpuTopology {
        CpuTopology {
            sockets: 1,
            dies: self.dies,
            cores: self.cores,
            threads: self.threads,
        }
    }

    fn thread_bits(self) -> u32 {
        let [threads, _, _] = self.topology().level_bits();
        threads
    }

    fn core_bits(self) -> u32 {
        let [threads, cores, _] = self.topology().level_bits();
        threads + cores
    }

    fn package_bits(self) -> u32 {
        self.topology().level_bits().into_iter().sum()
    }

    fn per_package(self) -> u32 {
        self.threads * self.cores * self.dies
    }
}

/// One package per vCPU where the spec says nothing.
fn topology_of(spec: &CpuSpec) -> CpuTopology {
    spec.topology.unwrap_or(CpuTopology {
        sockets: spec.max,
        dies: 1,
        cores: 1,
        threads: 1,
    })
}

/// The local APIC identifiers of all vCPUs that there can ever be, in vCPU order.
pub fn apic_ids(spec: &CpuSpec) -> Vec<u32> {
    let topology = topology_of(spec);
    (0..spec.max).map(|index| topology.apic_id(index)).collect()
}

impl Table {
    /// The table of a machine with these vCPUs, from what KVM offers.
    ///
    /// # Errors
    /// What of the CPU cannot be had here.
    pub fn new(host: &HostCpu, spec: &CpuSpec) -> Result<Self, Vec<Trouble>> {
        let chosen = cpu::choose(spec, host)?;
        let offered = host.set();
        let mut leaves = host.leaves.clone();
        for leaf in &mut leaves {
            model::show(leaf, &chosen, &offered);
            adapt(leaf);
            model::label(leaf, spec);
        }
        model::cut_states(&mut leaves, &chosen);
        Ok(Self {
            leaves,
            topology: Shape::new(spec),
        })
    }

    /// What vCPU `index` shows.
    pub fn for_vcpu(&self, index: u32) -> Vec<kvm_cpuid_entry2> {
        let shape = self.topology;
        let apic_id = shape.topology().apic_id(index);
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

/// What KVM offers, as it is passed around.
pub fn host_cpu(system: &System) -> Result<HostCpu, KvmError> {
    let supported = system.supported_cpuid()?;
    let capabilities = system.capabilities();
    let leaves: Vec<Leaf> = supported.iter().map(leaf_of).collect();
    let has_register = leaves
        .iter()
        .any(|leaf| (leaf.leaf, leaf.subleaf) == (7, 0) && leaf.edx & ARCH_CAPABILITIES != 0);
    Ok(HostCpu {
        leaves,
        arch_capabilities: if has_register {
            system.feature_msr(IA32_ARCH_CAPABILITIES)
        } else {
            0
        },
        tsc_deadline: capabilities.tsc_deadline,
        max_vcpus: capabilities.max_vcpus,
    })
}

/// What KVM offers, for `vmm --cpuid-fd`: one [`HostCpu`] as JSON.
///
/// # Errors
/// What KVM would not do, in words.
pub fn report(fd: RawFd) -> Result<String, String> {
    let kvm = sandbox::take_one(fd).map_err(|error| error.to_string())?;
    let system = System::new(kvm).map_err(|error| error.to_string())?;
    let host = host_cpu(&system).map_err(|error| error.to_string())?;
    serde_json::to_string(&host).map_err(|error| error.to_string())
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

/// What is the same for all vCPUs, whatever was chosen.
fn adapt(leaf: &mut Leaf) {
    match leaf.leaf {
        // No performance counters: their state does not travel with the guest.
        0xa => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        0x8000_0022 => (leaf.eax, leaf.ebx) = (0, 0),
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
