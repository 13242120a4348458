//! PCI Express: configuration space, BARs, MSI-X, the root complex and its root ports.
//!
//! ```text
//! vCPU: ECAM read/write or ports 0xcf8/0xcfc
//!    -> root.rs       which function? bus 0 directly, other buses through the root port that the
//!                     guest gave this bus number
//!    -> PciFunction   a device's own register file: config.rs keeps widths and write masks
//!         -> bar.rs   a BAR that moved takes its reservation on the memory bus along
//!         -> msix.rs  enable and mask bits of the message interrupts
//! ```
//!
//! There is no firmware in a direct boot, so every function is created with its BAR assigned and
//! decoding: see [`BarPlan`]. With firmware nothing is placed: buses, BARs, windows and the ECAM are
//! the firmware's to assign. The guest may move what it likes. What is not modelled: bridge windows
//! do not filter accesses (a function answers wherever its own BAR says), and no function has a
//! wired interrupt (interrupt pin 0): everything here speaks MSI-X.
//!
//! Nothing in here may trust a register value: all of them are guest input.

pub mod bar;
pub mod config;
mod host_bridge;
mod lpc;
pub mod msix;
mod root;
pub mod root_port;

pub(crate) use root::slot_error;
pub use root::{Bridge, ID, PciRoot, PciRootParts, Slot, SlotError};

use vmm_api::spec::PciAddress;

/// Where the enhanced configuration area is at power-on (PCIe 5.0 §7.2.2).
pub const ECAM_BASE: u64 = 0xb000_0000;
/// Its size: 256 buses of 1 MiB.
pub const ECAM_SIZE: u64 = 256 << 20;
/// First address of the 32-bit window that BARs are assigned from.
pub const MMIO_BASE: u64 = 0xc000_0000;
/// First address behind that window (the IOAPIC's).
pub const MMIO_END: u64 = 0xfec0_0000;

/// Space of one function in the plan.
const FUNCTION_SPACE: u64 = 64 << 10;
/// Space of bus 0 in the plan: 256 functions.
const ROOT_SPACE: u64 = 256 * FUNCTION_SPACE;
/// Space of the bus below one root port: what Linux wants at least for hot-plug.
const BUS_SPACE: u64 = 2 << 20;

/// A PCI function's configuration registers.
pub trait PciFunction: Send + Sync {
    /// Fills `data` from `offset`; the access lies inside the 4096 bytes of the function.
    fn read_config(&self, offset: u16, data: &mut [u8]);
    /// Takes `data` at `offset`; the access lies inside the 4096 bytes of the function.
    fn write_config(&self, offset: u16, data: &[u8]);
}

/// Which addresses BARs and bridge windows have at power-on.
///
/// The address follows from the PCI address alone, so it is the same at every start of a machine
/// version and does not depend on what else is plugged in.
#[derive(Debug, Clone, Copy)]
pub struct BarPlan;

impl BarPlan {
    /// Base and length of the space that the function at `address` may use.
    pub fn function(address: PciAddress) -> (u64, u64) {
        if address.bus == 0 {
            let base = MMIO_BASE + u64::from(address.devfn()) * FUNCTION_SPACE;
            return (base, FUNCTION_SPACE);
        }
        // A bus below a root port has slot 0 only: its eight functions share the bus's space.
        let base = Self::bus(address.bus).0 + u64::from(address.function) * FUNCTION_SPACE;
        (base, FUNCTION_SPACE)
    }

    /// Base and length of the window of the root port that leads to `bus` (1 to 255).
    pub fn bus(bus: u8) -> (u64, u64) {
        let index = u64::from(bus.saturating_sub(1));
        (MMIO_BASE + ROOT_SPACE + index * BUS_SPACE, BUS_SPACE)
    }
}

#[cfg(test)]
mod tests;
