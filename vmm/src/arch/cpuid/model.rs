//! A leaf cut down to what was chosen for the guest. Bits are only ever taken away from what KVM
//! offers, but for the two that KVM has and does not list (hypervisor, TSC deadline timer).

use vmm_api::cpu::{self, Chosen, Leaf, Model, Register, Set, WORDS};
use vmm_api::spec::{CpuModel, CpuSpec};

/// Leaf 0x80000001 EDX on AMD: the bits of leaf 1 EDX once more (AMD APM 3, E.4.2).
const ALIASES: u32 = 0x0183_f3ff;
/// Bits of XCR0 and IA32_XSS with the features that they belong to (Intel SDM 1 §13.1).
const STATES: [(u32, &str); 8] = [
    (2, "avx"),
    (3, "mpx"),
    (4, "mpx"),
    (5, "avx512f"),
    (6, "avx512f"),
    (7, "avx512f"),
    (9, "pku"),
    (17, "amx-tile"),
];

/// Shows what was chosen of a leaf.
pub(super) fn show(leaf: &mut Leaf, chosen: &Chosen, offered: &Set) {
    for word in WORDS {
        if (word.leaf, word.subleaf) != (leaf.leaf, leaf.subleaf) {
            continue;
        }
        let named = |set: &Set| set.word(word.leaf, word.subleaf, word.register);
        let shown = named(&chosen.set).unwrap_or(0);
        let known = named(offered).unwrap_or(0);
        let value = leaf.register(word.register);
        let cut = if keeps_the_rest(word.leaf, word.register) || !chosen.exact {
            // Bits without a name stay as KVM gives them.
            let named = named(&Set::every()).unwrap_or(0);
            value & !named | shown
        } else {
            shown
        };
        // Nothing that is not offered.
        let cut = cut & (value | known);
        leaf.set_register(word.register, cut);
    }
    if leaf.leaf == 0x8000_0001 {
        let first = chosen.set.word(1, 0, Register::Edx).unwrap_or(0);
        let hidden = ALIASES & !first;
        leaf.edx &= !hidden;
    }
    hide_leaves(leaf, chosen);
}

/// Words with bits of KVM's own, and with AMD's aliases, which follow leaf 1.
fn keeps_the_rest(leaf: u32, register: Register) -> bool {
    matches!(
        (leaf, register),
        (0x4000_0001, Register::Eax) | (0x8000_0001, Register::Edx)
    )
}

/// Whole leaves that describe a feature are empty without it.
fn hide_leaves(leaf: &mut Leaf, chosen: &Chosen) {
    let of = match leaf.leaf {
        0xd => "xsave",
        0x12 => "sgx",
        0x14 => "intel-pt",
        0x1d | 0x1e => "amx-tile",
        0x8000_000a => "svm",
        _ => return,
    };
    if !chosen.set.has(of) {
        (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
    }
}

/// Takes away the parts of the XSAVE area that belong to what was not chosen, and makes the area as
/// small as it then is (Intel SDM 1 §13.2).
pub(super) fn cut_states(leaves: &mut [Leaf], chosen: &Chosen) {
    let hidden = STATES
        .iter()
        .filter(|(_, feature)| !chosen.set.has(feature))
        .fold(0u32, |mask, (bit, _)| mask | 1 << bit);
    let xsaves = chosen.set.has("xsaves");
    // AMX has two components; the second goes with the first.
    let hidden = hidden | (hidden & 1 << 17) << 1;
    for leaf in leaves.iter_mut().filter(|leaf| leaf.leaf == 0xd) {
        match leaf.subleaf {
            0 => leaf.eax &= !hidden,
            1 => {
                if !xsaves {
                    (leaf.ecx, leaf.edx) = (0, 0);
                }
            }
            bit => {
                let gone = bit < 32 && hidden >> bit & 1 != 0;
                // ECX bit 0: the component is managed through IA32_XSS.
                if gone || leaf.ecx & 1 != 0 && !xsaves {
                    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0);
                }
            }
        }
    }
    let enabled = leaves
        .iter()
        .find(|leaf| (leaf.leaf, leaf.subleaf) == (0xd, 0))
        .map_or(0, |leaf| leaf.eax);
    // The legacy area and the header, then every component at its offset.
    let size = leaves
        .iter()
        .filter(|leaf| leaf.leaf == 0xd && (2..32).contains(&leaf.subleaf))
        .filter(|leaf| enabled >> leaf.subleaf & 1 != 0)
        .map(|leaf| leaf.ebx.saturating_add(leaf.eax))
        .fold(512 + 64, u32::max);
    for leaf in leaves.iter_mut() {
        if (leaf.leaf, leaf.subleaf) == (0xd, 0) && leaf.eax != 0 {
            leaf.ecx = leaf.ecx.min(size);
            leaf.ebx = leaf.ebx.min(size);
        }
    }
}

/// Name, signature, vendor and address width, as far as the spec chooses them.
pub(super) fn label(leaf: &mut Leaf, spec: &CpuSpec) {
    let model = match &spec.model {
        CpuModel::Named { name, .. } => cpu::find_model(name),
        CpuModel::HostPassthrough { .. } | CpuModel::Default => None,
    };
    if let Some(model) = model {
        label_model(leaf, model);
    }
    if let Some(letters) = &spec.vendor_id
        && matches!(leaf.leaf, 0 | 0x8000_0000)
    {
        (leaf.ebx, leaf.edx, leaf.ecx) = (
            letters_at(letters, 0),
            letters_at(letters, 4),
            letters_at(letters, 8),
        );
    }
    if let Some(bits) = spec.physical_bits
        && leaf.leaf == 0x8000_0008
    {
        leaf.eax = leaf.eax & !0xff | u32::from(bits);
    }
}

fn label_model(leaf: &mut Leaf, model: &Model) {
    match leaf.leaf {
        1 => leaf.eax = model.signature(),
        // AMD repeats the signature here, Intel has nothing.
        0x8000_0001 if leaf.eax != 0 => leaf.eax = model.signature(),
        0x8000_0002..=0x8000_0004 => {
            let brand = model.brand();
            let at = usize::try_from(leaf.leaf - 0x8000_0002).unwrap_or(0) * 16;
            leaf.eax = letters_at(&brand, at);
            leaf.ebx = letters_at(&brand, at + 4);
            leaf.ecx = letters_at(&brand, at + 8);
            leaf.edx = letters_at(&brand, at + 12);
        }
        _ => {}
    }
}

/// Four letters as a register; zeroes behind the end.
fn letters_at(text: &str, at: usize) -> u32 {
    let mut bytes = [0; 4];
    for (byte, letter) in bytes.iter_mut().zip(text.bytes().skip(at)) {
        *byte = letter;
    }
    u32::from_le_bytes(bytes)
}
