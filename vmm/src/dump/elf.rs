//! The headers and notes of an ELF core file, as bytes. Pure: it knows no machine and no file.
//!
//! ELF-64 (System V ABI, AMD64 supplement), a core file with one PT_NOTE and a PT_LOAD per region of RAM.
//! Notes: for each vCPU `CORE`/NT_PRSTATUS with its general registers, as Linux writes them, then for each
//! vCPU `QEMU` with its system registers, as analysis tools for guest dumps expect them.

use crate::arch::state::{Segment, SystemRegisters, TableRegister, VcpuState};

/// Bytes of the file header and of one program header.
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
/// RAM begins at a multiple of this.
pub(super) const ALIGNMENT: u64 = 4096;

const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_PRSTATUS: u32 = 1;
/// Bytes of Linux's `struct elf_prstatus` and where its registers begin.
const PRSTATUS: usize = 336;
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGISTERS: usize = 112;
/// Bytes of the system note and its version.
const SYSTEM: usize = 440;
const SYSTEM_VERSION: u32 = 1;
/// MSR_KERNEL_GS_BASE (Intel SDM 4 §2.1).
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// A region of RAM and its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Guest physical address.
    pub(super) start: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Offset in the file.
    pub(super) offset: u64,
}

/// Everything in front of RAM, and where each region goes.
#[derive(Debug)]
pub(super) struct Layout {
    /// Headers and notes.
    pub(super) head: Vec<u8>,
    /// The regions.
    pub(super) loads: Vec<Load>,
}

impl Layout {
    /// Bytes of the whole file.
    pub(super) fn length(&self) -> u64 {
        let end = self.loads.last().map(|load| load.offset + load.length);
        end.unwrap_or(self.head.len() as u64)
    }
}

/// Lays out a core of `regions` (start, length) and `vcpus`.
pub(super) fn layout(regions: &[(u64, u64)], vcpus: &[VcpuState]) -> Layout {
    let notes = notes(vcpus);
    let note_offset = HEADER + PROGRAM_HEADER * (1 + regions.len() as u64);
    let mut at = note_offset + notes.len() as u64;
    let loads: Vec<Load> = regions
        .iter()
        .map(|(start, length)| {
            let offset = at.next_multiple_of(ALIGNMENT);
            at = offset + length;
            Load {
                start: *start,
                length: *length,
                offset,
            }
        })
        .collect();
    let mut out = Bytes::default();
    file_header(&mut out, loads.len());
    out.program_header(PT_NOTE, note_offset, 0, notes.len() as u64);
    for load in &loads {
        out.program_header(PT_LOAD, load.offset, load.start, load.length);
    }
    out.raw(&notes);
    Layout { head: out.0, loads }
}

