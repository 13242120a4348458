//! The guest physical address space of machine version `vm-q35-1`.
//!
//! ```text
//! 0             .. b000_0000   RAM, at most 2.75 GiB of it
//! b000_0000     .. c000_0000   ECAM: 256 buses of 1 MiB
//! c000_0000     .. fec0_0000   32-bit PCI BARs
//! fec0_0000     .. fec0_1000   IOAPIC
//! fee0_0000     .. fee0_1000   local APICs
//! fffb_c000     .. fffc_0000   pages that KVM needs on older Intel hosts, at feff_c000 where
//!                              firmware is larger than what follows
//! fffc_0000     .. 1_0000_0000 firmware, where there is one: it ends at 4 GiB
//! 1_0000_0000   ..             RAM above 4 GiB, then room for hot-plugged RAM,
//!                              then, aligned to its size, the window of 64-bit PCI BARs
//! ```
//!
//! None of this may move within a machine version: saved guests and their drivers know it.

use std::ops::Range;
use vmm_api::spec::MAX_FIRMWARE;

/// First address above low RAM, and the base of the ECAM window.
pub const ECAM_BASE: u64 = 0xb000_0000;
/// Bytes of the ECAM window.
pub const ECAM_SIZE: u64 = 256 << 20;
/// Window of 32-bit BARs.
pub const MMIO32: Range<u64> = 0xc000_0000..0xfec0_0000;
/// Pins of the IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// One page for KVM (KVM_SET_IDENTITY_MAP_ADDR).
pub const IDENTITY_MAP_BASE: u64 = 0xfffb_c000;
/// Bytes that KVM needs there: a page for that, and three behind it (KVM_SET_TSS_ADDR).
pub const HELPER_PAGES: u64 = 0x4000;
/// Where those pages are with firmware that does not fit behind them: below the largest image.
const HELPERS_BELOW_FIRMWARE: u64 = HIGH_RAM_BASE - MAX_FIRMWARE - HELPER_PAGES;
/// Where RAM goes on above the 32-bit hole.
pub const HIGH_RAM_BASE: u64 = 1 << 32;
/// Bytes of the window of 64-bit BARs.
pub const MMIO64_SIZE: u64 = 64 << 30;
/// Addresses below this are reachable on every x86-64 processor that runs KVM.
const PHYSICAL_LIMIT: u64 = 1 << 46;

/// Where KVM's pages are beside `firmware` bytes of firmware.
pub fn helper_pages(firmware: u64) -> u64 {
    if firmware <= HIGH_RAM_BASE - (IDENTITY_MAP_BASE + HELPER_PAGES) {
        IDENTITY_MAP_BASE
    } else {
        HELPERS_BELOW_FIRMWARE
    }
}

/// Spans of RAM for `size` bytes, ascending: below the hole, then above 4 GiB.
pub fn ram_spans(size: u64) -> Vec<Range<u64>> {
    let low = size.min(ECAM_BASE);
    let high = size - low;
    let above = (high > 0).then(|| HIGH_RAM_BASE..HIGH_RAM_BASE.saturating_add(high));
    std::iter::once(0..low).chain(above).collect()
}

/// The window of 64-bit BARs behind `size` bytes of RAM, of which the machine may at most have
/// `max` after hot-plug. `None` when RAM leaves no room for it.
pub fn mmio64(max: u64) -> Option<Range<u64>> {
    let ram_end = ram_spans(max).last().map_or(0, |span| span.end);
    let base = ram_end
        .max(HIGH_RAM_BASE)
        .checked_next_multiple_of(MMIO64_SIZE)?;
    let end = base.checked_add(MMIO64_SIZE)?;
    (end <= PHYSICAL_LIMIT).then_some(base..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_leaves_the_hole_free() {
        assert_eq!(ram_spans(1 << 20).first(), Some(&(0..1 << 20)));
        assert_eq!(ram_spans(1 << 20).len(), 1);
        assert_eq!(ram_spans(ECAM_BASE).len(), 1);
        assert_eq!(
            ram_spans(4 << 30),
            [0..ECAM_BASE, HIGH_RAM_BASE..HIGH_RAM_BASE + (0x5000_0000)]
        );
        for size in [1 << 20, ECAM_BASE - 4096, ECAM_BASE + 4096, 1 << 40] {
            let total: u64 = ram_spans(size).iter().map(|s| s.end - s.start).sum();
            assert_eq!(total, size);
        }
    }

    #[test]
    fn firmware_and_the_pages_of_kvm_lie_apart() {
        for size in [64 << 10, 256 << 10, 512 << 10, MAX_FIRMWARE] {
            let pages = helper_pages(size);
            assert!(pages + HELPER_PAGES <= HIGH_RAM_BASE - size, "{size:#x}");
            assert!(pages >= 0xfee0_1000, "behind the local APICs");
        }
        assert_eq!(helper_pages(0), IDENTITY_MAP_BASE);
    }

    #[test]
    fn the_64_bit_window_lies_behind_all_ram() {
        assert_eq!(mmio64(128 << 20), Some(64 << 30..128 << 30));
        let window = mmio64(100 << 30).expect("room");
        assert!(window.start >= HIGH_RAM_BASE + (100 << 30) - ECAM_BASE);
        assert!(window.start.is_multiple_of(MMIO64_SIZE));
        assert_eq!(mmio64(1 << 46), None);
        assert_eq!(mmio64(u64::MAX), None);
    }
}
