//! Our baselines: named models as sets of features, each written as what it adds to another.
//!
//! A baseline says what the processors of that name have in common, less what no guest of ours can
//! use: VMX and SVM, MONITOR, the performance counters, AMX (its state needs a permission that the
//! `vmm` does not ask for), MPX (processors lost it again), and the bits of IA32_ARCH_CAPABILITIES,
//! which KVM gives as the host has them. A model that was released never changes: another set gets
//! another name.

use super::features::Feature;
use super::{Set, Vendor};

/// A named model.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Its name in definitions.
    pub name: &'static str,
    /// Who makes such processors; nobody in particular for the levels.
    pub vendor: Option<Vendor>,
    /// Family as people write it.
    pub family: u32,
    /// Model as people write it.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// The model that it adds to, from further up in the list.
    base: Option<&'static str>,
    /// Names of features, separated by spaces.
    adds: &'static str,
    /// Names of features of the base that it lacks.
    lacks: &'static str,
}

impl Model {
    /// Its features.
    pub fn set(&self) -> Set {
        let mut set = self
            .base
            .and_then(find_model)
            .map_or_else(Set::default, Self::set);
        for feature in self.adds.split(' ').filter_map(Feature::named) {
            set.insert(feature);
        }
        for feature in self.lacks.split(' ').filter_map(Feature::named) {
            set.remove(feature);
        }
        set
    }

    /// Words of its own that name nothing; empty in a right table.
    #[cfg(test)]
    pub(super) fn unknown(&self) -> Vec<&'static str> {
        let words = self.adds.split(' ').chain(self.lacks.split(' '));
        let words = words.chain(self.base.filter(|base| find_model(base).is_none()));
        words
            .filter(|word| !word.is_empty() && Feature::named(word).is_none())
            .collect()
    }

    /// Leaf 1 EAX: type, family, model and stepping (Intel SDM 2A, CPUID, figure 3-6).
    pub fn signature(&self) -> u32 {
        let (family, extended) = match self.family.checked_sub(0xf) {
            Some(extended) => (0xf, extended),
            None => (self.family, 0),
        };
        extended << 20
            | (self.model >> 4 & 0xf) << 16
            | family << 8
            | (self.model & 0xf) << 4
            | self.stepping & 0xf
    }

    /// What the guest reads as the name of its processor, at most 47 bytes.
    pub fn brand(&self) -> String {
        match self.vendor {
            None => format!("Virtual Processor ({})", self.name),
            Some(vendor) => format!("{} Processor ({})", vendor.as_str(), self.name),
        }
    }

    /// Whether a processor of this maker may be called so.
    pub fn suits(&self, vendor: Option<Vendor>) -> bool {
        self.vendor.is_none() || vendor.is_none() || self.vendor == vendor
    }
}

/// The model with this name; libvirt's versioned names included where there is one set only.
pub fn find_model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// The model that says most of `set` and nothing beyond it.
pub fn closest(set: &Set, vendor: Option<Vendor>) -> Option<&'static Model> {
    MODELS
        .iter()
        .filter(|model| model.suits(vendor) && model.set().is_within(set))
        // A maker's own name wins over a level that says as much.
        .max_by_key(|model| (model.set().count(), model.vendor == vendor))
}

/// The model that differs least from `set`, one way or the other: what a host is called whose KVM
/// hides a little of its processor.
pub fn nearest(set: &Set, vendor: Option<Vendor>) -> Option<&'static Model> {
    let difference = |model: &Model| {
        let model = model.set();
        set.minus(&model).count() + model.minus(set).count()
    };
    MODELS
        .iter()
        .filter(|model| model.suits(vendor))
        .min_by_key(|model| (difference(model), model.vendor != vendor))
}

/// A model that adds to another.
const fn on(
    name: &'static str,
    vendor: Vendor,
    signature: (u32, u32, u32),
    base: &'static str,
    adds: &'static str,
) -> Model {
    Model {
        name,
        vendor: Some(vendor),
        family: signature.0,
        model: signature.1,
        stepping: signature.2,
        base: Some(base),
        adds,
        lacks: "",
    }
}

/// A model without some of what another has.
const fn without(
    name: &'static str,
    signature: (u32, u32, u32),
    base: &'static str,
    lacks: &'static str,
) -> Model {
    Model {
        lacks,
        ..on(name, Intel, signature, base, "")
    }
}

