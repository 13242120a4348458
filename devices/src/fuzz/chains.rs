//! Descriptor chains, and what devices make of the bytes in them.

use super::script::Script;
use crate::memory::GuestMemory;
use crate::virtio::block::request::{HEADER, Limits, Operation, Shape, parse, segment_bytes};
use crate::virtio::chain::{Chain, Table};
use crate::virtio::net;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// RAM: a low part and a high one.
const LOW: usize = 0x8000;
const HIGH: u64 = 1 << 32;
const HIGH_SIZE: usize = 0x1000;
/// Where tables are.
const TABLES: [u64; 4] = [0, 0x1000, HIGH, LOW as u64 - 64];

/// Tables of any descriptors; chains are parsed, read and written. Whether one could be read and written.
pub fn chains(bytes: &[u8]) -> bool {
    let ranges = [(GuestAddress(0), LOW), (GuestAddress(HIGH), HIGH_SIZE)];
    let Ok(memory) = GuestMemory::from_ranges(&ranges) else {
        return false;
    };
    let mut moved = false;
    let memory = Arc::new(memory);
    let mut script = Script::new(bytes);
    while !script.is_over() {
        let address = script.pick(&TABLES);
        for at in 0..u64::from(script.below(24)) {
            let descriptor = descriptor(&mut script);
            // A table at the end of RAM is cut short: that is what is tried.
            let _ = memory.write_slice(&descriptor, GuestAddress(address + 16 * at));
        }
        let table = Table {
            address: GuestAddress(script.pick(&TABLES)),
            size: script.pick(&[1, 2, 16, 256, 1024, 0x8000]),
            indirect: script.flag(),
        };
        let head = script.pick(&[0, 0, 1, 2, 15, 255, 0x7fff, 0xffff]);
        if let Ok(chain) = Chain::parse(Arc::clone(&memory), table, head) {
            moved |= move_bytes(&chain, &mut script);
        }
    }
    moved
}

fn descriptor(script: &mut Script<'_>) -> [u8; 16] {
    let address = match script.below(6) {
        0 => script.value(),
        1 => script.pick(&TABLES),
        2 => LOW as u64 - u64::from(script.byte()),
        3 => HIGH + u64::from(script.word()),
        _ => u64::from(script.word()),
    };
    let length = match script.below(4) {
        0 => script.value() as u32,
        1 => u32::from(script.below(16)) * 16,
        _ => u32::from(script.byte()),
    };
    let flags = script.pick(&[0, 1, 1, 2, 3, 3, 4, 5, 7, 0xffff_u16]);
    let next = script.pick(&[0, 1, 2, 3, 4, 5, 15, 255, 0xffff_u16]);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// Reads and writes through a chain that was accepted, at and over its ends. Whether it has both.
fn move_bytes(chain: &Chain, script: &mut Script<'_>) -> bool {
    let (readable, writable) = (chain.readable_len(), chain.writable_len());
    assert!(readable + writable < 1 << 32, "a chain of 4 GiB or more");
    let mut buffer = [0; 512];
    for _ in 0..2 {
        let offset = match script.below(4) {
            0 => script.value(),
            1 => readable.saturating_sub(u64::from(script.byte())),
            2 => writable.saturating_sub(u64::from(script.byte())),
            _ => u64::from(script.byte()),
        };
        let fits = |whole: u64| whole.saturating_sub(offset).min(512) as usize;
        assert_eq!(chain.read_at(offset, &mut buffer), fits(readable));
        assert_eq!(chain.write_at(offset, &buffer), fits(writable));
    }
    readable > 0 && writable > 0
}

/// Headers and ranges of disk requests of any shape, for disks of any size. Whether one moves data.
pub fn block_request(bytes: &[u8]) -> bool {
    let mut moves = false;
    let mut script = Script::new(bytes);
    while !script.is_over() {
        let limits = Limits {
            capacity: script.pick(&[0, 512, 1 << 20, 1 << 40, u64::MAX / 512 * 512]),
            read_only: script.flag(),
            discard: script.flag(),
        };
        let shape = Shape {
            readable: script.value(),
            writable: script.value(),
        };
        let mut request = script
            .pick(&[0_u32, 1, 4, 8, 11, 13, 5])
            .to_le_bytes()
            .to_vec();
        request.extend([0; 4]);
        request.extend(script.value().to_le_bytes());
        for _ in 0..segment_bytes(shape) / 16 {
            request.extend(script.value().to_le_bytes());
            request.extend((script.value() as u32).to_le_bytes());
            request.extend(u32::from(script.below(4)).to_le_bytes());
        }
        request.truncate(HEADER + segment_bytes(shape));
        if script.byte() == 0 {
            request.truncate(usize::from(script.byte()));
        }
        let (ranges, len) = match parse(&request, shape, limits) {
            Ok(Operation::Read { offset, len } | Operation::Write { offset, len }) => {
                (vec![(offset, len)], len)
            }
            Ok(Operation::Discard(ranges) | Operation::WriteZeroes(ranges)) => (
                ranges
                    .iter()
                    .map(|range| (range.offset, range.len))
                    .collect(),
                0,
            ),
            Ok(Operation::Flush | Operation::GetId) | Err(_) => continue,
        };
        moves |= !ranges.is_empty();
        assert!(len <= crate::virtio::block::request::MAX_TRANSFER);
        for (offset, len) in ranges {
            let end = offset.checked_add(len);
            assert!(
                end.is_some_and(|end| end <= limits.capacity),
                "outside the disk"
            );
        }
    }
    moves
}

/// Commands of a network card's control queue. Whether one is known.
pub fn net_control(bytes: &[u8]) -> bool {
    let mut known = false;
    for pairs in [0, 1, 2, 128, u16::MAX] {
        if let Some(wanted) = net::control_pairs(bytes, pairs) {
            assert!((1..=pairs).contains(&wanted), "{wanted} of {pairs} pairs");
            known = true;
        }
    }
    known
}
