//! Writing a machine that stands still into a container.

use super::header::{self, ALIGNMENT, Header, REGION_LENGTH, Region, TABLE_OFFSET};
use super::{
    CPUID, CPUID_VERSION, MACHINE, MACHINE_VERSION, MachinePart, SnapshotError, VCPU, sections,
    vcpu_id,
};
use crate::arch::state::VCPU_VERSION;
use crate::machine::Machine;
use crate::memory::is_zero;
use devices::memory::{GuestMemory, GuestRegion};
use devices::state::{Saved, Section};
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// Pages are looked at in this unit; the guest's own.
const PAGE: u64 = 4096;
/// Longest run that is written at once, so that a stop is heard soon.
const RUN: u64 = 8 << 20;

/// Writes `machine`, which stands still, into `file`, and syncs it.
///
/// # Errors
/// [`SnapshotError`]; the file is then no container.
pub fn save(machine: &Machine, file: &File, abort: &AtomicBool) -> Result<(), SnapshotError> {
    let io = SnapshotError::io;
    let metadata = file.metadata().map_err(io("the file"))?;
    if !metadata.is_file() {
        return Err(SnapshotError::Unusable("it is not a regular file"));
    }
    if is_own_ram(machine.memory(), &metadata) {
        let reason = "it holds the RAM of this very guest, which was restored from it";
        return Err(SnapshotError::Unusable(reason));
    }
    let mut bytes = Vec::new();
    let mut count = 0;
    for section in collect(machine)? {
        sections::write(&mut bytes, &section)?;
        count += 1;
    }
    check_size(bytes.len() as u64)?;
    let memory = machine.memory();
    let (header, regions) = plan(memory, count, bytes.len() as u64);
    file.set_len(0).map_err(io("emptying the file"))?;
    file.set_len(header.file_length)
        .map_err(io("sizing the file"))?;
    let table: Vec<u8> = regions.iter().flat_map(|r| r.to_bytes()).collect();
    file.write_all_at(&table, TABLE_OFFSET)
        .map_err(io("writing the region table"))?;
    file.write_all_at(&bytes, header.sections_offset)
        .map_err(io("writing sections"))?;
    for (region, place) in memory.iter().zip(&regions) {
        write_region(region, place.offset, file, abort)?;
    }
    file.sync_all().map_err(io("syncing guest memory"))?;
    file.write_all_at(&header.to_bytes(), 0)
        .map_err(io("writing the header"))?;
    file.sync_all().map_err(io("syncing the header"))
}

/// A reader takes no more than this, so what is larger must not be written.
fn check_size(bytes: u64) -> Result<(), SnapshotError> {
    if bytes <= header::MAX_SECTION_BYTES {
        return Ok(());
    }
    Err(SnapshotError::State(format!(
        "the state of the devices takes {bytes} bytes, and a snapshot holds {}; give the graphics card \
         less video memory",
        header::MAX_SECTION_BYTES
    )))
}

/// Whether the guest's RAM is a mapping of this file: emptying it would take the RAM away.
pub(crate) fn is_own_ram(memory: &GuestMemory, file: &Metadata) -> bool {
    memory.iter().any(|region| {
        let backing = region.file_offset().map(|place| place.file().metadata());
        backing.is_some_and(|backing| {
            backing.is_ok_and(|own| (own.dev(), own.ino()) == (file.dev(), file.ino()))
        })
    })
}

fn plan(memory: &GuestMemory, sections: u32, bytes: u64) -> (Header, Vec<Region>) {
    let count = memory.num_regions();
    let table = (count * REGION_LENGTH) as u64;
    let sections_offset = TABLE_OFFSET + table;
    let mut end = sections_offset + bytes;
    let mut regions = Vec::with_capacity(count);
    for region in memory.iter() {
        let offset = end.next_multiple_of(ALIGNMENT);
        regions.push(Region {
            start: region.start_addr().0,
            length: region.len(),
            offset,
        });
        end = offset + region.len();
    }
    let header = Header {
        sections,
        sections_offset,
        sections_length: bytes,
        regions: u32::try_from(count).unwrap_or(u32::MAX),
        file_length: end,
        creator: env!("CARGO_PKG_VERSION").into(),
    };
    (header, regions)
}

fn collect(machine: &Machine) -> Result<Vec<Section>, SnapshotError> {
    let state = |error: &dyn std::fmt::Display| SnapshotError::State(error.to_string());
    let spec = machine.spec();
    let part = MachinePart {
        machine: spec.machine.clone(),
        vcpus: spec.cpus.count,
        memory: spec.memory.size,
        clock: machine.stopped_clock(),
    };
    let section = |device: &str, kind: &str, version, payload: &dyn erased::Payload| {
        payload
            .section(device, kind, version)
            .map_err(|error| state(&error))
    };
    let mut all = vec![
        section(MACHINE, MACHINE, MACHINE_VERSION, &part)?,
        section(MACHINE, CPUID, CPUID_VERSION, machine.cpuid())?,
    ];
    let vcpus = machine.vcpu_states().map_err(|error| state(&error))?;
    for (index, vcpu) in vcpus.iter().enumerate() {
        all.push(section(&vcpu_id(index), VCPU, VCPU_VERSION, vcpu)?);
    }
    for device in machine.devices() {
        match device.save().map_err(|error| state(&error))? {
            Saved::Stateless => {}
            Saved::Sections(sections) => all.extend(sections),
            Saved::Unsupported(reason) => {
                return Err(SnapshotError::Unsupported {
                    device: device.id().into(),
                    reason,
                });
            }
        }
    }
    Ok(all)
}

/// Anything that can be a payload, behind one pointer type.
mod erased {
    use devices::state::{Section, StateError};

    pub(super) trait Payload {
        fn section(&self, device: &str, kind: &str, version: u32) -> Result<Section, StateError>;
    }

    impl<T: serde::Serialize> Payload for T {
        fn section(&self, device: &str, kind: &str, version: u32) -> Result<Section, StateError> {
            Section::new(device, kind, version, self)
        }
    }
}

/// Writes the pages that hold something from `offset` of the file on; the others stay holes.
pub(crate) fn write_region(
    region: &GuestRegion,
    offset: u64,
    file: &File,
    abort: &AtomicBool,
) -> Result<(), SnapshotError> {
    let mut file = file;
    let mut at = 0;
    let length = region.len();
    while at < length {
        if abort.load(Ordering::Relaxed) {
            return Err(SnapshotError::Aborted);
        }
        let skipped = run(region, at, length, true);
        at += skipped;
        let full = run(region, at, length, false);
        if full == 0 {
            continue;
        }
        file.seek(SeekFrom::Start(offset + at))
            .map_err(SnapshotError::io("seeking in the file"))?;
        let count = usize::try_from(full).unwrap_or(0);
        region
            .write_all_volatile_to(MemoryRegionAddress(at), &mut file, count)
            .map_err(|error| SnapshotError::Io {
                what: "writing guest memory",
                source: match error {
                    vm_memory::GuestMemoryError::IOError(source) => source,
                    other => std::io::Error::other(other),
                },
            })?;
        at += full;
    }
    Ok(())
}

/// Bytes from `at` on, page by page, that are all zero, or not.
fn run(region: &GuestRegion, at: u64, end: u64, zero: bool) -> u64 {
    let limit = end.min(at.saturating_add(RUN));
    let mut next = at;
    while next < limit {
        let len = usize::try_from((end - next).min(PAGE)).unwrap_or(0);
        if is_zero(region, next, len) != zero {
            break;
        }
        next += len as u64;
    }
    next - at
}
