//! A guest that stands still as an ELF core file: its RAM and the registers of its vCPUs.
//!
//! For people and their debuggers, not for going on: what a machine continues from is a snapshot
//! ([`crate::snapshot`]). Pages of zeroes are holes in the file. Nothing of the host is in it.

mod elf;

use crate::machine::Machine;
use crate::snapshot::{SnapshotError, is_own_ram, write_region};
use devices::memory::GuestMemory;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// As [`dump`], but what could not be written whole takes no space.
///
/// # Errors
/// As there; the file is empty then.
pub fn dump_or_nothing(
    machine: &Machine,
    file: &File,
    abort: &AtomicBool,
) -> Result<(), SnapshotError> {
    dump(machine, file, abort).inspect_err(|_| {
        if let Err(error) = file.set_len(0) {
            tracing::warn!(%error, "a part of a core cannot be taken back");
        }
    })
}

/// Writes `machine`, which stands still, into `file`, and syncs it. The head comes last: a file without
/// one is no whole core.
///
/// # Errors
/// [`SnapshotError`]; the file is then no whole core.
pub fn dump(machine: &Machine, file: &File, abort: &AtomicBool) -> Result<(), SnapshotError> {
    let io = SnapshotError::io;
    let metadata = file.metadata().map_err(io("the file"))?;
    if !metadata.is_file() {
        return Err(SnapshotError::Unusable("it is not a regular file"));
    }
    let memory: &GuestMemory = machine.memory();
    if is_own_ram(memory, &metadata) {
        return Err(SnapshotError::Unusable(
            "it holds the RAM of this very guest",
        ));
    }
    let vcpus = machine.vcpu_states().map_err(SnapshotError::State)?;
    let regions: Vec<_> = memory
        .iter()
        .map(|region| (region.start_addr().0, region.len()))
        .collect();
    let layout = elf::layout(&regions, &vcpus);
    file.set_len(0).map_err(io("emptying the file"))?;
    file.set_len(layout.length())
        .map_err(io("sizing the file"))?;
    for (region, load) in memory.iter().zip(&layout.loads) {
        write_region(region, load.offset, file, abort)?;
    }
    file.sync_all().map_err(io("syncing guest memory"))?;
    file.write_all_at(&layout.head, 0)
        .map_err(io("writing headers and registers"))?;
    file.sync_all().map_err(io("syncing headers and registers"))
}
