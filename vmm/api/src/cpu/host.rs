//! What a host's KVM can show a guest: the answer of `vmm --cpuid-fd`.

use super::features::Register;
use super::{Feature, Set};
use serde::{Deserialize, Serialize};

/// One CPUID leaf, or one subleaf where they differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Leaf {
    /// One register of the answer; 0 for what is no part of it.
    pub fn register(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
            Register::ArchCapabilities => 0,
        }
    }

    /// Changes one register of the answer.
    pub fn set_register(&mut self, register: Register, value: u32) {
        match register {
            Register::Eax => self.eax = value,
            Register::Ebx => self.ebx = value,
            Register::Ecx => self.ecx = value,
            Register::Edx => self.edx = value,
            Register::ArchCapabilities => {}
        }
    }
}

/// Makers of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD.
    #[serde(rename = "AMD")]
    Amd,
    /// HygonGenuine.
    Hygon,
}

impl Vendor {
    /// libvirt's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intel => "Intel",
            Self::Amd => "AMD",
            Self::Hygon => "Hygon",
        }
    }

    /// The vendor with libvirt's name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Intel, Self::Amd, Self::Hygon]
            .into_iter()
            .find(|vendor| vendor.as_str() == name)
    }

    /// The vendor of the twelve letters that leaf 0 shows.
    pub fn of_letters(letters: &str) -> Option<Self> {
        match letters {
            "GenuineIntel" => Some(Self::Intel),
            "AuthenticAMD" => Some(Self::Amd),
            "HygonGenuine" => Some(Self::Hygon),
            _ => None,
        }
    }
}

/// What a host's KVM can show a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCpu {
    /// KVM_GET_SUPPORTED_CPUID.
    pub leaves: Vec<Leaf>,
    /// IA32_ARCH_CAPABILITIES as KVM gives it to guests; 0 without.
    #[serde(default)]
    pub arch_capabilities: u64,
    /// The local APIC timer has a TSC deadline mode, which the leaves do not tell.
    #[serde(default)]
    pub tsc_deadline: bool,
    /// Most vCPUs of a machine.
    #[serde(default)]
    pub max_vcpus: u32,
}

impl HostCpu {
    /// The answer for a leaf and subleaf.
    pub fn leaf(&self, leaf: u32, subleaf: u32) -> Option<&Leaf> {
        self.leaves
            .iter()
            .find(|entry| entry.leaf == leaf && (entry.subleaf == subleaf || !entry.indexed))
    }

    /// Every named feature that a guest can be shown.
    pub fn set(&self) -> Set {
        let mut set = Set::read(|leaf, subleaf, register| match register {
            // Truncation is meant: the word is the lower half.
            #[allow(clippy::cast_possible_truncation)]
            Register::ArchCapabilities => self.arch_capabilities as u32,
            _ => self
                .leaf(leaf, subleaf)
                .map_or(0, |entry| entry.register(register)),
        });
        // KVM shows these although its list of supported bits does not say so.
        for (name, there) in [
            ("hypervisor", true),
            ("tsc-deadline", self.tsc_deadline),
            // Ours to say: it follows from the topology.
            ("ht", false),
            ("cmp_legacy", false),
            // What the processor shows of what the guest has turned on.
            ("osxsave", false),
            ("ospke", false),
            // Their state does not travel with a guest, so no guest has them.
            ("perfctr_core", false),
            ("perfctr_nb", false),
        ] {
            if let Some(feature) = Feature::named(name) {
                if there {
                    set.insert(feature);
                } else {
                    set.remove(feature);
                }
            }
        }
        if !set.has("arch-capabilities") {
            set = set.minus(&Set::fixed());
        }
        set
    }

    /// The twelve letters of leaf 0.
    pub fn vendor_letters(&self) -> String {
        let Some(leaf) = self.leaf(0, 0) else {
            return String::new();
        };
        let bytes: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Who made it, when it is one of those that we know.
    pub fn vendor(&self) -> Option<Vendor> {
        Vendor::of_letters(&self.vendor_letters())
    }

    /// Bits of a guest physical address; 36 where the processor does not tell.
    pub fn physical_bits(&self) -> u8 {
        let bits = self.leaf(0x8000_0008, 0).map_or(36, |leaf| leaf.eax & 0xff);
        u8::try_from(bits).unwrap_or(36)
    }

    /// Family, model and stepping (leaf 1 EAX).
    pub fn signature(&self) -> (u32, u32, u32) {
        let eax = self.leaf(1, 0).map_or(0, |leaf| leaf.eax);
        let (family, model) = (eax >> 8 & 0xf, eax >> 4 & 0xf);
        let extended = if family == 0xf { eax >> 20 & 0xff } else { 0 };
        let high = if family == 0xf || family == 6 {
            eax >> 16 & 0xf
        } else {
            0
        };
        (family + extended, high << 4 | model, eax & 0xf)
    }

    /// A host that offers just this set, for tests and for guests without KVM.
    pub fn made_of(set: &Set, letters: [u8; 12], eax: u32) -> Self {
        let part = |at: usize| {
            let bytes = letters.get(at..at + 4).unwrap_or(&[0; 4]);
            u32::from_le_bytes(bytes.try_into().unwrap_or_default())
        };
        let mut leaves: Vec<Leaf> = Vec::new();
        for (leaf, indexed) in [0, 1, 6, 0x4000_0000, 0x8000_0000].map(|leaf| (leaf, false)) {
            leaves.push(Leaf {
                leaf,
                indexed,
                ..Leaf::default()
            });
        }
        for word in super::WORDS {
            let bits = set.word(word.leaf, word.subleaf, word.register);
            if word.register == Register::ArchCapabilities {
                continue;
            }
            let same = |entry: &&mut Leaf| (entry.leaf, entry.subleaf) == (word.leaf, word.subleaf);
            let entry = match leaves.iter_mut().find(same) {
                Some(entry) => entry,
                None => {
                    leaves.push(Leaf {
                        leaf: word.leaf,
                        subleaf: word.subleaf,
                        indexed: matches!(word.leaf, 7 | 0xd),
                        ..Leaf::default()
                    });
                    let Some(entry) = leaves.last_mut() else {
                        continue;
                    };
                    entry
                }
            };
            entry.set_register(word.register, bits.unwrap_or(0));
        }
        for entry in &mut leaves {
            match entry.leaf {
                0 => entry.eax = 0x1f,
                1 => entry.eax = eax,
                0x8000_0000 => entry.eax = 0x8000_0021,
                0x8000_0008 => entry.eax = 0x3028,
                _ => {}
            }
            if matches!(entry.leaf, 0 | 0x8000_0000) {
                (entry.ebx, entry.edx, entry.ecx) = (part(0), part(4), part(8));
            }
        }
        let fixed = set.word(0x10a, 0, Register::ArchCapabilities);
        Self {
            leaves,
            arch_capabilities: u64::from(fixed.unwrap_or(0)),
            tsc_deadline: set.has("tsc-deadline"),
            max_vcpus: 1024,
        }
    }
}
