//! The seam between the manager and guests' processes: how one comes to be. Everything after that
//! (state, requests, end) goes over the control socket and the run lock, whoever made it.

use super::limits::Limits;
use crate::error::Result;
use crate::spawn::MemoryPolicy;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use vmm_api::cpu::HostCpu;
use vmm_api::spec::MachineSpec;
use vmm_api::speed::KernelSpeed;

/// Everything that a new guest's process gets.
#[derive(Debug)]
pub struct Launch {
    /// The machine.
    pub spec: MachineSpec,
    /// The frozen spec, open for reading.
    pub spec_file: File,
    /// Every descriptor that the spec names; the process inherits them under these numbers.
    pub descriptors: Vec<OwnedFd>,
    /// Where stray output goes.
    pub output: File,
    /// Limits of its group.
    pub limits: Limits,
    /// From which of the host's nodes its memory comes; any when absent.
    pub memory: Option<MemoryPolicy>,
}

/// A process that was launched by this command.
pub trait Launched {
    /// Its process id, when it is a process.
    fn pid(&self) -> Option<u32>;
    /// What of its limits could not be set.
    fn unlimited(&self) -> &[String];
    /// How it ended, if it has; words for the operator.
    fn ended(&mut self) -> Option<String>;
    /// Ends it at once and waits until it is gone.
    fn kill(&mut self);
}

/// Makes guests' processes.
pub trait VmDriver: Send + Sync {
    /// Checks what can be checked before anything is prepared, such as that the program exists.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    fn ready(&self) -> Result<()>;

    /// The program that runs guests, as `<emulator>` of capabilities names it.
    fn program(&self) -> &Path;

    /// Starts the process. It is not yet known to run its guest: its control socket tells.
    ///
    /// # Errors
    /// Why there is no process.
    fn launch(&self, launch: Launch) -> Result<Box<dyn Launched>>;

    /// Measures how fast guest kernel code runs on an open KVM device, in a throw-away machine.
    ///
    /// # Errors
    /// Why it cannot be measured.
    fn measure(&self, kvm: File) -> Result<KernelSpeed>;

    /// Asks an open KVM device which CPU it can show guests.
    ///
    /// # Errors
    /// Why it cannot be told.
    fn host_cpu(&self, kvm: File) -> Result<HostCpu>;
}
