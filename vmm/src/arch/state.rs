//! The state of a vCPU as plain data: what a snapshot holds.
//!
//! Field names are the processor's. Parts that a host lacks (XCRs, debug registers...) are `None`
//! there, and whoever restores on a host that lacks what was saved is told so.

mod convert;

use serde::{Deserialize, Serialize};

/// Payload version of the `vcpu` section.
pub const VCPU_VERSION: u32 = 1;

/// A model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Number.
    pub index: u32,
    /// Value.
    pub value: u64,
}

/// General registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    /// R8 to R15.
    pub r8_15: [u64; 8],
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Access rights as VMX packs them (Intel SDM 3C §25.4.1): type, S, DPL, P, AVL, L, D/B, G and
    /// the unusable bit.
    pub rights: u32,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Segment and control registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct SystemRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: TableRegister,
    pub idt: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
    /// Interrupts that were accepted and not yet delivered, one bit per vector.
    pub interrupt_bitmap: [u64; 4],
}

/// Debug registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct DebugRegisters {
    /// DR0 to DR3.
    pub db: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
}

/// Exceptions and interrupts on their way (KVM's `kvm_vcpu_events`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Events {
    pub exception_injected: bool,
    pub exception_pending: bool,
    pub exception_vector: u8,
    pub exception_error_code: Option<u32>,
    pub exception_payload: Option<u64>,
    pub interrupt_injected: bool,
    pub interrupt_vector: u8,
    pub interrupt_soft: bool,
    /// Blocking by STI (2) or MOV SS (1).
    pub interrupt_shadow: u8,
    pub nmi_injected: bool,
    pub nmi_pending: bool,
    pub nmi_masked: bool,
    pub sipi_vector: u32,
    pub smm: bool,
    pub smi_pending: bool,
    pub smm_inside_nmi: bool,
    pub latched_init: bool,
    pub triple_fault: bool,
    /// Which of the parts above are valid (KVM_VCPUEVENT_VALID_*).
    pub flags: u32,
}

/// Everything that makes up a vCPU besides its CPUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VcpuState {
    /// KVM_MP_STATE_*: runnable, halted, waiting for start-up...
    pub mp_state: u32,
    /// General registers.
    pub registers: Registers,
    /// Segment and control registers.
    pub system: SystemRegisters,
    /// XCR number and value.
    pub xcrs: Option<Vec<(u32, u64)>>,
    /// The XSAVE area as hexadecimal text.
    pub xsave: Option<String>,
    /// Debug registers.
    pub debug: Option<DebugRegisters>,
    /// The local APIC's register page as hexadecimal text.
    pub lapic: String,
    /// Model-specific registers.
    pub msrs: Vec<Msr>,
    /// Events on their way.
    pub events: Option<Events>,
    /// The TSC's frequency in kHz, where the host can tell.
    pub tsc_khz: Option<u32>,
    /// The vector of an external interrupt that the PIC has given and KVM has not yet taken.
    #[serde(default)]
    pub held_interrupt: Option<u8>,
}

/// Bytes as hexadecimal text.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ok = write!(text, "{byte:02x}");
    }
    text
}

/// Bytes from hexadecimal text; `None` when it is no such text.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hex_goes_both_ways(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _bytes = from_hex(&text);
        }
    }
}
