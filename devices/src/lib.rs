//! Device models, their buses and their transports.
//!
//! A device here never knows KVM: it gets guest memory, interrupts, doorbells and files through the
//! small traits of [`host`], and answers through [`bus::BusDevice`] and [`device::Device`]. Guest-controlled
//! input must never panic, allocate without bound, or reach outside guest memory.
//!
//! Where to look: [`bus`] routes accesses, [`host`] is what the machine lends, [`device`] is what
//! every device offers, [`state`] is how it is saved, [`registry`] makes devices from their spec,
//! [`legacy`] holds the chipset and the ISA devices, [`backend`] what stands behind devices; [`fuzz`]
//! turns bytes into hostile guests.
#![deny(unsafe_code)]

pub mod backend;
pub mod bus;
pub mod device;
pub mod files;
pub mod fuzz;
pub mod host;
pub mod legacy;
pub mod memory;
pub mod pci;
pub mod registry;
pub mod state;
mod testing;
pub mod virtio;