fn file_header(out: &mut Bytes, loads: usize) {
    // ELF, 64 bits, little-endian, version 1, System V.
    out.raw(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.u16(ET_CORE);
    out.u16(EM_X86_64);
    out.u32(1);
    out.u64(0);
    out.u64(HEADER);
    out.u64(0);
    out.u32(0);
    out.u16(HEADER as u16);
    out.u16(PROGRAM_HEADER as u16);
    out.u16(u16::try_from(loads + 1).unwrap_or(u16::MAX));
    out.raw(&[0; 6]);
}

fn notes(vcpus: &[VcpuState]) -> Vec<u8> {
    let mut out = Bytes::default();
    for (number, vcpu) in (1..).zip(vcpus) {
        out.note("CORE", NT_PRSTATUS, &prstatus(vcpu, number));
    }
    for vcpu in vcpus {
        out.note("QEMU", 0, &system(vcpu));
    }
    out.0
}

/// The general registers of a vCPU in the order of Linux's `user_regs_struct`; `number` stands for the
/// process id that the structure has.
fn prstatus(vcpu: &VcpuState, number: u32) -> Vec<u8> {
    let (r, s) = (&vcpu.registers, &vcpu.system);
    let [r8, r9, r10, r11, r12, r13, r14, r15] = r.r8_15;
    let selector = |segment: &Segment| u64::from(segment.selector);
    let mut out = Bytes::default();
    out.raw(&[0; PRSTATUS_PID]);
    out.u32(number);
    out.0.resize(PRSTATUS_REGISTERS, 0);
    for value in [r15, r14, r13, r12, r.rbp, r.rbx, r11, r10, r9, r8] {
        out.u64(value);
    }
    // The last of these is the number of a system call that was interrupted: there is none.
    for value in [r.rax, r.rcx, r.rdx, r.rsi, r.rdi, u64::MAX] {
        out.u64(value);
    }
    for value in [r.rip, selector(&s.cs), r.rflags, r.rsp, selector(&s.ss)] {
        out.u64(value);
    }
    for value in [s.fs.base, s.gs.base] {
        out.u64(value);
    }
    for segment in [&s.ds, &s.es, &s.fs, &s.gs] {
        out.u64(selector(segment));
    }
    out.0.resize(PRSTATUS, 0);
    out.0
}

/// All registers of a vCPU, in the layout of version 1 of the note that QEMU's guest dumps carry.
fn system(vcpu: &VcpuState) -> Vec<u8> {
    let (r, s) = (&vcpu.registers, &vcpu.system);
    let mut out = Bytes::default();
    out.u32(SYSTEM_VERSION);
    out.u32(SYSTEM as u32);
    for value in [r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp] {
        out.u64(value);
    }
    for value in r.r8_15 {
        out.u64(value);
    }
    out.u64(r.rip);
    out.u64(r.rflags);
    segments(&mut out, s);
    // CR1 does not exist.
    for value in [s.cr0, 0, s.cr2, s.cr3, s.cr4] {
        out.u64(value);
    }
    let msr = vcpu.msrs.iter().find(|msr| msr.index == KERNEL_GS_BASE);
    out.u64(msr.map_or(0, |msr| msr.value));
    out.0
}

fn segments(out: &mut Bytes, s: &SystemRegisters) {
    for segment in [&s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss, &s.ldt, &s.tr] {
        out.u32(u32::from(segment.selector));
        out.u32(segment.limit);
        out.u32(flags(segment.rights));
        out.u32(0);
        out.u64(segment.base);
    }
    for TableRegister { base, limit } in [&s.gdt, &s.idt] {
        out.u32(0);
        out.u32(u32::from(*limit));
        out.u32(0);
        out.u32(0);
        out.u64(*base);
    }
}

/// Access rights as a descriptor has them in its second word (Intel SDM 3A §3.4.5).
fn flags(rights: u32) -> u32 {
    (rights & 0xf0ff) << 8
}

/// Bytes that grow.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// A program header; physical addresses only, as nothing is known of the guest's mappings.
    fn program_header(&mut self, kind: u32, offset: u64, physical: u64, length: u64) {
        self.u32(kind);
        self.u32(0);
        self.u64(offset);
        self.u64(0);
        self.u64(physical);
        self.u64(length);
        self.u64(length);
        self.u64(0);
    }

    fn note(&mut self, name: &str, kind: u32, body: &[u8]) {
        self.u32(name.len() as u32 + 1);
        self.u32(body.len() as u32);
        self.u32(kind);
        self.raw(name.as_bytes());
        self.raw(&[0]);
        self.pad();
        self.raw(body);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcpu() -> VcpuState {
        let mut vcpu = VcpuState {
            mp_state: 0,
            registers: Default::default(),
            system: Default::default(),
            xcrs: None,
            xsave: None,
            debug: None,
            lapic: String::new(),
            msrs: Vec::new(),
            events: None,
            tsc_khz: None,
            held_interrupt: None,
        };
        (vcpu.registers.rip, vcpu.registers.r8_15[7]) = (0x1234_5678, 0xf15);
        (vcpu.system.cr3, vcpu.system.cs.selector) = (0xabc000, 0x33);
        vcpu
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn the_notes_have_the_sizes_that_their_readers_expect() {
        let body = prstatus(&vcpu(), 1);
        assert_eq!(body.len(), PRSTATUS);
        assert_eq!(u64_at(&body, PRSTATUS_REGISTERS), 0xf15, "r15 is first");
        // rip is the seventeenth register, cs the one behind it.
        assert_eq!(u64_at(&body, PRSTATUS_REGISTERS + 16 * 8), 0x1234_5678);
        assert_eq!(u64_at(&body, PRSTATUS_REGISTERS + 17 * 8), 0x33);
        let body = system(&vcpu());
        assert_eq!(body.len(), SYSTEM);
        assert_eq!(u64_at(&body, 8 + 18 * 8 + 10 * 24 + 3 * 8), 0xabc000, "cr3");
    }

    #[test]
    fn regions_are_aligned_and_do_not_overlap() {
        let layout = layout(&[(0, 0x8000_0000), (1 << 32, 0x1000)], &[vcpu(), vcpu()]);
        let [low, high] = layout.loads[..] else {
            panic!("two regions")
        };
        assert!(low.offset >= layout.head.len() as u64 && low.offset % ALIGNMENT == 0);
        assert!(high.offset >= low.offset + low.length && high.offset % ALIGNMENT == 0);
        assert_eq!(layout.length(), high.offset + 0x1000);
        let count = u16::from_le_bytes(layout.head[56..58].try_into().unwrap());
        assert_eq!(count, 3, "program headers");
    }
}
