//! The virtual machine monitor: one process, one guest.
//!
//! Where to look: [`process`] is the story from the spec to the end record, [`machine`] the parts and
//! the one that decides, [`kvm`] speaks to the kernel, [`arch`] is what is x86-64, [`memory`] guest
//! RAM, [`vcpu`] the threads that run the guest, [`boot`] what it starts from, [`control`] the socket,
//! [`display`] who may see its screen, [`logging`] the log, [`snapshot`] a machine as a file, [`dump`] its RAM for a
//! debugger, [`sandbox`] the process itself, [`fuzz`] hostile
//! bytes for what is read from files and sockets. [`measure`] is
//! no guest: it tells how fast one would be. Devices come from the `devices` crate, the spec and the
//! control protocol from `vmm-api`.
#![deny(unsafe_code)]

pub mod arch;
mod bell;
pub mod boot;
pub mod control;
pub mod display;
pub mod dump;
pub mod fuzz;
pub mod kvm;
pub mod logging;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod process;
pub mod sandbox;
pub mod snapshot;
pub mod vcpu;
