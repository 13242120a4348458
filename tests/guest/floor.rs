//! The floor: the least that a VMM can be. The benchmarks start the test guest under it to show how
//! much of a start is the kernel's own time.
//!
//! `floor KERNEL CMDLINE [MIB]`: one vCPU, one slot of anonymous memory, the split interrupt chip, the
//! serial port to standard output, the exit port. It checks as little as it can and is no example.

use std::ffi::{c_int, c_ulong, c_void};
use std::fs::{self, File};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(at: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, off: i64)
    -> *mut u8;
}

// linux/kvm.h
const CREATE_VM: c_ulong = 0xae01;
const GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const GET_SUPPORTED_CPUID: c_ulong = 0xc008_ae05;
const CREATE_VCPU: c_ulong = 0xae41;
const SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const RUN: c_ulong = 0xae80;
const SET_REGS: c_ulong = 0x4090_ae82;
const GET_SREGS: c_ulong = 0x8138_ae83;
const SET_SREGS: c_ulong = 0x4138_ae84;
const SET_CPUID2: c_ulong = 0x4008_ae90;
const ENABLE_CAP: c_ulong = 0x4068_aea3;
const CAP_SPLIT_IRQCHIP: u32 = 121;
const EXIT_IO: u32 = 2;

const START_INFO: usize = 0x1000;
const LINE: usize = 0x2000;
const MAP: usize = 0x1800;
const PVH_NOTE: u32 = 18;

/// One call of KVM with something that it reads or writes.
fn call<T>(fd: c_int, request: c_ulong, argument: &mut T) {
    // SAFETY: every caller passes the structure that belongs to the request.
    let result = unsafe { ioctl(fd, request, std::ptr::from_mut(argument)) };
    assert!(
        result >= 0,
        "ioctl {request:#x}: {}",
        std::io::Error::last_os_error()
    );
}

/// One call of KVM with a number; a new descriptor.
fn make(fd: c_int, request: c_ulong) -> OwnedFd {
    // SAFETY: these requests take a number and return a descriptor that is ours.
    unsafe {
        let new = ioctl(fd, request, 0);
        assert!(
            new >= 0,
            "ioctl {request:#x}: {}",
            std::io::Error::last_os_error()
        );
        OwnedFd::from_raw_fd(new)
    }
}

fn map_pages(len: usize, flags: c_int, fd: c_int) -> &'static mut [u8] {
    // SAFETY: a new mapping that lives as long as the process; the kernel zeroes it.
    unsafe {
        let at = mmap(std::ptr::null_mut(), len, 3, flags, fd, 0);
        assert!(
            at.addr() != usize::MAX,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        std::slice::from_raw_parts_mut(at, len)
    }
}

fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
    memory[at..at + bytes.len()].copy_from_slice(bytes);
}

fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    let mut value = [0; 8];
    value[..size].copy_from_slice(&bytes[at..at + size]);
    usize::from_le_bytes(value)
}

/// Copies the segments of an ELF file and returns its PVH entry.
fn load(elf: &[u8], memory: &mut [u8]) -> usize {
    let mut entry = 0;
    let headers = number(elf, 32, 8);
    for at in (0..number(elf, 56, 2)).map(|index| headers + index * number(elf, 54, 2)) {
        let (offset, target, size) = (
            number(elf, at + 8, 8),
            number(elf, at + 24, 8),
            number(elf, at + 32, 8),
        );
        match number(elf, at, 4) {
            1 => put(memory, target, &elf[offset..offset + size]),
            4 if number(elf, offset + 8, 4) == PVH_NOTE as usize => {
                entry = number(elf, offset + 16, 4);
            }
            _ => {}
        }
    }
    entry
}

fn start_info(memory: &mut [u8], line: &str) {
    let size = memory.len() as u64;
    put(memory, START_INFO, &0x336e_c578u32.to_le_bytes());
    put(memory, START_INFO + 4, &1u32.to_le_bytes());
    put(memory, START_INFO + 24, &LINE.to_le_bytes());
    put(memory, START_INFO + 40, &MAP.to_le_bytes());
    put(memory, START_INFO + 48, &1u32.to_le_bytes());
    put(memory, MAP + 8, &size.to_le_bytes());
    put(memory, MAP + 16, &1u32.to_le_bytes());
    put(memory, LINE, line.as_bytes());
}

