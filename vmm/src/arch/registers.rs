//! Register values that a vCPU starts with, for each boot protocol.
//!
//! An application processor gets none: it waits for its start-up interrupt in KVM's reset state.

use crate::boot::Entry;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// CR0.PE: protected mode.
const CR0_PE: u64 = 1 << 0;
/// CR0.ET: always set since the 80486.
const CR0_ET: u64 = 1 << 4;
/// CR0.PG: paging.
const CR0_PG: u64 = 1 << 31;
/// CR4.PAE: physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// EFER.LME: long mode enable.
const EFER_LME: u64 = 1 << 8;
/// EFER.LMA: long mode active.
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS: bit 1 is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

/// Segment types (Intel SDM 3A §3.4.5.1, §3.5).
const CODE_EXECUTE_READ_ACCESSED: u8 = 11;
const DATA_READ_WRITE_ACCESSED: u8 = 3;
const TSS_32_BUSY: u8 = 11;

/// Applies `entry` to the reset values of the boot vCPU.
pub fn boot_registers(entry: &Entry, sregs: &mut kvm_sregs) -> kvm_regs {
    match *entry {
        // These are the values of a new vCPU.
        Entry::Reset => reset(sregs),
        Entry::Pvh { entry, start_info } => {
            pvh(sregs);
            kvm_regs {
                rip: u64::from(entry),
                rbx: u64::from(start_info),
                rflags: RFLAGS,
                ..Default::default()
            }
        }
        Entry::Linux64 {
            entry,
            zero_page,
            page_tables,
            stack,
            gdt,
            gdt_limit,
        } => {
            linux64(sregs, page_tables, table(gdt, gdt_limit));
            kvm_regs {
                rip: entry,
                rsi: zero_page,
                rsp: stack,
                rflags: RFLAGS,
                ..Default::default()
            }
        }
    }
}

/// Intel SDM 3A table 10-1: CS points below 4 GiB with a 16-bit selector, until the first far jump.
fn reset(sregs: &mut kvm_sregs) -> kvm_regs {
    sregs.cs.selector = 0xf000;
    sregs.cs.base = 0xffff_0000;
    kvm_regs {
        rip: 0xfff0,
        rflags: RFLAGS,
        ..Default::default()
    }
}

fn pvh(sregs: &mut kvm_sregs) {
    let data = flat(0x10, DATA_READ_WRITE_ACCESSED, true, false);
    set_segments(
        sregs,
        flat(0x8, CODE_EXECUTE_READ_ACCESSED, true, false),
        data,
    );
    sregs.gdt = table(0, 0);
    sregs.idt = table(0, 0);
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

fn linux64(sregs: &mut kvm_sregs, page_tables: u64, gdt: kvm_dtable) {
    let data = flat(0x18, DATA_READ_WRITE_ACCESSED, true, false);
    set_segments(
        sregs,
        flat(0x10, CODE_EXECUTE_READ_ACCESSED, false, true),
        data,
    );
    sregs.gdt = gdt;
    sregs.idt = table(0, 0);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = page_tables;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

fn set_segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment {
        limit: 0x67,
        type_: TSS_32_BUSY,
        present: 1,
        ..Default::default()
    };
}

/// A segment from 0 to 4 GiB.
fn flat(selector: u16, type_: u8, default_32: bool, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(default_32),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn table(base: u64, limit: u16) -> kvm_dtable {
    kvm_dtable {
        base,
        limit,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvh_starts_in_flat_protected_mode() {
        let mut sregs = kvm_sregs {
            apic_base: 0xfee0_0900,
            ..Default::default()
        };
        let entry = Entry::Pvh {
            entry: 0x10_0000,
            start_info: 0x9000,
        };
        let regs = boot_registers(&entry, &mut sregs);
        assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x10_0000, 0x9000, 2));
        assert_eq!(sregs.cr0 & (CR0_PE | CR0_PG), CR0_PE);
        assert_eq!((sregs.cs.db, sregs.cs.l, sregs.cs.g), (1, 0, 1));
        assert_eq!(sregs.tr.limit, 0x67);
        assert_eq!(sregs.apic_base, 0xfee0_0900, "the APIC stays as it is");
    }

    #[test]
    fn linux_starts_in_long_mode() {
        let mut sregs = kvm_sregs::default();
        let entry = Entry::Linux64 {
            entry: 0x100_0200,
            zero_page: 0x8000,
            page_tables: 0x2000,
            stack: 0xd000,
            gdt: 0x1000,
            gdt_limit: 31,
        };
        let regs = boot_registers(&entry, &mut sregs);
        assert_eq!((regs.rip, regs.rsi, regs.rsp), (0x100_0200, 0x8000, 0xd000));
        assert_eq!(sregs.efer, EFER_LME | EFER_LMA);
        assert_eq!((sregs.cs.selector, sregs.cs.db, sregs.cs.l), (0x10, 0, 1));
        assert_eq!((sregs.ds.selector, sregs.gdt.base), (0x18, 0x1000));
        assert_eq!((sregs.cr3, sregs.cr4), (0x2000, CR4_PAE));
    }
}
