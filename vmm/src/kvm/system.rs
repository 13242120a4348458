//! `/dev/kvm` itself: what this host can do.
//!
//! Everything is asked here, once. It must never assume that a kernel has what most kernels have:
//! paravirtual and nested hosts miss a good part of it.

use super::{KvmError, Vm};
use crate::memory::layout::IDENTITY_MAP_BASE;
use kvm_bindings::{Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

/// The stable KVM API version, the only one there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Most CPUID entries that KVM hands out.
const MAX_CPUID_ENTRIES: usize = 256;

/// What a machine cannot be built without.
const REQUIRED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// What this host's KVM can do beyond the required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// KVM_GET/SET_XSAVE.
    pub xsave: bool,
    /// Bytes of the KVM_GET_XSAVE2 area; 0 without it.
    pub xsave2: usize,
    /// KVM_GET/SET_XCRS.
    pub xcrs: bool,
    /// KVM_GET/SET_DEBUGREGS.
    pub debugregs: bool,
    /// KVM_GET/SET_VCPU_EVENTS.
    pub vcpu_events: bool,
    /// The guest's TSC may have another frequency than the host's.
    pub tsc_control: bool,
    /// KVM_GET_TSC_KHZ.
    pub tsc_khz: bool,
    /// KVM_GET/SET_CLOCK.
    pub clock: bool,
    /// KVM_KVMCLOCK_CTRL.
    pub kvmclock_ctrl: bool,
    /// The local APIC timer has a TSC deadline mode.
    pub tsc_deadline: bool,
    /// KVM_SET_TSS_ADDR.
    pub tss_address: bool,
    /// KVM_SET_IDENTITY_MAP_ADDR.
    pub identity_map: bool,
    /// Most vCPUs of a machine.
    pub max_vcpus: u32,
    /// Memory slots that the guest cannot write.
    pub readonly_memory: bool,
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
    capabilities: Capabilities,
}

impl System {
    /// Takes `/dev/kvm` and asks what it can do.
    ///
    /// # Errors
    /// [`KvmError::Api`] when it is something else; [`KvmError::Missing`] with everything that
    /// is missing.
    pub fn new(fd: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is owned and given up here; if it is not KVM its system calls
        // fail, which the version check finds first.
        let kvm = unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(KvmError::Api(version));
        }
        let missing: Vec<_> = REQUIRED
            .into_iter()
            .filter(|(cap, _)| !kvm.check_extension(*cap))
            .map(|(_, name)| name)
            .collect();
        if !missing.is_empty() {
            return Err(KvmError::Missing(missing));
        }
        let has = |cap| kvm.check_extension(cap);
        let capabilities = Capabilities {
            xsave: has(Cap::Xsave),
            xsave2: usize::try_from(kvm.check_extension_int(Cap::Xsave2)).unwrap_or(0),
            xcrs: has(Cap::Xcrs),
            debugregs: has(Cap::Debugregs),
            vcpu_events: has(Cap::VcpuEvents),
            tsc_control: has(Cap::TscControl),
            tsc_khz: has(Cap::GetTscKhz),
            clock: has(Cap::AdjustClock),
            kvmclock_ctrl: has(Cap::KvmclockCtrl),
            tsc_deadline: has(Cap::TscDeadlineTimer),
            tss_address: has(Cap::SetTssAddr),
            identity_map: has(Cap::SetIdentityMapAddr),
            readonly_memory: has(Cap::ReadonlyMem),
            max_vcpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(1),
        };
        Ok(Self { kvm, capabilities })
    }

    /// What this host's KVM can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Every CPUID leaf that KVM can show a guest. Costs a third of a millisecond: ask once.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, KvmError> {
        let cpuid = self
            .kvm
            .get_supported_cpuid(MAX_CPUID_ENTRIES)
            .map_err(KvmError::call("asking for the CPUID that KVM supports"))?;
        Ok(cpuid.as_slice().to_vec())
    }

    /// The model-specific registers that belong to a vCPU's state.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = self
            .kvm
            .get_msr_index_list()
            .map_err(KvmError::call("asking for the list of MSRs"))?;
        Ok(list.as_slice().to_vec())
    }

    /// A register of the processor as KVM gives it to guests; 0 where KVM has no word on it.
    pub fn feature_msr(&self, index: u32) -> u64 {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let Ok(mut msrs) = Msrs::from_entries(&[entry]) else {
            return 0;
        };
        match self.kvm.get_msrs(&mut msrs) {
            Ok(1) => msrs.as_slice().first().map_or(0, |entry| entry.data),
            _ => 0,
        }
    }

    /// A new, empty virtual machine.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        self.create_vm_with(IDENTITY_MAP_BASE)
    }

    /// As [`System::create_vm`], with KVM's own pages at `helpers`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn create_vm_with(&self, helpers: u64) -> Result<Vm, KvmError> {
        loop {
            match self.kvm.create_vm() {
                Ok(fd) => return Vm::new(fd, self.capabilities, helpers),
                // The kernel gives up when a signal comes while it allocates.
                Err(error) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(KvmError::call("creating a virtual machine")(error)),
            }
        }
    }
}
