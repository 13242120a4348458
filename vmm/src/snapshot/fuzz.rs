//! Files that claim to be saved state.

use super::header::{ALIGNMENT, Header, LENGTH, REGION_LENGTH, Region, TABLE_OFFSET};
use super::{MACHINE, MACHINE_VERSION, MachinePart, open, sections};
use crate::arch::state::{Registers, SystemRegisters, VCPU_VERSION, VcpuState};
use devices::state::Section;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use uuid::Uuid;
use vmm_api::spec::{
    BootSpec, CpuSpec, EndActions, Fd, HostSpec, MACHINE_NEWEST, MachineSpec, MemorySpec, NamedFd,
    Origin, SPEC_VERSION,
};

/// Bytes of RAM of the machine that the file may hold.
const RAM: u64 = 2 << 20;
/// Entries that are sealed at most.
const MANY: usize = 64;

/// The first byte says which checksums are made right again (1 header, 2 regions, 4 sections), the rest
/// is the file. Whether a machine could be made from it.
pub fn snapshot(bytes: &[u8]) -> bool {
    let [seals, container @ ..] = bytes else {
        return false;
    };
    let mut container = container.to_vec();
    seal(&mut container, *seals);
    let Ok(file) = memfd_create("fuzz", MemfdFlags::CLOEXEC).map(File::from) else {
        return false;
    };
    if file.write_all_at(&container, 0).is_err() || file.set_len(ALIGNMENT + RAM).is_err() {
        return false;
    }
    let Ok(container) = open(file) else {
        return false;
    };
    assert!(container.sections().len() <= container_limit(bytes));
    // It may be of this machine or not; both are answers.
    container.restore(&spec()).is_ok()
}

/// Sections that so many bytes may hold: each has a head.
fn container_limit(bytes: &[u8]) -> usize {
    bytes.len() / 16 + 1
}

fn word(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    four.map_or(0, u32::from_le_bytes) as usize
}

/// Writes the checksum of `body` behind it.
fn seal_at(bytes: &mut [u8], start: usize, length: usize) {
    let Some((body, sum)) = bytes
        .get_mut(start..start + length)
        .and_then(|part| part.split_last_chunk_mut::<4>())
    else {
        return;
    };
    *sum = crc32c::crc32c(body).to_le_bytes();
}

fn seal(bytes: &mut [u8], seals: u8) {
    if seals & 1 != 0 {
        seal_at(bytes, 0, LENGTH);
    }
    if seals & 2 != 0 {
        for entry in 0..word(bytes, 48).min(MANY) {
            let at = TABLE_OFFSET as usize + entry * REGION_LENGTH;
            seal_at(bytes, at, REGION_LENGTH);
        }
    }
    if seals & 4 != 0 {
        let mut at = word(bytes, 24);
        for _ in 0..word(bytes, 20).min(MANY) {
            let names = word(bytes, at + 8);
            let length = word(bytes, at + 4) + (names & 0xffff) + (names >> 16);
            let head = bytes.get(at..at + 12).map(crc32c::crc32c);
            let body = bytes.get(at + 16..(at + 16).saturating_add(length));
            let Some((head, body)) = head.zip(body) else {
                return;
            };
            let sum = crc32c::crc32c_append(head, body).to_le_bytes();
            if let Some(place) = bytes.get_mut(at + 12..at + 16) {
                place.copy_from_slice(&sum);
            }
            at += 16 + length;
        }
    }
}

/// A proper file, up to its RAM, to begin with.
pub fn snapshot_seed() -> Vec<u8> {
    let part = MachinePart {
        machine: MACHINE_NEWEST.into(),
        vcpus: 1,
        memory: RAM,
        clock: Some(1),
    };
    let all = [
        Section::new(MACHINE, MACHINE, MACHINE_VERSION, &part),
        Section::new(
            MACHINE,
            super::CPUID,
            super::CPUID_VERSION,
            &serde_json::json!({"leaves": [], "topology": {"threads": 1, "cores": 1, "dies": 1}}),
        ),
        Section::new("vcpu0", super::VCPU, VCPU_VERSION, &vcpu()),
        Section::new(
            "serial0",
            "serial",
            1,
            &serde_json::json!({"ier": 1, "fifo": "00ff"}),
        ),
    ];
    let mut body = Vec::new();
    let mut count = 0;
    for section in all.iter().flatten() {
        if sections::write(&mut body, section).is_ok() {
            count += 1;
        }
    }
    let region = Region {
        start: 0,
        length: RAM,
        offset: ALIGNMENT,
    };
    let header = Header {
        sections: count,
        sections_offset: TABLE_OFFSET + REGION_LENGTH as u64,
        sections_length: body.len() as u64,
        regions: 1,
        file_length: ALIGNMENT + RAM,
        creator: "fuzz".into(),
    };
    let mut bytes = vec![7];
    bytes.extend(header.to_bytes());
    bytes.resize(1 + TABLE_OFFSET as usize, 0);
    bytes.extend(region.to_bytes());
    bytes.extend(body);
    bytes
}

fn vcpu() -> VcpuState {
    VcpuState {
        mp_state: 0,
        registers: Registers::default(),
        system: SystemRegisters::default(),
        xcrs: None,
        xsave: None,
        debug: None,
        lapic: String::new(),
        msrs: Vec::new(),
        events: None,
        tsc_khz: None,
        held_interrupt: None,
    }
}

fn spec() -> MachineSpec {
    MachineSpec {
        version: SPEC_VERSION,
        name: "fuzz".into(),
        uuid: Uuid::nil(),
        machine: MACHINE_NEWEST.into(),
        cpus: CpuSpec::fixed(1),
        memory: MemorySpec::anonymous(RAM),
        boot: BootSpec::Kernel {
            kernel: NamedFd {
                fd: Fd(-1),
                name: "none".into(),
            },
            initrd: None,
            cmdline: String::new(),
        },
        end_actions: EndActions::default(),
        rtc_offset: 0,
        devices: Vec::new(),
        origin: Origin::Fresh,
        host: HostSpec::default(),
    }
}
