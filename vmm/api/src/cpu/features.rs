//! Where each named feature is shown: 32-bit words of CPUID answers, and one model-specific register.

/// Where a word of feature bits is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// A CPUID answer's EAX.
    Eax,
    /// A CPUID answer's EBX.
    Ebx,
    /// A CPUID answer's ECX.
    Ecx,
    /// A CPUID answer's EDX.
    Edx,
    /// IA32_ARCH_CAPABILITIES, MSR 0x10a, bits 31:0. KVM gives a guest the host's value, so its bits
    /// can be asked for and not taken away.
    ArchCapabilities,
}

/// 32 feature bits that are read together.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// EAX that selects it.
    pub leaf: u32,
    /// ECX that selects it, 0 where it does not matter.
    pub subleaf: u32,
    /// Which register.
    pub register: Register,
    /// Names in the order of bits; `-` for a bit without a name.
    pub names: &'static [&'static str],
}

/// One feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Feature {
    /// Index into [`WORDS`].
    pub(super) word: usize,
    /// 0 to 31.
    pub(super) bit: u32,
}

impl Feature {
    /// The feature with this name.
    pub fn named(name: &str) -> Option<Self> {
        if name == NO_NAME {
            return None;
        }
        WORDS.iter().enumerate().find_map(|(word, entry)| {
            let bit = entry.names.iter().position(|known| *known == name)?;
            let bit = u32::try_from(bit).ok()?;
            Some(Self { word, bit })
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let names = WORDS.get(self.word).map(|word| word.names);
        let bit = usize::try_from(self.bit).unwrap_or(usize::MAX);
        names.and_then(|names| names.get(bit)).unwrap_or(&NO_NAME)
    }

    /// Every feature that has a name.
    pub fn all() -> impl Iterator<Item = Self> {
        WORDS.iter().enumerate().flat_map(|(word, entry)| {
            (0u32..)
                .zip(entry.names)
                .filter(|(_, name)| **name != NO_NAME)
                .map(move |(bit, _)| Self { word, bit })
        })
    }

    /// Whether it lives in a register that KVM fills with the host's value.
    pub(super) fn is_fixed(self) -> bool {
        let word = WORDS.get(self.word);
        word.is_some_and(|word| word.register == Register::ArchCapabilities)
    }
}

/// What stands for a bit without a name.
const NO_NAME: &str = "-";

/// Whether this stands for a bit without a name. No name is as short.
pub(super) const fn is_no_name(name: &str) -> bool {
    name.len() == NO_NAME.len() && name.as_bytes()[0] == NO_NAME.as_bytes()[0]
}

const fn word(leaf: u32, subleaf: u32, register: Register, names: &'static [&'static str]) -> Word {
    Word {
        leaf,
        subleaf,
        register,
        names,
    }
}

/// How many words there are.
pub(super) const COUNT: usize = 18;
/// The index of KVM's own features (leaf 0x4000_0001): the hypervisor's, not the processor's.
pub(super) const PARAVIRTUAL: usize = 16;
/// The index of IA32_ARCH_CAPABILITIES.
pub(super) const FIXED: usize = 17;

/// Every word with named bits. Indices are used within this build only.
#[rustfmt::skip]
pub const WORDS: &[Word; COUNT] = &[
    word(1, 0, Register::Ecx, &[
        "pni", "pclmuldq", "dtes64", "monitor", "ds_cpl", "vmx", "smx", "est",
        "tm2", "ssse3", "cid", "sdbg", "fma", "cx16", "xtpr", "pdcm",
        "-", "pcid", "dca", "sse4.1", "sse4.2", "x2apic", "movbe", "popcnt",
        "tsc-deadline", "aes", "xsave", "osxsave", "avx", "f16c", "rdrand", "hypervisor",
    ]),
    word(1, 0, Register::Edx, &[
        "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce",
        "cx8", "apic", "-", "sep", "mtrr", "pge", "mca", "cmov",
        "pat", "pse36", "pn", "clflush", "-", "ds", "acpi", "mmx",
        "fxsr", "sse", "sse2", "ss", "ht", "tm", "ia64", "pbe",
    ]),
    word(6, 0, Register::Eax, &["-", "-", "arat"]),
    word(7, 0, Register::Ebx, &[
        "fsgsbase", "tsc_adjust", "sgx", "bmi1", "hle", "avx2", "fdp-excptn-only", "smep",
        "bmi2", "erms", "invpcid", "rtm", "cmt", "zero-fcs-fds", "mpx", "-",
        "avx512f", "avx512dq", "rdseed", "adx", "smap", "avx512ifma", "pcommit", "clflushopt",
        "clwb", "intel-pt", "avx512pf", "avx512er", "avx512cd", "sha-ni", "avx512bw", "avx512vl",
    ]),
    word(7, 0, Register::Ecx, &[
        "prefetchwt1", "avx512vbmi", "umip", "pku", "ospke", "waitpkg", "avx512vbmi2", "shstk",
        "gfni", "vaes", "vpclmulqdq", "avx512vnni", "avx512bitalg", "-", "avx512-vpopcntdq", "-",
        "la57", "-", "-", "-", "-", "-", "rdpid", "-",
        "bus-lock-detect", "cldemote", "-", "movdiri", "movdir64b", "-", "sgxlc", "pks",
    ]),
    word(7, 0, Register::Edx, &[
        "-", "-", "avx512-4vnniw", "avx512-4fmaps", "fsrm", "uintr", "-", "-",
        "avx512-vp2intersect", "-", "md-clear", "rtm-always-abort", "-", "-", "serialize", "-",
        "tsx-ldtrk", "-", "pconfig", "arch-lbr", "ibt", "-", "amx-bf16", "avx512-fp16",
        "amx-tile", "amx-int8", "spec-ctrl", "stibp", "flush-l1d", "arch-capabilities",
        "core-capability", "ssbd",
    ]),
    word(7, 1, Register::Eax, &[
        "sha512", "sm3", "sm4", "-", "avx-vnni", "avx512-bf16", "-", "cmpccxadd",
        "-", "-", "fzrm", "fsrs", "fsrc", "-", "-", "-",
        "-", "fred", "lkgs", "wrmsrns", "-", "amx-fp16", "-", "avx-ifma",
        "-", "-", "lam",
    ]),
    word(7, 1, Register::Edx, &[
        "-", "-", "-", "-", "avx-vnni-int8", "avx-ne-convert", "-", "-",
        "amx-complex", "-", "avx-vnni-int16", "-", "-", "-", "prefetchiti", "-",
        "-", "-", "-", "avx10",
    ]),
    word(7, 2, Register::Edx, &[
        "intel-psfd", "ipred-ctrl", "rrsba-ctrl", "ddpd-u", "bhi-ctrl", "mcdt-no",
    ]),
    word(0xd, 1, Register::Eax, &["xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"]),
    word(0x8000_0001, 0, Register::Ecx, &[
        "lahf_lm", "cmp_legacy", "svm", "extapic", "cr8legacy", "abm", "sse4a", "misalignsse",
        "3dnowprefetch", "osvw", "ibs", "xop", "skinit", "wdt", "-", "lwp",
        "fma4", "tce", "-", "nodeid_msr", "-", "tbm", "topoext", "perfctr_core",
        "perfctr_nb",
    ]),
    word(0x8000_0001, 0, Register::Edx, &[
        "-", "-", "-", "-", "-", "-", "-", "-",
        "-", "-", "-", "syscall", "-", "-", "-", "-",
        "-", "-", "-", "mp", "nx", "-", "mmxext", "-",
        "-", "fxsr_opt", "pdpe1gb", "rdtscp", "-", "lm", "3dnowext", "3dnow",
    ]),
    word(0x8000_0007, 0, Register::Edx, &["-", "-", "-", "-", "-", "-", "-", "-", "invtsc"]),
    word(0x8000_0008, 0, Register::Ebx, &[
        "clzero", "-", "xsaveerptr", "-", "-", "-", "-", "-",
        "-", "wbnoinvd", "-", "-", "ibpb", "-", "ibrs", "amd-stibp",
        "-", "stibp-always-on", "-", "-", "-", "-", "-", "-",
        "amd-ssbd", "virt-ssbd", "amd-no-ssb", "-", "amd-psfd",
    ]),
    word(0x8000_000a, 0, Register::Edx, &[
        "npt", "lbrv", "svm-lock", "nrip-save", "tsc-scale", "vmcb-clean", "flushbyasid",
        "decodeassists", "-", "-", "pause-filter", "-", "pfthreshold", "avic", "-",
        "v-vmsave-vmload", "vgif", "-", "-", "-", "-", "-", "-", "-", "-", "vnmi", "-", "-",
        "svme-addr-chk",
    ]),
    word(0x8000_0021, 0, Register::Eax, &[
        "no-nested-data-bp", "-", "lfence-always-serializing", "-", "-", "-",
        "null-sel-clr-base", "-", "auto-ibrs",
    ]),
    word(0x4000_0001, 0, Register::Eax, &[
        "kvmclock", "kvm_nopiodelay", "kvm_mmu", "-", "kvm_asyncpf", "kvm_steal_time",
        "kvm_pv_eoi", "kvm_pv_unhalt", "-", "kvm_pv_tlb_flush", "kvm_asyncpf_vmexit",
        "kvm_pv_ipi", "kvm_poll_control", "kvm_pv_sched_yield", "kvm_asyncpf_int",
        "kvm_msi_ext_dest_id",
    ]),
    word(0x10a, 0, Register::ArchCapabilities, &[
        "rdctl-no", "ibrs-all", "rsba", "skip-l1dfl-vmentry", "ssb-no", "mds-no",
        "pschange-mc-no", "tsx-ctrl", "taa-no", "-", "-", "-", "-", "sbdr-ssdp-no",
        "fbsdp-no", "psdp-no", "-", "fb-clear", "-", "-", "bhi-no", "-", "-", "-",
        "pbrsb-no", "-", "gds-no", "rfds-no",
    ]),
];

/// What a feature makes no sense without: one without its other half is never shown.
#[rustfmt::skip]
pub(super) const NEEDS: &[(&str, &str)] = &[
    ("sse", "fxsr"), ("sse2", "sse"), ("pni", "sse2"), ("ssse3", "pni"), ("sse4.1", "ssse3"),
    ("sse4.2", "sse4.1"), ("sse4a", "pni"), ("aes", "sse2"), ("pclmuldq", "sse2"),
    ("sha-ni", "sse2"), ("gfni", "sse2"),
    ("avx", "xsave"), ("xsaveopt", "xsave"), ("xsavec", "xsave"), ("xgetbv1", "xsave"),
    ("xsaves", "xsavec"), ("xfd", "xsave"), ("pku", "xsave"), ("mpx", "xsave"),
    ("fma", "avx"), ("f16c", "avx"), ("avx2", "avx"), ("xop", "avx"), ("fma4", "avx"),
    ("vaes", "avx"), ("vpclmulqdq", "avx"), ("avx-vnni", "avx2"), ("avx-ifma", "avx2"),
    ("avx-vnni-int8", "avx2"), ("avx-ne-convert", "avx2"), ("avx-vnni-int16", "avx2"),
    ("avx512f", "avx2"), ("avx512dq", "avx512f"), ("avx512ifma", "avx512f"),
    ("avx512pf", "avx512f"), ("avx512er", "avx512f"), ("avx512cd", "avx512f"),
    ("avx512bw", "avx512f"), ("avx512vl", "avx512f"), ("avx512vbmi", "avx512f"),
    ("avx512vbmi2", "avx512f"), ("avx512vnni", "avx512f"), ("avx512bitalg", "avx512f"),
    ("avx512-vpopcntdq", "avx512f"), ("avx512-4vnniw", "avx512f"),
    ("avx512-4fmaps", "avx512f"), ("avx512-vp2intersect", "avx512f"),
    ("avx512-bf16", "avx512vl"), ("avx512-fp16", "avx512bw"),
    ("amx-tile", "xsave"), ("amx-bf16", "amx-tile"), ("amx-int8", "amx-tile"),
    ("amx-fp16", "amx-tile"), ("amx-complex", "amx-tile"),
    ("rtm-always-abort", "rtm"), ("invpcid", "pcid"),
    ("npt", "svm"), ("lbrv", "svm"), ("nrip-save", "svm"), ("tsc-scale", "svm"),
    ("vmcb-clean", "svm"), ("flushbyasid", "svm"), ("decodeassists", "svm"),
    ("pause-filter", "svm"), ("pfthreshold", "svm"), ("avic", "svm"), ("vgif", "svm"),
    ("v-vmsave-vmload", "svm"), ("vnmi", "svm"), ("svme-addr-chk", "svm"), ("svm-lock", "svm"),
];
