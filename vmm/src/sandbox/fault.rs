//! SIGBUS: guest RAM that is mapped and has nothing behind it any more, because its file was cut
//! short, or the host ran out of huge pages or found a broken memory cell.
//!
//! ```text
//! a worker touches the page --> SIGBUS --> the handler notes the address, rings, and holds the thread
//!                                            |                                  | nobody came
//!                       the driver hears and ends the process, with a reason    v
//!                                                                 the handler does so itself
//! ```
//!
//! A vCPU that touches such a page gets an error of KVM_RUN instead, and the guest has crashed.
//!
//! The thread that met it can never go on: what it would read or write is gone. Nothing is flushed
//! either, for the same thread may hold a disk's requests. For the images this is what a crash of
//! the host is: nothing is lost that was flushed. A SIGBUS anywhere else ends the process as ever.
//!
//! The handler may do only what is safe in a signal handler: atomics, `write`, `nanosleep`, `_exit`.

use devices::memory::GuestMemory;
use rustix::fd::BorrowedFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// Regions of RAM that are told apart; a machine has two, and more with hot-plugged memory.
const REGIONS: usize = 64;
/// How long the driver may take to end the process: rounds of ten milliseconds.
const ROUNDS: u32 = 200;
/// What a fault is that no page of RAM has: bit 0 marks one that was noted.
const NONE: u64 = 0;
const NOTED: u64 = 1;

struct Known {
    host: AtomicUsize,
    guest: AtomicU64,
    len: AtomicUsize,
}

static KNOWN: [Known; REGIONS] = [const {
    Known {
        host: AtomicUsize::new(0),
        guest: AtomicU64::new(0),
        len: AtomicUsize::new(0),
    }
}; REGIONS];
/// The page of guest RAM that was touched first, and [`NOTED`].
static FAULT: AtomicU64 = AtomicU64::new(NONE);
/// It was the hardware's memory that failed.
static BROKEN: AtomicBool = AtomicBool::new(false);
/// The driver's bell.
static BELL: AtomicI32 = AtomicI32::new(-1);
/// Where the end record goes, while nobody has written it.
static END: AtomicI32 = AtomicI32::new(-1);
/// The end record for a driver that does not come.
static LAST_WORDS: OnceLock<String> = OnceLock::new();

/// Where the end record goes and what it says when nobody else can write it. `None` when it is
/// written, or about to be.
pub fn set_last_words(words: Option<(BorrowedFd<'_>, String)>) {
    match words {
        Some((end, line)) => {
            // Only the first is kept: there is one per process.
            let _first = LAST_WORDS.set(line);
            END.store(end.as_raw_fd(), Ordering::Release);
        }
        None => END.store(-1, Ordering::Release),
    }
}

/// From here on a missing page of `memory` rings `bell` and holds the thread that met it.
///
/// # Errors
/// What the host says.
pub fn guard(memory: &GuestMemory, bell: BorrowedFd<'_>) -> io::Result<()> {
    for (known, region) in KNOWN.iter().zip(memory.iter()) {
        let len = usize::try_from(region.len()).unwrap_or(usize::MAX);
        known.host.store(region.as_ptr().addr(), Ordering::Relaxed);
        known.guest.store(region.start_addr().0, Ordering::Relaxed);
        known.len.store(len, Ordering::Release);
    }
    BELL.store(bell.as_raw_fd(), Ordering::Release);
    // SAFETY: an all-zero sigaction is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler is of the kind that SA_SIGINFO says, and does what handlers may do.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What happened to guest RAM, when something did.
pub fn lost_memory() -> Option<String> {
    let noted = FAULT.load(Ordering::Acquire);
    if noted == NONE {
        return None;
    }
    let page = noted & !NOTED;
    Some(if BROKEN.load(Ordering::Acquire) {
        format!("the host's memory behind guest address {page:#x} is broken")
    } else {
        format!(
            "guest memory at {page:#x} has nothing behind it any more: its file was cut short, or the host has no page left for it"
        )
    })
}

/// The guest physical address of a host address in RAM.
fn guest_address(host: usize) -> Option<u64> {
    KNOWN.iter().find_map(|known| {
        let len = known.len.load(Ordering::Acquire);
        let offset = host.checked_sub(known.host.load(Ordering::Relaxed))?;
        let inside = offset < len;
        inside.then(|| {
            known
                .guest
                .load(Ordering::Relaxed)
                .wrapping_add(offset as u64)
        })
    })
}

extern "C" fn on_bus_error(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes valid information, and SIGBUS has an address.
    let (host, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    let Some(guest) = guest_address(host) else {
        // SAFETY: the default action ends the process when the access is repeated.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        return;
    };
    if matches!(code, libc::BUS_MCEERR_AR | libc::BUS_MCEERR_AO) {
        BROKEN.store(true, Ordering::Release);
    }
    let note = guest & !0xfff | NOTED;
    // A later one changes nothing.
    let _first = FAULT.compare_exchange(NONE, note, Ordering::AcqRel, Ordering::Acquire);
    let one = 1_u64.to_ne_bytes();
    // SAFETY: writes eight bytes that live on this stack.
    unsafe { libc::write(BELL.load(Ordering::Acquire), one.as_ptr().cast(), one.len()) };
    for _ in 0..ROUNDS {
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        // SAFETY: reads the time on this stack; the driver ends the process meanwhile.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
    }
    leave()
}

/// The end of a process whose driver does not come.
fn leave() -> ! {
    if let Some(line) = LAST_WORDS.get() {
        let end = END.load(Ordering::Acquire);
        for fd in [end, libc::STDERR_FILENO] {
            // SAFETY: writes bytes that are never freed; a descriptor that is none is refused.
            unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
        }
    }
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guest_ram_has_guest_addresses() {
        // A region that no other test of this process knows of.
        let known = &KNOWN[REGIONS - 1];
        known.host.store(0x7000_0000_0000, Ordering::Relaxed);
        known.guest.store(0x1_0000_0000, Ordering::Relaxed);
        known.len.store(0x2000, Ordering::Release);
        assert_eq!(guest_address(0x7000_0000_1800), Some(0x1_0000_1800));
        assert_eq!(guest_address(0x7000_0000_2000), None);
        assert_eq!(guest_address(0x6fff_ffff_ffff), None);
        assert_eq!(guest_address(0), None);
    }
}
