//! Guest RAM as devices see it.
//!
//! Every write from outside a vCPU marks our own dirty bitmap, because KVM's log cannot see it:
//! accesses through `vm-memory` mark it by themselves; whoever lets the kernel write (io_uring)
//! calls [`mark_dirty`] on completion.

use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

/// Guest RAM with a dirty bitmap of 4 KiB pages per region.
pub type GuestMemory = vm_memory::GuestMemoryMmap<AtomicBitmap>;

/// One region of guest RAM.
pub type GuestRegion = vm_memory::GuestRegionMmap<AtomicBitmap>;

/// A handle to guest RAM that follows hot-plug: `memory()` gives the map of this moment.
pub type GuestMemoryHandle = vm_memory::GuestMemoryAtomic<GuestMemory>;

/// Marks `len` bytes from `address` as written. Parts outside RAM are ignored.
pub fn mark_dirty(memory: &GuestMemory, address: GuestAddress, len: usize) {
    let mut address = address;
    let mut left = len as u64;
    while left > 0 {
        let Some(region) = memory.find_region(address) else {
            return;
        };
        let offset = address.0 - region.start_addr().0;
        let here = left.min(region.len() - offset);
        let (Ok(offset), Ok(bytes)) = (usize::try_from(offset), usize::try_from(here)) else {
            return;
        };
        region.bitmap().mark_dirty(offset, bytes);
        let Some(next) = address.0.checked_add(here) else {
            return;
        };
        address = GuestAddress(next);
        left -= here;
    }
}
