//! Serving exits: port and memory accesses go to their bus, interrupt business to the chips, the
//! rest is reported.
//!
//! This runs on vCPU threads. It must never wait for another vCPU or for the driver, and whatever
//! the guest does ends in an answer: nobody home reads as all ones, and writes there are dropped.

use crate::kvm::{Exit, Vcpu};
use devices::bus::Bus;
use devices::host::MachineRequests;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Set while an exit is served that ends the guest's run.
    static LAST: Cell<bool> = const { Cell::new(false) };
}

/// The guest has just powered its machine off or asked for a reset. When this is a vCPU's thread, that
/// vCPU stands still until it is told to run: a real processor would not see the next instruction.
pub fn no_further() {
    LAST.set(true);
}

/// The interrupt controllers as a vCPU sees them.
pub trait Chips: Send + Sync {
    /// The guest ended the level-triggered interrupt `vector`.
    fn end_of_interrupt(&self, vector: u8);
    /// The boot vCPU takes an external interrupt now: its vector, or `None` when it went away.
    fn acknowledge(&self) -> Option<u8>;
}

/// What all vCPUs of a machine share.
pub struct Board {
    /// Ports.
    pub pio: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
    /// PIC and IOAPIC.
    pub chips: Arc<dyn Chips>,
    /// Where a guest that cannot go on is reported.
    pub requests: Arc<dyn MachineRequests>,
    /// Whether the PIC asserts the boot vCPU's interrupt pin.
    pub external: Arc<AtomicBool>,
    /// A triple fault resets the machine, as PC firmware expects, instead of ending it as a crash.
    pub shutdown_resets: bool,
}

/// Whether the vCPU may enter the guest again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Yes.
    Run,
    /// Somebody wants something: look into the mailbox.
    Look,
    /// What was served was the guest's last wish.
    Last,
    /// The guest cannot go on.
    Stop,
}

impl Board {
    /// Hands a pending external interrupt to the boot vCPU, or asks to be told when it can take it.
    ///
    /// ```text
    /// PIC asserts -> external = true, boot vCPU kicked
    ///   not ready: request_interrupt_window -> InterruptWindow exit -> again
    ///   ready:     acknowledge the PIC, KVM_INTERRUPT(vector)
    ///   KVM still has the last one: the vector is held for the next round
    /// ```
    pub(super) fn deliver_external(&self, vcpu: &mut Vcpu) {
        let held = vcpu.held_interrupt();
        if held.is_none() && !self.external.load(Ordering::Acquire) {
            vcpu.request_interrupt_window(false);
            return;
        }
        if vcpu.ready_for_interrupt()
            && let Some(vector) = held.or_else(|| self.chips.acknowledge())
            && let Err(error) = vcpu.interrupt(vector)
        {
            tracing::warn!(guest = true, %error, "an external interrupt was lost");
        }
        let more = vcpu.held_interrupt().is_some() || self.external.load(Ordering::Acquire);
        vcpu.request_interrupt_window(more);
    }

    /// Runs the guest once and serves what came of it.
    pub(super) fn step(&self, vcpu: &mut Vcpu) -> Flow {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => {
                // KVM's word for a page that cannot be had.
                let memory = if error.is_bad_address() {
                    "guest memory has nothing behind it any more: "
                } else {
                    ""
                };
                let detail = format!("{memory}{error}; {}", vcpu.describe());
                tracing::error!(vcpu = vcpu.index(), %detail, "the vCPU cannot run");
                self.requests.crashed(&detail);
                return Flow::Stop;
            }
        };
        match exit {
            Exit::PortRead { port, size, data } => self.port_read(port, size, data),
            Exit::PortWrite { port, size, data } => self.port_write(port, size, data),
            Exit::MmioRead { address, data } => {
                data.fill(0xff);
                self.mmio.read(address, data);
            }
            Exit::MmioWrite { address, data } => {
                self.mmio.write(address, data);
            }
            Exit::EndOfInterrupt(vector) => self.chips.end_of_interrupt(vector),
            Exit::InterruptWindow | Exit::Again => {}
            Exit::Interrupted => return Flow::Look,
            Exit::Shutdown => {
                let detail = format!("triple fault; {}", vcpu.describe());
                tracing::warn!(vcpu = vcpu.index(), %detail, "the guest shut its processor down");
                if self.shutdown_resets {
                    self.requests.reset();
                    // This vCPU stands still already.
                    LAST.set(false);
                } else {
                    self.requests.crashed(&detail);
                }
                return Flow::Stop;
            }
            Exit::Failed(reason) => {
                let detail = format!("{reason}; {}", vcpu.describe());
                tracing::error!(vcpu = vcpu.index(), %detail, "the guest cannot go on");
                self.requests.crashed(&detail);
                return Flow::Stop;
            }
        }
        if LAST.take() { Flow::Last } else { Flow::Run }
    }

    fn port_read(&self, port: u16, size: usize, data: &mut [u8]) {
        for unit in data.chunks_mut(size) {
            unit.fill(0xff);
            if !self.pio.read(u64::from(port), unit) && size > 1 {
                // A wide access over byte-wide neighbours is split, as an ISA bridge does it.
                for (at, byte) in (u64::from(port)..).zip(unit.chunks_mut(1)) {
                    self.pio.read(at, byte);
                }
            }
        }
    }

    fn port_write(&self, port: u16, size: usize, data: &[u8]) {
        for unit in data.chunks(size) {
            if !self.pio.write(u64::from(port), unit) && size > 1 {
                for (at, byte) in (u64::from(port)..).zip(unit.chunks(1)) {
                    self.pio.write(at, byte);
                }
            }
        }
    }
}
