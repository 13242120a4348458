//! KVM: the only place that knows its system calls.
//!
//! [`system`] is `/dev/kvm`, [`vm`] one virtual machine, [`vcpu`] one virtual CPU; [`interrupts`] and
//! [`doorbells`] are what devices see of the machine ([`devices::host`]), [`kick`] gets a vCPU thread
//! out of guest mode. There is no hypervisor trait above this: KVM is the one there is.
//!
//! Rules of this room: a capability is asked for before its system call is used; what is missing is
//! named all at once; nothing here decides what the machine does, and nothing here touches guest
//! memory contents.
#![allow(unsafe_code)]

pub mod doorbells;
pub mod interrupts;
pub mod kick;
pub mod msrs;
mod routes;
mod settle;
pub mod system;
pub mod vcpu;
mod vcpu_state;
pub mod vm;

pub use system::{Capabilities, System};
pub use vcpu::{Exit, Vcpu};
pub use vcpu_state::state_msrs;
pub use vm::Vm;

/// What KVM would not do.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// Not `/dev/kvm`, or a KVM of another age.
    #[error("the KVM descriptor answers with API version {0}, 12 is needed: pass an open /dev/kvm")]
    Api(i32),
    /// Capabilities that this program cannot do without.
    #[error(
        "this host's KVM lacks {}: a host kernel of version 4.20 or newer with its KVM module \
         loaded is needed", .0.join(", ")
    )]
    Missing(Vec<&'static str>),
    /// More vCPUs than this host's KVM allows.
    #[error("{asked} vCPUs are asked for, this host's KVM allows at most {most}")]
    TooManyVcpus {
        /// Asked for.
        asked: u32,
        /// Allowed.
        most: u32,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Call {
        /// Which, and on what.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl KvmError {
    /// Whether the kernel could not get at memory that it was given: EFAULT.
    pub fn is_bad_address(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.raw_os_error() == Some(libc::EFAULT))
    }

    pub(crate) fn call(what: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        let what = what.into();
        move |error| Self::Call {
            what,
            source: error.into(),
        }
    }
}
