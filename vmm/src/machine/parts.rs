//! The parts of a machine and what can be done to them.
//!
//! Nothing here decides or answers anybody; the driver calls these methods one at a time, from a
//! thread that may wait. Standing still always means: vCPUs first, then devices; going on is the
//! other way round. Between the two nobody touches guest RAM.

use super::boot_source::BootSource;
use super::build::boot_vcpu;
use crate::arch::cpuid::Table;
use crate::arch::state::VcpuState;
use crate::kvm::interrupts::Interrupts;
use crate::kvm::{System, Vm, state_msrs};
use crate::vcpu::VcpuThread;
use devices::backend::display::Display;
use devices::device::Device;
use devices::legacy::Chipset;
use devices::memory::GuestMemory;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_api::spec::MachineSpec;

/// The machine.
pub struct Machine {
    pub(super) spec: MachineSpec,
    pub(super) system: System,
    pub(super) vm: Arc<Vm>,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) cpuid: Table,
    pub(super) chipset: Arc<Chipset>,
    pub(super) display: Arc<Display>,
    /// The chipset's devices, the root complex, then the spec's, in its order.
    pub(super) devices: Vec<Arc<dyn Device>>,
    pub(super) vcpus: Vec<VcpuThread>,
    pub(super) boot: BootSource,
    pub(super) still: Mutex<Still>,
}

/// What is remembered while the machine stands still.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Still {
    pub(super) stands: bool,
    /// The paravirtual clock when it stopped, in nanoseconds.
    pub(super) clock: Option<u64>,
    /// Whether the clock is a snapshot's, and goes on from there.
    pub(super) restored: bool,
}

impl Machine {
    /// The spec that it was built from.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// Its devices.
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }

    /// Its display.
    pub fn display(&self) -> &Arc<Display> {
        &self.display
    }

    /// Whether it stands still: it was paused, or came from a snapshot and did not run yet.
    pub fn stands_still(&self) -> bool {
        let still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        still.stands
    }

    /// Its RAM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// What its CPUID shows.
    pub fn cpuid(&self) -> &Table {
        &self.cpuid
    }

    /// The paravirtual clock when it stopped.
    pub fn stopped_clock(&self) -> Option<u64> {
        let still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        still.clock
    }

    /// The states of all vCPUs, which stand still.
    ///
    /// # Errors
    /// What KVM would not tell.
    pub fn vcpu_states(&self) -> Result<Vec<VcpuState>, String> {
        let indices = self
            .system
            .msr_indices()
            .map_err(|error| error.to_string())?;
        let msrs = state_msrs(&indices);
        self.vcpus
            .iter()
            .map(|vcpu| {
                let msrs = msrs.clone();
                vcpu.call(move |vcpu| vcpu.save(&msrs))
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            })
            .collect()
    }

    /// Presses the ACPI power button.
    pub fn press_power_button(&self) {
        self.chipset.press_power_button();
    }

    /// Takes possession of what the devices share with other hosts. Once, before the first run.
    ///
    /// # Errors
    /// The device and the reason.
    pub fn activate(&self) -> Result<(), String> {
        for device in &self.devices {
            device.activate().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Lets the vCPUs run.
    pub fn start(&self) {
        for vcpu in &self.vcpus {
            vcpu.mailbox().run();
        }
    }

    /// Holds the vCPUs, then drains the devices. Doing it twice is harmless.
    ///
    /// # Errors
    /// When the clock cannot be read; the machine then runs on.
    pub fn pause(&self) -> Result<(), String> {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        if still.stands {
            return Ok(());
        }
        self.park();
        let clock = self.vm.clock().map_err(|error| {
            // Half a pause is none.
            self.start();
            error.to_string()
        })?;
        self.drain();
        (still.stands, still.clock) = (true, clock);
        Ok(())
    }

    fn park(&self) {
        for vcpu in &self.vcpus {
            vcpu.mailbox().park();
        }
        for vcpu in &self.vcpus {
            vcpu.mailbox().wait_parked();
        }
    }

    fn drain(&self) {
        for device in self.devices.iter().rev() {
            device.pause();
        }
    }

    /// Lets devices and vCPUs go on. The guest's clocks have run on meanwhile, so its time of day is
    /// right, and its watchdogs are told of the gap. Only the paravirtual clock of a snapshot goes on
    /// from where it stopped, since it belongs to another host.
    ///
    /// # Errors
    /// When the clock cannot be set; the machine then still stands.
    pub fn resume(&self) -> Result<(), String> {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        if !still.stands {
            return Ok(());
        }
        if let Some(clock) = still.clock.filter(|_| still.restored) {
            self.vm
                .set_clock(clock)
                .map_err(|error| error.to_string())?;
        }
        for device in &self.devices {
            device.resume();
        }
        for vcpu in &self.vcpus {
            vcpu.call(|vcpu| vcpu.notify_stopped())
                .map_err(|error| error.to_string())?;
        }
        still.stands = false;
        still.restored = false;
        for vcpu in &self.vcpus {
            vcpu.mailbox().run();
        }
        Ok(())
    }

    /// Power-on state, in the same process and on the same back-ends. It stands still afterwards.
    ///
    /// # Errors
    /// What could not be reset; the machine is then good for nothing.
    pub fn reset(&self) -> Result<(), String> {
        self.pause()?;
        for device in &self.devices {
            device.reset();
        }
        self.interrupts.reset().map_err(|error| error.to_string())?;
        let fresh = self.power_on_states().map_err(|error| error.to_string())?;
        let entry = self.boot.load(&self.spec, &self.memory, false);
        let entry = entry.map_err(|error| error.to_string())?;
        for (vcpu, state) in self.vcpus.iter().zip(fresh) {
            vcpu.call(move |vcpu| {
                vcpu.restore(&state)?;
                boot_vcpu(vcpu, &entry)
            })
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What vCPUs are like at power-on, read off new ones: KVM has no call that resets a vCPU.
    /// The TSC is left out, so that it goes on evenly on all vCPUs.
    fn power_on_states(&self) -> Result<Vec<VcpuState>, crate::kvm::KvmError> {
        const TSC: [u32; 2] = [0x10, 0x3b];
        let vm = self.system.create_vm()?;
        vm.enable_split_irqchip()?;
        let msrs: Vec<u32> = state_msrs(&self.system.msr_indices()?)
            .into_iter()
            .filter(|index| !TSC.contains(index))
            .collect();
        (0..)
            .zip(&self.vcpus)
            .map(|(index, _)| {
                let mut vcpu = vm.create_vcpu(index)?;
                vcpu.set_cpuid(&self.cpuid.for_vcpu(index))?;
                vcpu.save(&msrs)
            })
            .collect()
    }

    /// The last call before the process ends. Memory, vCPUs, threads and descriptors are left to the
    /// kernel, which takes them down all at once: dropping the machine instead would join one thread
    /// after another, for a millisecond that nobody needs.
    pub fn leave(&self) {
        for device in self.devices.iter().rev() {
            device.leave();
        }
    }

    /// Stands still, writes out what devices still hold, and gives up what is shared.
    ///
    /// # Errors
    /// What could not be written.
    pub fn end(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        // As a pause, but for the clock: nobody will ask for it.
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        if !still.stands {
            self.park();
            self.drain();
            still.stands = true;
        }
        drop(still);
        for device in self.devices.iter().rev() {
            if let Err(error) = device.inactivate() {
                failures.push(error.to_string());
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }
}
