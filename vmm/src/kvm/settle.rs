//! Moving an external interrupt on from where only KVM sees it to where its state can be read.
//!
//! KVM_INTERRUPT on a split irqchip puts a vector into a slot that no call reads. The way into the
//! guest moves it to the event that is being injected, which KVM_GET_VCPU_EVENTS shows. So before a
//! vCPU is saved it goes that way once, with a signal waiting, which turns it round before the guest
//! runs an instruction.

use super::kick::kick_signal;
use super::{KvmError, Vcpu};
use std::io;
use std::sync::atomic::Ordering;
use vmm_sys_util::ioctl::ioctl_with_ptr;
use vmm_sys_util::ioctl_iow_nr;

/// The header of a mask; the mask itself follows.
#[repr(C)]
struct kvm_signal_mask {
    len: u32,
}

/// As the call takes it: the kernel's sets of signals have 8 bytes, and are not aligned here.
#[repr(C, packed)]
struct Mask {
    header: kvm_signal_mask,
    set: u64,
}

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, 0xae, 0x8b, kvm_signal_mask);

/// A vCPU that wakes from a halt needs one run to wake and one to be given the interrupt.
const RUNS: usize = 4;

impl Vcpu {
    /// After this, an external interrupt that was given is part of the events. Only for a vCPU that
    /// stands still, on its own thread.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn settle(&mut self) -> Result<(), KvmError> {
        if !self.given || !self.capabilities.vcpu_events {
            return Ok(());
        }
        let _waiting = WaitingSignal::new()?;
        self.mask_in_guest(true)?;
        let mut settled = Ok(());
        for _ in 0..RUNS {
            let events = self.fd.get_vcpu_events();
            match events.map_err(KvmError::call("events")) {
                Ok(events) if events.interrupt.injected != 0 => break,
                Ok(_) => {}
                Err(error) => settled = Err(error),
            }
            // SAFETY: the vCPU is here, hence mapped. Whoever sets this wrote a wish before, which is
            // read before the guest runs again.
            unsafe { self.immediate_exit().as_ref() }.store(0, Ordering::SeqCst);
            if let Err(error) = self.fd.run()
                && !matches!(error.errno(), libc::EINTR | libc::EAGAIN)
            {
                settled = Err(KvmError::call("settling an interrupt")(error));
                break;
            }
        }
        self.mask_in_guest(false)?;
        self.given = false;
        settled
    }

    /// With the mask, a kick that waits ends KVM_RUN although the thread has it blocked.
    fn mask_in_guest(&self, on: bool) -> Result<(), KvmError> {
        let mask = Mask {
            header: kvm_signal_mask { len: 8 },
            set: 0,
        };
        let pointer = if on {
            &raw const mask
        } else {
            std::ptr::null()
        };
        // SAFETY: the call reads a header and the set behind it, or takes no mask off a null pointer.
        let result = unsafe { ioctl_with_ptr(&self.fd, KVM_SET_SIGNAL_MASK(), pointer) };
        if result < 0 {
            return Err(KvmError::Call {
                what: "masking signals in the guest".into(),
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}

/// The kick signal, blocked on this thread and waiting; taken and let through again on drop.
struct WaitingSignal {
    before: libc::sigset_t,
}

impl WaitingSignal {
    fn new() -> Result<Self, KvmError> {
        // SAFETY: sets of signals are plain data, which the calls fill.
        let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both sets live; the signal goes to this thread, which has it blocked.
        let failed = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, kick_signal());
            let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            blocked != 0 || libc::raise(kick_signal()) != 0
        };
        if failed {
            return Err(KvmError::Call {
                what: "sending the kick signal".into(),
                source: io::Error::last_os_error(),
            });
        }
        Ok(Self { before })
    }
}

impl Drop for WaitingSignal {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the call that blocked the signal; its handler does nothing.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            )
        };
    }
}