/// A level of the x86-64 psABI, or a start for others.
const fn level(name: &'static str, base: Option<&'static str>, adds: &'static str) -> Model {
    Model {
        name,
        vendor: None,
        // What KVM's guests were first told; every system knows it, on Intel and on AMD.
        family: 15,
        model: 6,
        stepping: 1,
        base,
        adds,
        lacks: "",
    }
}

use Vendor::{Amd, Hygon, Intel};

const TSX: &str = "hle rtm";

/// Every model, older ones before those that add to them.
#[rustfmt::skip]
pub const MODELS: &[Model] = &[
    level("x86-64-v1", None,
        "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr \
         sse sse2 syscall nx lm"),
    level("x86-64-v2", Some("x86-64-v1"), "cx16 lahf_lm popcnt pni ssse3 sse4.1 sse4.2"),
    level("x86-64-v3", Some("x86-64-v2"),
        "xsave avx avx2 bmi1 bmi2 f16c fma abm movbe"),
    level("x86-64-v4", Some("x86-64-v3"), "avx512f avx512bw avx512cd avx512dq avx512vl"),

    on("Conroe", Intel, (6, 15, 3), "x86-64-v1", "pni ssse3 lahf_lm"),
    on("core2duo", Intel, (6, 15, 11), "Conroe", "vme"),
    on("Penryn", Intel, (6, 23, 3), "Conroe", "cx16 sse4.1"),
    on("Nehalem", Intel, (6, 26, 3), "Penryn", "sse4.2 popcnt"),
    on("Nehalem-IBRS", Intel, (6, 26, 3), "Nehalem", "spec-ctrl"),
    on("Westmere", Intel, (6, 44, 1), "Nehalem", "aes pclmuldq"),
    on("Westmere-IBRS", Intel, (6, 44, 1), "Westmere", "spec-ctrl"),
    on("SandyBridge", Intel, (6, 42, 1), "Westmere",
        "avx rdtscp tsc-deadline x2apic xsave xsaveopt"),
    on("SandyBridge-IBRS", Intel, (6, 42, 1), "SandyBridge", "spec-ctrl"),
    on("IvyBridge", Intel, (6, 58, 9), "SandyBridge", "erms f16c fsgsbase rdrand smep vme"),
    on("IvyBridge-IBRS", Intel, (6, 58, 9), "IvyBridge", "spec-ctrl"),
    on("Haswell-noTSX", Intel, (6, 60, 1), "IvyBridge",
        "abm avx2 bmi1 bmi2 fma invpcid movbe pcid"),
    on("Haswell-noTSX-IBRS", Intel, (6, 60, 1), "Haswell-noTSX", "spec-ctrl"),
    on("Haswell", Intel, (6, 60, 4), "Haswell-noTSX", TSX),
    on("Haswell-IBRS", Intel, (6, 60, 4), "Haswell", "spec-ctrl"),
    on("Broadwell-noTSX", Intel, (6, 61, 2), "Haswell-noTSX", "3dnowprefetch adx rdseed smap"),
    on("Broadwell-noTSX-IBRS", Intel, (6, 61, 2), "Broadwell-noTSX", "spec-ctrl"),
    on("Broadwell", Intel, (6, 61, 2), "Broadwell-noTSX", TSX),
    on("Broadwell-IBRS", Intel, (6, 61, 2), "Broadwell", "spec-ctrl"),
    on("Skylake-Client-noTSX-IBRS", Intel, (6, 94, 3), "Broadwell-noTSX",
        "arat xgetbv1 xsavec spec-ctrl"),
    on("Skylake-Client", Intel, (6, 94, 3), "Broadwell", "arat xgetbv1 xsavec"),
    on("Skylake-Client-IBRS", Intel, (6, 94, 3), "Skylake-Client", "spec-ctrl"),
    on("Skylake-Server", Intel, (6, 85, 4), "Skylake-Client",
        "avx512f avx512dq avx512cd avx512bw avx512vl clflushopt clwb pdpe1gb pku"),
    on("Skylake-Server-IBRS", Intel, (6, 85, 4), "Skylake-Server", "spec-ctrl"),
    without("Skylake-Server-noTSX-IBRS", (6, 85, 4), "Skylake-Server-IBRS", TSX),
    on("Cascadelake-Server", Intel, (6, 85, 6), "Skylake-Server-IBRS", "avx512vnni ssbd"),
    without("Cascadelake-Server-noTSX", (6, 85, 6), "Cascadelake-Server", TSX),
    on("Cooperlake", Intel, (6, 85, 10), "Cascadelake-Server",
        "arch-capabilities avx512-bf16 stibp"),
    on("Icelake-Client-noTSX", Intel, (6, 126, 0), "Skylake-Client-noTSX-IBRS",
        "avx512-vpopcntdq avx512bitalg avx512f avx512bw avx512cd avx512dq avx512vl avx512vbmi \
         avx512vbmi2 avx512vnni clflushopt gfni pku ssbd umip vaes vpclmulqdq wbnoinvd"),
    on("Icelake-Server-noTSX", Intel, (6, 134, 0), "Cascadelake-Server-noTSX",
        "avx512-vpopcntdq avx512bitalg avx512vbmi avx512vbmi2 gfni la57 umip vaes vpclmulqdq \
         wbnoinvd"),
    on("Icelake-Server", Intel, (6, 134, 0), "Icelake-Server-noTSX", TSX),
    on("SapphireRapids", Intel, (6, 143, 4), "Icelake-Server",
        "arch-capabilities avx-vnni avx512-bf16 avx512-fp16 avx512ifma fsrm fsrs fzrm rdpid \
         serialize sha-ni tsx-ldtrk xsaves"),
    on("Denverton", Intel, (6, 95, 1), "Nehalem-IBRS",
        "3dnowprefetch aes arat arch-capabilities clflushopt erms fsgsbase movbe pclmuldq \
         pdpe1gb rdrand rdseed rdtscp sha-ni smap smep ssbd tsc-deadline vme x2apic xgetbv1 \
         xsave xsavec xsaveopt"),
    on("Snowridge", Intel, (6, 134, 1), "Denverton",
        "clwb cldemote gfni movdir64b movdiri umip xsaves"),

    on("Opteron_G1", Amd, (15, 6, 1), "x86-64-v1", "pni"),
    on("Opteron_G2", Amd, (15, 6, 1), "Opteron_G1", "cx16 lahf_lm"),
    on("Opteron_G3", Amd, (16, 2, 3), "Opteron_G2", "abm misalignsse popcnt sse4a"),
    on("Opteron_G4", Amd, (21, 1, 2), "Opteron_G3",
        "3dnowprefetch aes avx fma4 pclmuldq pdpe1gb rdtscp sse4.1 sse4.2 ssse3 xop xsave"),
    on("Opteron_G5", Amd, (21, 2, 0), "Opteron_G4", "f16c fma tbm"),
    on("EPYC", Amd, (23, 1, 2), "Opteron_G3",
        "3dnowprefetch adx aes arat avx avx2 bmi1 bmi2 clflushopt cr8legacy f16c fma fsgsbase \
         fxsr_opt mmxext movbe osvw pclmuldq pdpe1gb rdrand rdseed rdtscp sha-ni smap smep \
         sse4.1 sse4.2 ssse3 vme xgetbv1 xsave xsavec xsaveopt"),
    on("EPYC-IBPB", Amd, (23, 1, 2), "EPYC", "ibpb"),
    on("EPYC-Rome", Amd, (23, 49, 0), "EPYC-IBPB",
        "amd-stibp clwb clzero rdpid topoext umip wbnoinvd xsaveerptr xsaves"),
    on("EPYC-Milan", Amd, (25, 1, 1), "EPYC-Rome",
        "amd-ssbd erms fsrm ibrs invpcid pcid pku"),
    on("EPYC-Genoa", Amd, (25, 17, 0), "EPYC-Milan",
        "amd-psfd auto-ibrs avx512-bf16 avx512-vpopcntdq avx512bitalg avx512bw avx512cd avx512dq \
         avx512f avx512ifma avx512vbmi avx512vbmi2 avx512vl avx512vnni gfni la57 \
         lfence-always-serializing no-nested-data-bp null-sel-clr-base stibp-always-on vaes \
         vpclmulqdq"),
    Model { lacks: "sha-ni", ..on("Dhyana", Hygon, (24, 0, 1), "EPYC-IBPB", "") },
];
