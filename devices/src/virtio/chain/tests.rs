//! Chains of every wrong kind, and what a right one gives.

use super::*;
use crate::testing::{clean, dirty};
use crate::virtio::testing::{Desc, INDIRECT, NEXT, WRITE};
use proptest::prelude::*;
use std::future::Future;

const TABLE: u64 = 0x1000;
const TABLE_2: u64 = 0x3000;
const RAM: u64 = 0x2_0000;
const HIGH: u64 = 1 << 32;

/// 128 KiB at 0, of which the second half is a region of its own; 64 KiB at 4 GiB.
fn memory() -> Arc<GuestMemory> {
    let half = (RAM / 2) as usize;
    let ranges = [
        (GuestAddress(0), half),
        (GuestAddress(RAM / 2), half),
        (GuestAddress(HIGH), 0x1_0000),
    ];
    Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
}

fn write_table(memory: &GuestMemory, at: u64, descs: &[Desc]) {
    for (index, desc) in descs.iter().enumerate() {
        let address = GuestAddress(at + index as u64 * 16);
        memory.write_slice(&desc.bytes(), address).unwrap();
    }
}

fn parse_with(memory: &Arc<GuestMemory>, size: u16, indirect: bool) -> Result<Chain, ChainError> {
    let table = Table {
        address: GuestAddress(TABLE),
        size,
        indirect,
    };
    Chain::parse(Arc::clone(memory), table, 0)
}

fn parse(descs: &[Desc]) -> Result<Chain, ChainError> {
    let memory = memory();
    write_table(&memory, TABLE, descs);
    parse_with(&memory, 8, true)
}

fn read(address: u64, len: u32, next: u16) -> Desc {
    Desc::new(address, len, NEXT, next)
}

fn last(address: u64, len: u32) -> Desc {
    Desc::new(address, len, 0, 0)
}

#[test]
fn bytes_flow_across_pieces_and_regions() {
    let memory = memory();
    let across = RAM / 2 - 4;
    write_table(
        &memory,
        TABLE,
        &[
            read(0x8000, 3, 1),
            read(across, 8, 2),
            Desc::new(HIGH, 5, WRITE | NEXT, 3),
            Desc::new(across - 0x100, 6, WRITE, 0),
        ],
    );
    memory.write_slice(b"abc", GuestAddress(0x8000)).unwrap();
    memory
        .write_slice(b"defghijk", GuestAddress(across))
        .unwrap();
    let chain = parse_with(&memory, 8, true).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (11, 11));
    let mut bytes = [0; 16];
    assert_eq!(chain.read_at(0, &mut bytes), 11);
    assert_eq!(&bytes[..11], b"abcdefghijk");
    assert_eq!(chain.read_at(5, &mut bytes[..3]), 3);
    assert_eq!(&bytes[..3], b"fgh");
    assert_eq!(chain.read_at(11, &mut bytes), 0);
    assert_eq!(chain.read_at(u64::MAX, &mut bytes), 0);
    assert_eq!(chain.write_at(3, b"0123456789"), 8);
    memory
        .read_slice(&mut bytes[..5], GuestAddress(HIGH))
        .unwrap();
    assert_eq!(&bytes[..5], b"\0\0\x0001");
    memory
        .read_slice(&mut bytes[..6], GuestAddress(across - 0x100))
        .unwrap();
    assert_eq!(&bytes[..6], b"234567");
}

#[test]
fn loops_and_long_chains_end() {
    let loops = parse(&[read(0x8000, 1, 1), read(0x8000, 1, 0)]);
    assert_eq!(loops.unwrap_err(), ChainError::TooMany);
    let itself = parse(&[read(0x8000, 1, 0)]);
    assert_eq!(itself.unwrap_err(), ChainError::TooMany);
    let full: Vec<Desc> = (1..8).map(|next| read(0x8000, 1, next)).collect();
    let full = [full, vec![last(0x8000, 1)]].concat();
    assert_eq!(parse(&full).unwrap().readable_len(), 8);
}