/// Flat 32-bit protected mode with paging off, as PVH wants it.
fn set_registers(vcpu: c_int, entry: usize) {
    let mut special = [0u8; 312];
    call(vcpu, GET_SREGS, &mut special);
    // code, data x 5, then the task register: limit, selector, type, present, db, s, l, g
    for index in 0..6 {
        let (selector, kind) = if index == 0 { (8u16, 11) } else { (16, 3) };
        put(&mut special, index * 24, &[0; 24]);
        put(&mut special, index * 24 + 8, &u32::MAX.to_le_bytes());
        put(&mut special, index * 24 + 12, &selector.to_le_bytes());
        put(&mut special, index * 24 + 14, &[kind, 1, 0, 1, 1, 0, 1]);
    }
    put(&mut special, 6 * 24 + 8, &0x67u32.to_le_bytes());
    put(&mut special, 6 * 24 + 14, &[11, 1, 0, 0, 0, 0, 0]);
    put(&mut special, 224, &1u64.to_le_bytes());
    put(&mut special, 248, &[0; 8]);
    put(&mut special, 264, &[0; 8]);
    call(vcpu, SET_SREGS, &mut special);
    let mut general = [0u64; 18];
    general[1] = START_INFO as u64;
    general[16] = entry as u64;
    general[17] = 2;
    call(vcpu, SET_REGS, &mut general);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kernel, line, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: floor KERNEL CMDLINE [MIB]");
        return ExitCode::from(2);
    };
    let mib: usize = rest
        .first()
        .map_or(128, |text| text.parse().expect("MIB is a number"));
    let kvm = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .expect("no /dev/kvm");
    let vm = make(kvm.as_raw_fd(), CREATE_VM);
    let memory = map_pages(mib << 20, 0x4022, -1); // private, anonymous, no reserve
    let entry = load(&fs::read(kernel).expect("no kernel"), memory);
    start_info(memory, line);
    let mut slot = [0u64, 0, memory.len() as u64, memory.as_ptr().addr() as u64];
    call(vm.as_raw_fd(), SET_USER_MEMORY_REGION, &mut slot);
    let mut split = [0u8; 104];
    put(&mut split, 0, &CAP_SPLIT_IRQCHIP.to_le_bytes());
    put(&mut split, 8, &24u64.to_le_bytes());
    call(vm.as_raw_fd(), ENABLE_CAP, &mut split);
    let vcpu = make(vm.as_raw_fd(), CREATE_VCPU);
    let mut cpuid = [0u32; 2 + 10 * 128];
    cpuid[0] = 128;
    call(kvm.as_raw_fd(), GET_SUPPORTED_CPUID, &mut cpuid);
    call(vcpu.as_raw_fd(), SET_CPUID2, &mut cpuid);
    set_registers(vcpu.as_raw_fd(), entry);
    // SAFETY: this request takes nothing and returns a size.
    let size = unsafe { ioctl(kvm.as_raw_fd(), GET_VCPU_MMAP_SIZE, 0) };
    let run = map_pages(
        usize::try_from(size).expect("KVM has no run area"),
        1,
        vcpu.as_raw_fd(),
    );
    // Not the buffered standard output: it would keep the first byte until the line is full.
    // SAFETY: descriptor 1 is open, and nothing else here writes to it or closes it.
    let mut out = ManuallyDrop::new(unsafe { File::from_raw_fd(1) });
    loop {
        // SAFETY: this request takes nothing; the run area and the memory live as long as we.
        let ran = unsafe { ioctl(vcpu.as_raw_fd(), RUN, 0) };
        assert!(ran == 0, "KVM_RUN: {}", std::io::Error::last_os_error());
        assert!(
            number(run, 8, 4) == EXIT_IO as usize,
            "exit {}",
            number(run, 8, 4)
        );
        let (write, port) = (run[32] == 1, number(run, 34, 2));
        let data = number(run, 40, 8);
        match (port, write) {
            (0x3f8, true) => out.write_all(&run[data..=data]).expect("cannot write"),
            (0xf4, true) => return ExitCode::from(run[data]),
            (_, false) => run[data] = 0,
            _ => {}
        }
    }
}
