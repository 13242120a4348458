//! One virtual CPU: running it, and why it stopped.

use super::{Capabilities, KvmError};
use kvm_bindings::{
    CpuId, KVM_EXIT_IO_OUT, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_cpuid_entry2,
    kvm_interrupt, kvm_mp_state, kvm_regs, kvm_run, kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

const KVMIO: u32 = 0xae;
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) fd: VcpuFd,
    pub(super) index: u32,
    pub(super) capabilities: Capabilities,
    /// An external interrupt that the PIC has given and KVM had no room for.
    pub(super) held: Option<u8>,
    /// One was given, and the guest may not have run since.
    pub(super) given: bool,
}

/// Why a vCPU came back. Data of port and memory accesses must be served before the next run.
#[derive(Debug)]
pub enum Exit<'a> {
    /// IN: `data` is filled in units of `size` bytes, all from the same port.
    PortRead {
        /// Port.
        port: u16,
        /// Bytes per access: 1, 2 or 4.
        size: usize,
        /// A multiple of `size` bytes.
        data: &'a mut [u8],
    },
    /// OUT: as for IN.
    PortWrite {
        /// Port.
        port: u16,
        /// Bytes per access: 1, 2 or 4.
        size: usize,
        /// A multiple of `size` bytes.
        data: &'a [u8],
    },
    /// A load from where no RAM is.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// A store to where no RAM is.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// 1 to 8 bytes.
        data: &'a [u8],
    },
    /// The guest ended the level-triggered interrupt with this vector.
    EndOfInterrupt(u8),
    /// The guest can take an external interrupt now.
    InterruptWindow,
    /// Kicked, or a signal came.
    Interrupted,
    /// Nothing happened; run again.
    Again,
    /// Triple fault.
    Shutdown,
    /// KVM cannot go on with this guest.
    Failed(String),
}

/// [`Exit`] without the borrow, read off the exit that kvm-ioctls hands out.
enum Seen {
    Port,
    Mmio,
    EndOfInterrupt(u8),
    InterruptWindow,
    Again,
    Shutdown,
    Internal,
    Other(String),
}