#[test]
fn indices_and_addresses_outside_are_refused() {
    let beyond = parse(&[read(0x8000, 1, 8)]);
    assert_eq!(beyond.unwrap_err(), ChainError::Index { index: 8, size: 8 });
    for (address, len) in [
        (RAM, 1),
        (RAM - 1, 2),
        (0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX - 1, 2),
        (HIGH + 0xffff, 2),
        (HIGH - 1, 2),
        (0xfee0_0000, 4),
    ] {
        let error = parse(&[last(address, len)]).unwrap_err();
        assert_eq!(error, ChainError::Outside { address, len });
    }
    for address in [RAM, RAM - 8, u64::MAX - 8] {
        let table = Table {
            address: GuestAddress(address),
            size: 8,
            indirect: true,
        };
        let error = Chain::parse(memory(), table, 0).unwrap_err();
        assert_eq!(error, ChainError::Table(address));
    }
}

#[test]
fn readable_behind_writable_is_refused() {
    let error = parse(&[Desc::new(0x8000, 1, WRITE | NEXT, 1), last(0x8000, 1)]);
    assert_eq!(error.unwrap_err(), ChainError::Order);
}

#[test]
fn four_gibibytes_are_too_long() {
    // One huge region is not needed: the same bytes may be named again and again.
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 256 << 20)]).unwrap());
    let mut descs: Vec<Desc> = (1..16).map(|next| read(0, 256 << 20, next)).collect();
    descs.push(last(0, (256 << 20) - 1));
    write_table(&memory, TABLE, &descs);
    let chain = parse_with(&memory, 16, true).unwrap();
    assert_eq!(chain.readable_len(), u64::from(u32::MAX));
    write_table(&memory, TABLE + 15 * 16, &[last(0, 256 << 20)]);
    let error = parse_with(&memory, 16, true).unwrap_err();
    assert_eq!(error, ChainError::TooLong);
}

#[test]
fn empty_pieces_add_nothing() {
    let chain = parse(&[read(0x8000, 0, 1), read(u64::MAX, 0, 2), last(0x8000, 4)]).unwrap();
    assert_eq!(chain.readable_len(), 4);
    let nothing = parse(&[last(0x8000, 0)]).unwrap();
    assert_eq!((nothing.readable_len(), nothing.writable_len()), (0, 0));
}

#[test]
fn indirect_tables_follow_their_rules() {
    let memory = memory();
    let inner = [read(0x8000, 2, 1), Desc::new(0x8000, 3, WRITE, 0)];
    write_table(&memory, TABLE_2, &inner);
    let table = |len, flags| Desc::new(TABLE_2, len, INDIRECT | flags, 0);
    // A direct piece may come before the table.
    write_table(&memory, TABLE, &[read(0x8000, 1, 1), table(32, 0)]);
    let chain = parse_with(&memory, 8, true).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len()), (3, 3));
    let refused = |descs: &[Desc], indirect: bool| {
        write_table(&memory, TABLE, descs);
        let error = parse_with(&memory, 8, indirect).unwrap_err();
        assert!(matches!(error, ChainError::Indirect(_)), "{error}");
    };
    refused(&[table(32, 0)], false);
    refused(&[table(32, NEXT)], true);
    for len in [0, 8, 31, u32::MAX, 16 * 0x1_0000] {
        refused(&[table(len, 0)], true);
    }
    // A table in a table.
    write_table(&memory, TABLE_2, &[table(32, 0)]);
    refused(&[table(32, 0)], true);
    // A table that loops.
    write_table(&memory, TABLE_2, &[read(0x8000, 1, 1), read(0x8000, 1, 0)]);
    write_table(&memory, TABLE, &[table(32, 0)]);
    let error = parse_with(&memory, 8, true).unwrap_err();
    assert_eq!(error, ChainError::TooMany);
}

#[test]
fn a_table_has_at_most_the_allowed_descriptors() {
    let memory = memory();
    let big = 2 * MAX_DESCRIPTORS as u16;
    let descs: Vec<Desc> = (1..=big).map(|next| read(0x8000, 1, next)).collect();
    write_table(&memory, 0x1_0000, &descs);
    let table = Desc::new(0x1_0000, u32::from(big) * 16, INDIRECT, 0);
    write_table(&memory, TABLE, &[table]);
    let error = parse_with(&memory, 8, true).unwrap_err();
    assert_eq!(error, ChainError::TooMany);
}

