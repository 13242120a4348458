//! What is x86-64 about a machine: registers at start, CPUID, MSRs, and the plain form of a vCPU's
//! state. Pure data and pure functions; system calls are [`crate::kvm`]'s.

pub mod cpuid;
pub mod registers;
pub mod state;
