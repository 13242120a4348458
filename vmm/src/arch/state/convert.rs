//! Between KVM's structures and the plain form.

use super::{DebugRegisters, Events, Registers, Segment, SystemRegisters, TableRegister};
use kvm_bindings::{kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events};

impl From<&kvm_regs> for Registers {
    fn from(r: &kvm_regs) -> Self {
        Self {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            r8_15: [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15],
            rip: r.rip,
            rflags: r.rflags,
        }
    }
}

impl From<&Registers> for kvm_regs {
    fn from(r: &Registers) -> Self {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = r.r8_15;
        Self {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: r.rip,
            rflags: r.rflags,
        }
    }
}

/// Bit positions of [`Segment::rights`].
const FIELDS: [(u32, u32); 8] = [
    (0, 4),  // type
    (4, 1),  // S
    (5, 2),  // DPL
    (7, 1),  // P
    (12, 1), // AVL
    (13, 1), // L
    (14, 1), // D/B
    (15, 1), // G
];
const UNUSABLE: u32 = 1 << 16;

impl From<&kvm_segment> for Segment {
    fn from(s: &kvm_segment) -> Self {
        let parts = [s.type_, s.s, s.dpl, s.present, s.avl, s.l, s.db, s.g];
        let rights = FIELDS
            .iter()
            .zip(parts)
            .fold(0, |all, ((at, width), part)| {
                all | (u32::from(part) & ((1 << width) - 1)) << at
            });
        Self {
            base: s.base,
            limit: s.limit,
            selector: s.selector,
            rights: rights | if s.unusable != 0 { UNUSABLE } else { 0 },
        }
    }
}

impl From<&Segment> for kvm_segment {
    fn from(s: &Segment) -> Self {
        let [type_, system, dpl, present, avl, l, db, g] = FIELDS.map(|(at, width)| {
            u8::try_from(s.rights >> at & ((1 << width) - 1)).unwrap_or_default()
        });
        Self {
            base: s.base,
            limit: s.limit,
            selector: s.selector,
            type_,
            present,
            dpl,
            db,
            s: system,
            l,
            g,
            avl,
            unusable: u8::from(s.rights & UNUSABLE != 0),
            ..Default::default()
        }
    }
}

impl From<&kvm_dtable> for TableRegister {
    fn from(t: &kvm_dtable) -> Self {
        Self {
            base: t.base,
            limit: t.limit,
        }
    }
}

impl From<&TableRegister> for kvm_dtable {
    fn from(t: &TableRegister) -> Self {
        Self {
            base: t.base,
            limit: t.limit,
            ..Default::default()
        }
    }
}

impl From<&kvm_sregs> for SystemRegisters {
    fn from(s: &kvm_sregs) -> Self {
        Self {
            cs: (&s.cs).into(),
            ds: (&s.ds).into(),
            es: (&s.es).into(),
            fs: (&s.fs).into(),
            gs: (&s.gs).into(),
            ss: (&s.ss).into(),
            tr: (&s.tr).into(),
            ldt: (&s.ldt).into(),
            gdt: (&s.gdt).into(),
            idt: (&s.idt).into(),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
            interrupt_bitmap: s.interrupt_bitmap,
        }
    }
}

impl From<&SystemRegisters> for kvm_sregs {
    fn from(s: &SystemRegisters) -> Self {
        Self {
            cs: (&s.cs).into(),
            ds: (&s.ds).into(),
            es: (&s.es).into(),
            fs: (&s.fs).into(),
            gs: (&s.gs).into(),
            ss: (&s.ss).into(),
            tr: (&s.tr).into(),
            ldt: (&s.ldt).into(),
            gdt: (&s.gdt).into(),
            idt: (&s.idt).into(),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
            interrupt_bitmap: s.interrupt_bitmap,
        }
    }
}

impl From<&kvm_debugregs> for DebugRegisters {
    fn from(d: &kvm_debugregs) -> Self {
        Self {
            db: d.db,
            dr6: d.dr6,
            dr7: d.dr7,
        }
    }
}

impl From<&DebugRegisters> for kvm_debugregs {
    fn from(d: &DebugRegisters) -> Self {
        Self {
            db: d.db,
            dr6: d.dr6,
            dr7: d.dr7,
            ..Default::default()
        }
    }
}

impl From<&kvm_vcpu_events> for Events {
    fn from(e: &kvm_vcpu_events) -> Self {
        Self {
            exception_injected: e.exception.injected != 0,
            exception_pending: e.exception.pending != 0,
            exception_vector: e.exception.nr,
            exception_error_code: (e.exception.has_error_code != 0)
                .then_some(e.exception.error_code),
            exception_payload: (e.exception_has_payload != 0).then_some(e.exception_payload),
            interrupt_injected: e.interrupt.injected != 0,
            interrupt_vector: e.interrupt.nr,
            interrupt_soft: e.interrupt.soft != 0,
            interrupt_shadow: e.interrupt.shadow,
            nmi_injected: e.nmi.injected != 0,
            nmi_pending: e.nmi.pending != 0,
            nmi_masked: e.nmi.masked != 0,
            sipi_vector: e.sipi_vector,
            smm: e.smi.smm != 0,
            smi_pending: e.smi.pending != 0,
            smm_inside_nmi: e.smi.smm_inside_nmi != 0,
            latched_init: e.smi.latched_init != 0,
            triple_fault: e.triple_fault.pending != 0,
            flags: e.flags,
        }
    }
}

impl From<&Events> for kvm_vcpu_events {
    fn from(e: &Events) -> Self {
        let mut events = Self {
            sipi_vector: e.sipi_vector,
            flags: e.flags,
            exception_has_payload: u8::from(e.exception_payload.is_some()),
            exception_payload: e.exception_payload.unwrap_or_default(),
            ..Default::default()
        };
        events.exception.injected = e.exception_injected.into();
        events.exception.pending = e.exception_pending.into();
        events.exception.nr = e.exception_vector;
        events.exception.has_error_code = u8::from(e.exception_error_code.is_some());
        events.exception.error_code = e.exception_error_code.unwrap_or_default();
        events.interrupt.injected = e.interrupt_injected.into();
        events.interrupt.nr = e.interrupt_vector;
        events.interrupt.soft = e.interrupt_soft.into();
        events.interrupt.shadow = e.interrupt_shadow;
        events.nmi.injected = e.nmi_injected.into();
        events.nmi.pending = e.nmi_pending.into();
        events.nmi.masked = e.nmi_masked.into();
        events.smi.smm = e.smm.into();
        events.smi.pending = e.smi_pending.into();
        events.smi.smm_inside_nmi = e.smm_inside_nmi.into();
        events.smi.latched_init = e.latched_init.into();
        events.triple_fault.pending = e.triple_fault.into();
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_survive(base: u64, limit: u32, selector: u16, rights in 0u32..0x2_0000) {
            let rights = rights & !0xf00;
            let segment = Segment { base, limit, selector, rights };
            prop_assert_eq!(Segment::from(&kvm_segment::from(&segment)), segment);
        }

        #[test]
        fn registers_survive(values in prop::array::uniform18(any::<u64>())) {
            let regs = kvm_regs {
                rax: values[0], rbx: values[1], rcx: values[2], rdx: values[3], rsi: values[4],
                rdi: values[5], rsp: values[6], rbp: values[7], r8: values[8], r9: values[9],
                r10: values[10], r11: values[11], r12: values[12], r13: values[13],
                r14: values[14], r15: values[15], rip: values[16], rflags: values[17],
            };
            prop_assert_eq!(kvm_regs::from(&Registers::from(&regs)), regs);
        }
    }
}