#[test]
fn what_is_lent_is_marked_when_the_transfer_ends_or_is_dropped() {
    let memory = memory();
    let across = RAM / 2 - 4096;
    write_table(&memory, TABLE, &[Desc::new(across, 8192, WRITE, 0)]);
    let chain = parse_with(&memory, 8, true).unwrap();
    clean(&memory);
    let executor = images::exec::Executor::new(images::exec::Engine::Threads).unwrap();
    let lent = executor.block_on(chain.with_writable(4000, 200, async |bytes| {
        assert!(dirty(&memory).is_empty(), "marked when it ends, not before");
        bytes.iter().map(Buffer::len).sum::<usize>()
    }));
    assert_eq!(lent, 200);
    assert_eq!(dirty(&memory), [(0, 15), (RAM / 2, 0)]);
    clean(&memory);
    {
        let mut transfer = Box::pin(chain.with_writable(0, 1, async |_| {
            std::future::pending::<()>().await;
        }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(transfer.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(dirty(&memory), [(0, 15)]);
    clean(&memory);
    let lent = executor.block_on(chain.with_readable(0, 100, async |bytes| bytes.len()));
    assert_eq!(lent, 0, "nothing is readable");
    assert!(dirty(&memory).is_empty());
}

proptest! {
    /// Whatever the tables hold, a chain that is accepted lies in RAM, in order, and is as long as
    /// it says; copying through it stays inside.
    #[test]
    fn accepted_chains_keep_their_promises(
        descs in prop::collection::vec(
            (
                prop_oneof![0..RAM + 0x100, HIGH - 0x100..HIGH + 0x1_0100, any::<u64>(), Just(TABLE_2)],
                prop_oneof![0..0x2000_u32, Just(32), any::<u32>()],
                0..8_u16,
                0..12_u16,
            ),
            1..16,
        ),
        indirect in any::<bool>(),
        offset in prop_oneof![0..0x4000_u64, any::<u64>()],
    ) {
        let memory = memory();
        let descs: Vec<Desc> = descs
            .into_iter()
            .map(|(address, len, flags, next)| Desc::new(address, len, flags, next))
            .collect();
        write_table(&memory, TABLE, &descs);
        write_table(&memory, TABLE_2, &descs);
        if let Ok(chain) = parse_with(&memory, 8, indirect) {
            let inside = |piece: &Piece| {
                GuestMemoryBackend::check_range(&*memory, piece.address, piece.len) && piece.len > 0
            };
            prop_assert!(chain.pieces.iter().all(inside));
            let sum = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len as u64).sum::<u64>();
            prop_assert_eq!(sum(chain.readable_pieces()), chain.readable_len());
            prop_assert_eq!(sum(chain.writable_pieces()), chain.writable_len());
            prop_assert!(chain.readable_len() + chain.writable_len() <= u64::from(u32::MAX));
            let mut bytes = [0; 64];
            let expected = chain.readable_len().saturating_sub(offset).min(64) as usize;
            prop_assert_eq!(chain.read_at(offset, &mut bytes), expected);
            let expected = chain.writable_len().saturating_sub(offset).min(64) as usize;
            prop_assert_eq!(chain.write_at(offset, &bytes), expected);
        }
    }
}

#[test]
fn what_a_transfer_may_have_touched_is_marked_and_no_more() {
    let memory = memory();
    let chain = |at: u64| {
        let (one, two) = (
            Desc::new(at, 4096, WRITE | NEXT, 1),
            Desc::new(at + 0x1000, 4096, WRITE, 0),
        );
        write_table(&memory, TABLE, &[one, two]);
        parse_with(&memory, 8, false).unwrap()
    };
    let chains = [0x1_0000, 0x1_2000, 0x1_4000, 0x1_6000].map(chain);
    let chains: Vec<&Chain> = chains.iter().collect();
    let mut rooms: Vec<Box<[u8]>> = chains.iter().map(|_| vec![0; 8].into()).collect();
    clean(&memory);
    // Nothing, a part, all for it failed; and of the last it says nothing.
    lend_all_writable(&chains, &mut rooms, 8, |lent| {
        assert!(lent.iter().all(|pieces| pieces.len() == 3));
        vec![0, 4097, usize::MAX]
    });
    let pages = [2, 3, 4, 5, 6, 7].map(|page| (RAM / 2, page));
    assert_eq!(dirty(&memory), pages);
    // What has too many pieces lends none.
    clean(&memory);
    lend_all_writable(&chains[..1], &mut rooms, 2, |lent| {
        assert_eq!(lent[0].len(), 1);
        vec![usize::MAX]
    });
    assert_eq!(dirty(&memory), []);
}
