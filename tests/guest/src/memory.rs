//! Memory as devices see it: volatile access by address, and areas that are handed out once.
//!
//! Everything is mapped one to one, so a pointer's value is the guest-physical address.

use core::sync::atomic::{AtomicU64, Ordering};

/// Areas are handed out from here upwards; the image and the loader's tables lie below.
const POOL: u64 = 16 << 20;
static NEXT: AtomicU64 = AtomicU64::new(POOL);

unsafe extern "C" {
    static mut level3: [u64; 512];
    static interrupt_count: u64;
}

/// Reads a value that a device or the loader may have written.
pub fn load<T: Copy>(address: u64) -> T {
    // SAFETY: all addresses that callers compute are mapped; volatile keeps device semantics.
    unsafe { (address as *const T).read_volatile() }
}

/// Writes a value that a device will see.
pub fn store<T: Copy>(address: u64, value: T) {
    // SAFETY: as in `load`; Rust's own objects all lie in the image, which callers never address.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Hands out `size` bytes of zeroed RAM on a page boundary. After a reset RAM holds what it held before.
pub fn take(size: u64) -> u64 {
    let size = (size + 4095) & !4095;
    let begin = NEXT.fetch_add(size, Ordering::Relaxed);
    for at in (begin..begin + size).step_by(8) {
        store(at, 0u64);
    }
    begin
}

/// Makes the 2 MiB around `address` reachable; everything below 4 GiB already is.
pub fn map(address: u64) {
    if address < 1 << 32 {
        return;
    }
    let slot = (address >> 30) as usize;
    assert!(slot < 512, "cannot map {address:#x}");
    // SAFETY: one thread, and the page walker only reads; an entry goes from absent to present,
    // for which no flush is needed.
    unsafe {
        let entry = (&raw mut level3).cast::<u64>().add(slot);
        if entry.read_volatile() == 0 {
            let table = take(4096);
            for page in 0..512u64 {
                store(
                    table + page * 8,
                    ((slot as u64) << 30) + (page << 21) + 0x87,
                );
            }
            entry.write_volatile(table + 7);
        }
    }
}

/// Interrupts taken so far.
pub fn interrupts() -> u64 {
    // SAFETY: only the interrupt stub writes it, in one instruction.
    unsafe { (&raw const interrupt_count).read_volatile() }
}

/// A bounded wait: spins until `done` answers or the patience is used up.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..4_000_000_000u64 {
        if let Some(value) = done() {
            return value;
        }
        core::hint::spin_loop();
    }
    panic!("waited in vain for {what}")
}
