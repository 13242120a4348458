//! Reading a container: everything is checked before anything is built from it.

use super::header::{self, Header, Region};
use super::{
    CPUID, CPUID_VERSION, MACHINE, MACHINE_VERSION, MachinePart, SnapshotError, VCPU, sections,
    vcpu_id,
};
use crate::arch::cpuid::Table;
use crate::arch::state::{VCPU_VERSION, VcpuState};
use crate::machine::build::Restored;
use crate::memory::{self, SavedRegion};
use devices::state::{Origin, Section};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vmm_api::spec::MachineSpec;

/// A container that was read and found whole.
#[derive(Debug)]
pub struct Container {
    file: Arc<File>,
    /// The version of the program that wrote it.
    pub creator: String,
    sections: Vec<Section>,
    regions: Vec<SavedRegion>,
}

/// Reads the container in `file`.
///
/// # Errors
/// [`SnapshotError`], naming the part that is wrong.
pub fn open(file: File) -> Result<Container, SnapshotError> {
    let io = SnapshotError::io;
    let length = file.metadata().map_err(io("the file"))?.len();
    let mut bytes = vec![0; header::LENGTH];
    let head = usize::try_from(length).map_or(bytes.len(), |len| len.min(bytes.len()));
    bytes.truncate(head);
    file.read_exact_at(&mut bytes, 0)
        .map_err(io("reading the header"))?;
    let header = Header::parse(&bytes, length)?;
    let regions = read_regions(&file, &header)?;
    let size = usize::try_from(header.sections_length).unwrap_or(0);
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, header.sections_offset)
        .map_err(io("reading sections"))?;
    let sections = sections::parse(&bytes, header.sections)?;
    Ok(Container {
        file: Arc::new(file),
        creator: header.creator,
        sections,
        regions,
    })
}

fn read_regions(file: &File, header: &Header) -> Result<Vec<SavedRegion>, SnapshotError> {
    let count = usize::try_from(header.regions).unwrap_or(0);
    let mut table = vec![0; count * header::REGION_LENGTH];
    file.read_exact_at(&mut table, header::TABLE_OFFSET)
        .map_err(SnapshotError::io("reading the region table"))?;
    let entries = table.chunks_exact(header::REGION_LENGTH);
    entries
        .map(|entry| {
            let region = Region::parse(entry, header)?;
            Ok(SavedRegion {
                span: region.start..region.start + region.length,
                offset: region.offset,
            })
        })
        .collect()
}

impl Container {
    /// Everything but RAM, in the order of the file.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// What a machine with `spec` is built from.
    ///
    /// # Errors
    /// [`SnapshotError`] when the state is of another machine.
    pub fn restore(self, spec: &MachineSpec) -> Result<Restored, SnapshotError> {
        let part: MachinePart = self.payload(MACHINE, MACHINE, MACHINE_VERSION)?;
        let own = (&spec.machine, spec.cpus.count, spec.memory.size);
        let saved = (&part.machine, part.vcpus, part.memory);
        if own != saved {
            return Err(SnapshotError::Mismatch(format!(
                "a {} with {} vCPUs and {} bytes of RAM was saved; the spec says {} with {} and {}",
                saved.0, saved.1, saved.2, own.0, own.1, own.2
            )));
        }
        let cpuid: Table = self.payload(MACHINE, CPUID, CPUID_VERSION)?;
        let count = usize::try_from(part.vcpus).unwrap_or(0);
        let vcpus: Vec<VcpuState> = (0..count)
            .map(|index| self.payload(&vcpu_id(index), VCPU, VCPU_VERSION))
            .collect::<Result<_, _>>()?;
        let memory = memory::restore(&spec.memory, &self.file, &self.regions)
            .map_err(|error| SnapshotError::Mismatch(error.to_string()))?;
        let own = |section: &Section| {
            section.device == MACHINE || (0..count).any(|index| section.device == vcpu_id(index))
        };
        let sections = self.sections.into_iter().filter(|s| !own(s)).collect();
        Ok(Restored {
            memory,
            cpuid,
            vcpus,
            clock: part.clock,
            sections,
        })
    }

    fn payload<T: DeserializeOwned>(
        &self,
        device: &str,
        kind: &str,
        version: u32,
    ) -> Result<T, SnapshotError> {
        let own: Vec<Section> = self
            .sections
            .iter()
            .filter(|section| section.device == device)
            .cloned()
            .collect();
        let payload = Origin::Restored(&own).payload(device, kind, version);
        match payload {
            Ok(Some(payload)) => Ok(payload),
            Ok(None) => Err(SnapshotError::State("nothing was saved".into())),
            Err(error) => Err(SnapshotError::State(error.to_string())),
        }
    }
}