impl From<VcpuExit<'_>> for Seen {
    fn from(exit: VcpuExit<'_>) -> Self {
        match exit {
            VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => Self::Port,
            VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) => Self::Mmio,
            VcpuExit::IoapicEoi(vector) => Self::EndOfInterrupt(vector),
            VcpuExit::IrqWindowOpen => Self::InterruptWindow,
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::InternalError => Self::Internal,
            // A halt comes back only without a local APIC in the kernel; running on is right.
            VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::SetTpr => Self::Again,
            VcpuExit::FailEntry(reason, cpu) => Self::Other(format!(
                "the processor refused to enter the guest: reason {reason:#x} on host CPU {cpu}"
            )),
            VcpuExit::MemoryFault { gpa, size, .. } => Self::Other(format!(
                "guest memory {gpa:#x}+{size:#x} cannot be accessed"
            )),
            other => Self::Other(format!("KVM stopped the guest with {other:?}")),
        }
    }
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd, index: u32, capabilities: Capabilities) -> Self {
        Self {
            fd,
            index,
            capabilities,
            held: None,
            given: false,
        }
    }

    /// Which vCPU this is, counted from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn immediate_exit(&mut self) -> NonNull<AtomicU8> {
        NonNull::from(&mut self.fd.get_kvm_run().immediate_exit).cast()
    }

    /// Runs the guest until something happens.
    ///
    /// # Errors
    /// [`KvmError::Call`] when KVM refuses to run it at all.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        let seen = match self.fd.run() {
            Ok(exit) => Seen::from(exit),
            Err(error) => match error.errno() {
                libc::EINTR => return Ok(Exit::Interrupted),
                // A vCPU that waits for its start-up interrupt answers so.
                libc::EAGAIN => return Ok(Exit::Again),
                _ => {
                    return Err(KvmError::call(format!("running vCPU {}", self.index))(
                        error,
                    ));
                }
            },
        };
        self.given = false;
        let run = self.fd.get_kvm_run();
        Ok(match seen {
            Seen::Port => port_exit(run),
            Seen::Mmio => mmio_exit(run),
            Seen::EndOfInterrupt(vector) => Exit::EndOfInterrupt(vector),
            Seen::InterruptWindow => Exit::InterruptWindow,
            Seen::Again => Exit::Again,
            Seen::Shutdown => Exit::Shutdown,
            Seen::Internal => Exit::Failed(internal_error(run)),
            Seen::Other(text) => Exit::Failed(text),
        })
    }

    /// Whether an external interrupt could be taken when the last run ended.
    pub fn ready_for_interrupt(&mut self) -> bool {
        self.fd.get_kvm_run().ready_for_interrupt_injection != 0
    }

    /// Asks the next run to end as soon as an external interrupt can be taken.
    pub fn request_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    /// An external interrupt that is still to be given to KVM.
    pub fn held_interrupt(&mut self) -> Option<u8> {
        self.held
    }

    /// Gives the vCPU an external interrupt; only when it is ready for one.
    ///
    /// KVM has room for one. A kick, or the end of a halt, may bring the vCPU back before the
    /// guest has taken the last: then this one is held and has to be given again, since the PIC
    /// will not repeat what it has given.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn interrupt(&mut self, vector: u8) -> Result<(), KvmError> {
        let interrupt = kvm_interrupt {
            irq: u32::from(vector),
        };
        self.held = None;
        // SAFETY: a vCPU descriptor and the structure that the call reads.
        if unsafe { ioctl_with_ref(&self.fd, KVM_INTERRUPT(), &interrupt) } == 0 {
            self.given = true;
            return Ok(());
        }
        let source = io::Error::last_os_error();
        if source.raw_os_error() == Some(libc::EEXIST) {
            self.held = Some(vector);
            return Ok(());
        }
        Err(KvmError::Call {
            what: format!("injecting interrupt {vector:#x}"),
            source,
        })
    }

    /// Sets what the guest's CPUID instruction shows. Once, before the first run.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_cpuid(&self, entries: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
        let table = CpuId::from_entries(entries).map_err(|error| KvmError::Call {
            what: format!("{} CPUID entries", entries.len()),
            source: io::Error::other(format!("{error:?}")),
        })?;
        self.fd.set_cpuid2(&table).map_err(KvmError::call(format!(
            "setting the CPUID of vCPU {}",
            self.index
        )))
    }

    /// General registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn registers(&self) -> Result<kvm_regs, KvmError> {
        self.fd
            .get_regs()
            .map_err(KvmError::call("reading registers"))
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_registers(&self, registers: &kvm_regs) -> Result<(), KvmError> {
        self.fd
            .set_regs(registers)
            .map_err(KvmError::call("setting registers"))
    }

    /// Segment and control registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn system_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd
            .get_sregs()
            .map_err(KvmError::call("reading system registers"))
    }

    /// Sets the segment and control registers.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_system_registers(&self, registers: &kvm_sregs) -> Result<(), KvmError> {
        self.fd
            .set_sregs(registers)
            .map_err(KvmError::call("setting system registers"))
    }

    /// Makes it run at once, or wait for its start-up interrupt.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_runnable(&self, runnable: bool) -> Result<(), KvmError> {
        let mp_state = if runnable {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_UNINITIALIZED
        };
        self.fd
            .set_mp_state(kvm_mp_state { mp_state })
            .map_err(KvmError::call("setting the multiprocessing state"))
    }

    /// Tells a guest with a paravirtual clock that it was stopped, so that its watchdogs do not
    /// take the gap for a hang. A guest without that clock makes the call fail, which is fine.
    pub fn notify_stopped(&self) {
        if self.capabilities.kvmclock_ctrl {
            let _without_kvmclock = self.fd.kvmclock_ctrl();
        }
    }

    /// Where the guest is, for the log of a failure. Never fails.
    pub fn describe(&self) -> String {
        let (Ok(regs), Ok(sregs)) = (self.fd.get_regs(), self.fd.get_sregs()) else {
            return "registers cannot be read".into();
        };
        format!(
            "rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} \
             rdi={:#x} cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            regs.rip,
            regs.rsp,
            regs.rflags,
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            sregs.cs.selector,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.efer,
        )
    }
}

fn port_exit(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: the caller saw KVM_EXIT_IO, which says that this member is the valid one.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let len = size * usize::try_from(io.count).unwrap_or(0);
    let offset = usize::try_from(io.data_offset).unwrap_or(0);
    let base: *mut u8 = (&raw mut *run).cast();
    // SAFETY: the kernel puts `count` units of `size` bytes at `data_offset`, inside the mapping
    // that starts with this structure and that lives as long as the vCPU, hence as the borrow.
    let data = unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) };
    let port = io.port;
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        Exit::PortWrite { port, size, data }
    } else {
        Exit::PortRead { port, size, data }
    }
}

fn mmio_exit(run: &mut kvm_run) -> Exit<'_> {
    // SAFETY: the caller saw KVM_EXIT_MMIO, which says that this member is the valid one.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let len = usize::try_from(mmio.len).unwrap_or(0).min(mmio.data.len());
    let address = mmio.phys_addr;
    let write = mmio.is_write != 0;
    let data = mmio.data.get_mut(..len).unwrap_or_default();
    if write {
        Exit::MmioWrite { address, data }
    } else {
        Exit::MmioRead { address, data }
    }
}

fn internal_error(run: &kvm_run) -> String {
    // SAFETY: the caller saw KVM_EXIT_INTERNAL_ERROR, which says that this member is valid.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata)
        .unwrap_or(0)
        .min(internal.data.len());
    let data = internal.data.get(..count).unwrap_or_default();
    let what = match internal.suberror {
        1 => "an instruction could not be emulated",
        2 => "two exceptions at once",
        3 => "an event could not be delivered",
        4 => "an unexpected exit",
        _ => "an unknown error",
    };
    format!(
        "KVM internal error {}: {what}; data {data:x?}",
        internal.suberror
    )
}
