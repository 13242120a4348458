//! What the machine lends to its devices: interrupts, doorbells, and a way to report.
//!
//! The VMM implements these on KVM, tests implement them with counters. A device must never assume
//! which of the two it has. Everything handed out is RAII: dropping it gives it back.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use vmm_api::control::Event;
use vmm_sys_util::eventfd::EventFd;

/// A wired, level-triggered interrupt line (a GSI).
pub trait IrqLine: Send + Sync {
    /// Asserts or deasserts the line. Repeating the level is harmless.
    fn set_level(&self, asserted: bool);
}

/// Hands out wired interrupt lines; several devices may share one, whose level is then the OR.
pub trait IrqLines: Send + Sync {
    /// The line of `gsi`.
    fn line(&self, gsi: u32) -> Arc<dyn IrqLine>;
}

/// A message-signalled interrupt, as a device writes it (PCI 3.0 §6.8, Intel SDM 3A §12.11).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address, low and high.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// One MSI-X vector of one device.
///
/// Nothing is registered with the host before [`MsiVector::route`], so that a guest which never
/// turns its device on costs nothing at start and at exit.
pub trait MsiVector: Send + Sync {
    /// Delivers triggers as `message` from now on.
    ///
    /// # Errors
    /// What the host says.
    fn route(&self, message: MsiMessage) -> io::Result<()>;
    /// Takes the route away: triggers are lost until [`MsiVector::route`]; the device keeps the
    /// pending bit while a vector is masked.
    fn unroute(&self);
    /// Raises the interrupt once. Must be cheap and never block; called from worker threads.
    ///
    /// # Errors
    /// What the host says.
    fn trigger(&self) -> io::Result<()>;
}

/// Hands out MSI-X vectors.
pub trait MsiVectors: Send + Sync {
    /// A new, unrouted vector for the function with this requester ID.
    fn vector(&self, requester_id: u16) -> io::Result<Arc<dyn MsiVector>>;
}

/// The way from our IOAPIC to the local APICs (split irqchip).
pub trait ApicBus: Send + Sync {
    /// Delivers an interrupt now (KVM_SIGNAL_MSI).
    fn send(&self, message: MsiMessage);
    /// Tells which message IOAPIC pin `pin` stands for, or that it is masked. The host needs it to
    /// report the end of level-triggered interrupts; called only when it changes.
    fn route_pin(&self, pin: u32, message: Option<MsiMessage>);
}

/// The way from our PIC to the boot CPU's INTR pin.
pub trait ExtInt: Send + Sync {
    /// The PIC's output changed. While it is asserted, the boot vCPU asks the PIC for the vector as
    /// soon as it can take one. Must not block: it may come from a vCPU thread or the PIT's.
    fn set_output(&self, asserted: bool);
}

/// Where a doorbell is rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoorbellAddress {
    /// A port.
    Pio(u16),
    /// A guest physical address.
    Mmio(u64),
}

/// A doorbell that stays registered until it is dropped.
pub trait Doorbell: Send + Sync {}

/// Lets guest writes ring eventfds without leaving the kernel (KVM_IOEVENTFD).
pub trait Doorbells: Send + Sync {
    /// Rings `bell` for writes of `len` bytes (0: any length) at `address` whose value is `value`,
    /// or any value for `None`.
    ///
    /// # Errors
    /// What the host says. The device must then serve the write through its bus range.
    fn register(
        &self,
        address: DoorbellAddress,
        len: u32,
        value: Option<u64>,
        bell: &EventFd,
    ) -> io::Result<Box<dyn Doorbell>>;
}

/// What a device asks of the machine. Calls only leave a note for the driver thread: they never
/// block and never take a lock that is held while vCPUs are waited for.
pub trait MachineRequests: Send + Sync {
    /// The guest asked to be powered off (ACPI S5).
    fn power_off(&self);
    /// The guest asked to be reset.
    fn reset(&self);
    /// The guest crashed.
    fn crashed(&self, detail: &str);
    /// The test device wants the process to end with this code.
    fn debug_exit(&self, code: u8);
    /// A disk met an error that its policy answers by pausing; `resume` will try again.
    fn io_error(&self, device: &str, detail: &str);
    /// Something that managers are told.
    fn event(&self, event: Event);
}

/// Waits until a descriptor is readable. Used by back-ends that own a thread.
///
/// # Errors
/// What `poll` says.
pub fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
