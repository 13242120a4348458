//! Processor features by name: what a guest's CPUID may show, and our baselines.
//!
//! ```text
//! HostCpu (what KVM offers) ----.
//! CpuSpec (model and rules) -----+-- choose --> Chosen: the exact set of features,
//! MODELS  (baselines)      -----'               or every reason why there is none
//! ```
//!
//! The manager asks before it starts a guest, the `vmm` asks again when it makes the CPUID table:
//! one copy, so that they cannot differ. Names are libvirt's; places are those of the Intel SDM
//! (2A, CPUID) and the AMD APM (3, appendix E). This must never run the CPUID instruction or ask
//! KVM, and never chooses a feature that KVM does not offer.

mod choose;
mod features;
mod host;
mod models;
mod set;

pub use choose::{Chosen, Trouble, choose, migratable, standing};
pub use features::{Feature, Register, WORDS, Word};
pub use host::{HostCpu, Leaf, Vendor};
pub use models::{MODELS, Model, closest, find_model, nearest};
pub use set::Set;

#[cfg(test)]
mod tests;
