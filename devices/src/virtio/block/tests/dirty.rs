//! The rule of dirty marking: after any requests, every byte of RAM that changed lies in a page that
//! is marked. KVM's log cannot see what devices write, so migration depends on this alone.

use super::*;
use crate::memory::GuestMemory;
use crate::testing::{clean, dirty};
use proptest::prelude::*;
use std::collections::BTreeSet;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

const HIGH: u64 = 1 << 32;

/// Every page of RAM with its content.
fn pages(memory: &GuestMemory) -> Vec<((u64, usize), Vec<u8>)> {
    let mut pages = Vec::new();
    for region in memory.iter() {
        let base = region.start_addr().0;
        for page in 0..region.len() as usize / 4096 {
            let mut bytes = vec![0; 4096];
            let at = GuestAddress(base + page as u64 * 4096);
            memory.read_slice(&mut bytes, at).unwrap();
            pages.push(((base, page), bytes));
        }
    }
    pages
}

/// A piece of a request: somewhere in either region, across page borders as it comes.
fn pieces() -> impl Strategy<Value = Vec<(u64, u32, bool)>> {
    let address = prop_oneof![DATA..DATA + 0x8000, HIGH..HIGH + 0x8000];
    prop::collection::vec((address, 0..6000_u32), 0..3).prop_map(|pieces| {
        pieces
            .into_iter()
            .map(|(address, len)| (address, len, true))
            .collect()
    })
}

/// Type, sector and pieces.
type Sent = (u32, u64, Vec<(u64, u32, bool)>);

fn requests() -> impl Strategy<Value = Vec<Sent>> {
    let kind = prop_oneof![4 => Just(0_u32), 1 => Just(8), 1 => Just(4), 1 => 0..16_u32];
    prop::collection::vec((kind, 0..2100_u64, pieces()), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_changed_byte_is_in_a_marked_page(requests in requests(), whole in any::<bool>()) {
        let (machine, file) = (FakeMachine::new(0x10_0000), image());
        let device = attach(&machine, &file, blk());
        let driver = Driver::find(&machine, ADDRESS);
        let mut ring = driver.start(FEATURES, &[64], RINGS).remove(0);
        // The driver's own writes come first, while the queue stands still.
        device.pause();
        let count = requests.len();
        for (kind, sector, mut data) in requests {
            if whole {
                // Make most reads succeed: whole sectors.
                data.iter_mut().for_each(|(_, len, _)| *len = len.next_multiple_of(512));
            }
            submit(&machine, &driver, &mut ring, (kind, sector), &data);
        }
        let memory = machine.memory.memory();
        clean(&memory);
        let before = pages(&memory);
        device.resume();
        while usize::from(ring.used_index(&machine)) < count {
            std::thread::yield_now();
        }
        device.pause();
        let marked: BTreeSet<_> = dirty(&memory).into_iter().collect();
        for ((page, old), (_, new)) in before.iter().zip(pages(&memory)) {
            prop_assert!(*old == new || marked.contains(page), "{page:x?} changed unmarked");
        }
    }
}
