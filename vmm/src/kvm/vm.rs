//! One virtual machine: memory slots, the split irqchip, the clock, vCPUs.
//!
//! Order matters for speed: memory slots are set before anything touches interrupt routing, because
//! the first slot after routing was set up waits for a grace period of several milliseconds.

use super::{Capabilities, KvmError, Vcpu};
use crate::memory::Rom;
use crate::memory::layout::IOAPIC_PINS;
use devices::memory::GuestMemory;
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MEM_READONLY, kvm_clock_data, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use std::sync::Arc;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// The ROM's memory slot, above all that RAM can have; every KVM has this many.
const ROM_SLOT: u32 = 400;

/// One virtual machine. Cheap to share; the machine is gone when the last holder is.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
    capabilities: Capabilities,
    /// What the slots point to must stay mapped for as long as the slots exist.
    memory: Option<Arc<GuestMemory>>,
    rom: Option<Arc<Rom>>,
}

impl Vm {
    /// `helpers` is where KVM may have pages of its own.
    pub(super) fn new(
        fd: VmFd,
        capabilities: Capabilities,
        helpers: u64,
    ) -> Result<Self, KvmError> {
        // Intel hosts without unrestricted guest mode need two places for real-mode helpers.
        if capabilities.identity_map {
            fd.set_identity_map_address(helpers)
                .map_err(KvmError::call("placing the identity map"))?;
        }
        if capabilities.tss_address {
            let base = usize::try_from(helpers + 0x1000).unwrap_or(usize::MAX);
            fd.set_tss_address(base)
                .map_err(KvmError::call("placing the task state segment"))?;
        }
        Ok(Self {
            fd,
            capabilities,
            memory: None,
            rom: None,
        })
    }

    /// What this host's KVM can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Gives the machine its RAM, one slot per region.
    ///
    /// # Errors
    /// [`KvmError::Call`] naming the region.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), KvmError> {
        for (slot, region) in memory.iter().enumerate() {
            let start = region.start_addr().0;
            let slot = kvm_userspace_memory_region {
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                flags: 0,
                guest_phys_addr: start,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is exactly one mapped region, which `self.memory` keeps mapped
            // for as long as this machine lives.
            unsafe { self.fd.set_user_memory_region(slot) }
                .map_err(KvmError::call(format!("mapping guest RAM at {start:#x}")))?;
        }
        self.memory = Some(memory);
        Ok(())
    }

    /// Gives the machine its ROM: reads are native, writes leave the guest and reach nobody.
    ///
    /// # Errors
    /// [`KvmError::Missing`] where KVM has no read-only memory, or [`KvmError::Call`].
    pub fn set_rom(&mut self, rom: Arc<Rom>) -> Result<(), KvmError> {
        if !self.capabilities.readonly_memory {
            return Err(KvmError::Missing(vec!["KVM_CAP_READONLY_MEM"]));
        }
        let start = rom.base();
        let slot = kvm_userspace_memory_region {
            slot: ROM_SLOT,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: start,
            memory_size: rom.len(),
            userspace_addr: rom.host_address(),
        };
        // SAFETY: the range is exactly the mapping of the ROM, which `self.rom` keeps mapped for as
        // long as this machine lives.
        unsafe { self.fd.set_user_memory_region(slot) }.map_err(KvmError::call(format!(
            "mapping the firmware at {start:#x}"
        )))?;
        self.rom = Some(rom);
        Ok(())
    }

    /// Local APICs in the kernel; PIC, IOAPIC and PIT stay ours.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn enable_split_irqchip(&self) -> Result<(), KvmError> {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        cap.args[0] = u64::from(IOAPIC_PINS);
        self.fd
            .enable_cap(&cap)
            .map_err(KvmError::call("enabling the split irqchip"))
    }

    /// A vCPU with this local APIC id.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vcpu(&self, index: u32) -> Result<Vcpu, KvmError> {
        let fd = self
            .fd
            .create_vcpu(u64::from(index))
            .map_err(KvmError::call(format!("creating vCPU {index}")))?;
        Ok(Vcpu::new(fd, index, self.capabilities))
    }

    /// Nanoseconds of the paravirtual clock; `None` where KVM cannot tell.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn clock(&self) -> Result<Option<u64>, KvmError> {
        if !self.capabilities.clock {
            return Ok(None);
        }
        let clock = self
            .fd
            .get_clock()
            .map_err(KvmError::call("reading the guest's clock"))?;
        Ok(Some(clock.clock))
    }

    /// Sets the paravirtual clock, so that a guest does not see the time it stood still.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        if !self.capabilities.clock {
            return Ok(());
        }
        let clock = kvm_clock_data {
            clock: nanoseconds,
            ..Default::default()
        };
        self.fd
            .set_clock(&clock)
            .map_err(KvmError::call("setting the guest's clock"))
    }
}
