//! Getting a vCPU thread out of guest mode, without ever losing a wake-up.
//!
//! ```text
//! controller                          vCPU thread
//! 1. writes its wish                  a. clears immediate_exit
//! 2. sets immediate_exit              b. reads the wishes
//! 3. signals the thread               c. enters KVM_RUN; interrupted -> a
//! ```
//!
//! If (b) came before (1), then (2) comes after (a), so the next or the current KVM_RUN ends: KVM
//! looks at immediate_exit on its way in, and a thread that was past that look gets the signal of
//! (3), which ends KVM_RUN from inside. If (b) came after (1), the wish was seen. The signal's
//! handler does nothing; only its arrival counts.

use super::{KvmError, Vcpu};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Kicks one vCPU; does nothing while no thread runs it.
#[derive(Debug, Default)]
pub struct Kick {
    target: Mutex<Option<Target>>,
}

#[derive(Debug)]
struct Target {
    /// In the vCPU's shared page, which stays mapped while this target exists.
    immediate_exit: NonNull<AtomicU8>,
    thread: libc::pid_t,
}

// SAFETY: the pointer is only used for atomic stores to a mapping that outlives the target.
unsafe impl Send for Target {}

impl Kick {
    /// Ends the current or the next KVM_RUN of the vCPU. Callable from any thread, also its own.
    pub fn kick(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = &*target else { return };
        // SAFETY: `Attached::drop` clears the target under this lock before the mapping goes.
        unsafe { target.immediate_exit.as_ref() }.store(1, Ordering::SeqCst);
        let own = own_thread();
        if own != target.thread {
            // SAFETY: no memory is involved; a thread that is gone only makes the call fail.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    libc::getpid(),
                    target.thread,
                    kick_signal(),
                )
            };
        }
    }
}

/// A vCPU that its thread runs, and that may be kicked.
#[derive(Debug)]
pub struct Attached {
    kick: Arc<Kick>,
    vcpu: Vcpu,
}

impl Attached {
    /// Lets `kick` reach `vcpu`, which the calling thread is going to run.
    pub fn new(mut vcpu: Vcpu, kick: Arc<Kick>) -> Self {
        let immediate_exit = vcpu.immediate_exit();
        let thread = own_thread();
        *kick.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(Target {
            immediate_exit,
            thread,
        });
        Self { kick, vcpu }
    }

    /// The vCPU.
    pub fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    /// Step (a): kicks up to here are answered by looking at the wishes after this call.
    pub fn clear_kick(&mut self) {
        // SAFETY: the vCPU is here, hence mapped.
        unsafe { self.vcpu.immediate_exit().as_ref() }.store(0, Ordering::SeqCst);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        *self
            .kick
            .target
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The calling thread. Not the C library's own function: Rust's library names that as one that may be
/// missing, and a static program then has none.
fn own_thread() -> libc::pid_t {
    rustix::thread::gettid().as_raw_nonzero().get()
}

pub(super) fn kick_signal() -> i32 {
    libc::SIGRTMIN()
}

extern "C" fn ignore(_signal: i32) {}

/// Makes the kick signal harmless. Must come before the first vCPU thread.
///
/// # Errors
/// What the kernel says.
pub fn install_handler() -> Result<(), KvmError> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid: no flags, so that KVM_RUN is not restarted.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(i32) = ignore;
        action.sa_sigaction = handler as libc::sighandler_t;
        // SAFETY: the handler touches nothing, so it may run at any time on any thread.
        if unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) } != 0 {
            result = Err(KvmError::Call {
                what: "installing the handler of the kick signal".into(),
                source: io::Error::last_os_error(),
            });
        }
    });
    result
}
