//! The parser is total, and what it lets through is inside the disk.

use super::*;
use proptest::prelude::*;

const DISK: Limits = Limits {
    capacity: 100 * SECTOR,
    read_only: false,
    discard: true,
};

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

fn shape(readable: u64, writable: u64) -> Shape {
    Shape { readable, writable }
}

fn with_segments(kind: u32, segments: &[Vec<u8>], limits: Limits) -> Result<Operation, Refusal> {
    let mut bytes = header(kind, 0);
    bytes.extend(segments.concat());
    let shape = shape(bytes.len() as u64, 1);
    bytes.truncate(HEADER + segment_bytes(shape));
    parse(&bytes, shape, limits)
}

#[test]
fn reads_and_writes_say_where_and_how_much() {
    let read = parse(&header(0, 3), shape(16, 1025), DISK);
    assert_eq!(
        read,
        Ok(Operation::Read {
            offset: 1536,
            len: 1024
        })
    );
    let write = parse(&header(1, 99), shape(16 + 512, 1), DISK);
    assert_eq!(
        write,
        Ok(Operation::Write {
            offset: 99 * 512,
            len: 512
        })
    );
}

#[test]
fn transfers_over_the_end_or_of_odd_length_are_refused() {
    for (sector, writable) in [
        (100, 513),
        (99, 1025),
        (u64::MAX, 513),
        (u64::MAX / 512, 513),
        (0, 514),
        (0, MAX_TRANSFER + 513),
    ] {
        let got = parse(&header(0, sector), shape(16, writable), DISK);
        let Err(refusal) = got else {
            panic!("{sector} {writable}: {got:?}");
        };
        assert_eq!(refusal.status(), status::IOERR);
    }
    assert!(parse(&header(0, 100), shape(16, 1), DISK).is_ok(), "empty");
    assert!(parse(&[0; 15], shape(15, 513), DISK).is_err());
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let limits = Limits {
        read_only: true,
        ..DISK
    };
    assert!(parse(&header(1, 0), shape(528, 1), limits).is_err());
    for kind in [11, 13] {
        assert!(with_segments(kind, &[segment(0, 1, 0)], limits).is_err());
    }
    assert!(parse(&header(0, 0), shape(16, 513), limits).is_ok());
    assert_eq!(
        parse(&header(4, 0), shape(16, 1), limits),
        Ok(Operation::Flush)
    );
}

#[test]
fn ranges_are_checked_one_by_one() {
    let range = |offset, len, unmap| Range { offset, len, unmap };
    assert_eq!(
        with_segments(13, &[segment(1, 2, 1), segment(5, 1, 0)], DISK),
        Ok(Operation::WriteZeroes(vec![
            range(512, 1024, true),
            range(2560, 512, false)
        ]))
    );
    assert_eq!(
        with_segments(11, &[segment(0, 100, 0)], DISK),
        Ok(Operation::Discard(vec![range(0, 51200, false)]))
    );
    let too_many = vec![segment(0, 1, 0); MAX_SEGMENTS + 1];
    for (kind, segments, status) in [
        (11, vec![], status::IOERR),
        (11, vec![segment(0, 1, 1)], status::UNSUPP),
        (13, vec![segment(0, 1, 2)], status::UNSUPP),
        (13, vec![segment(99, 2, 0)], status::IOERR),
        (13, vec![segment(0, u32::MAX, 0)], status::IOERR),
        (13, vec![vec![0; 15]], status::IOERR),
        (13, too_many, status::IOERR),
    ] {
        let got = with_segments(kind, &segments, DISK);
        assert_eq!(got.map_err(Refusal::status), Err(status), "{segments:?}");
    }
}

#[test]
fn unknown_requests_and_discards_that_were_not_offered_are_unsupported() {
    for kind in [2, 3, 5, 9, 10, 12, 14, 15, 0x8000_0000, u32::MAX] {
        let got = parse(&header(kind, 0), shape(16, 513), DISK);
        assert_eq!(got, Err(Refusal::Unsupported), "{kind}");
    }
    let limits = Limits {
        discard: false,
        ..DISK
    };
    let got = with_segments(11, &[segment(0, 1, 0)], limits);
    assert_eq!(got, Err(Refusal::Unsupported));
}

proptest! {
    #[test]
    fn whatever_comes_the_answer_lies_inside_the_disk(
        kind in prop_oneof![0..16_u32, any::<u32>()],
        sector in prop_oneof![0..110_u64, any::<u64>()],
        tail in prop::collection::vec(any::<u8>(), 0..400),
        readable in prop_oneof![0..600_u64, any::<u64>()],
        writable in prop_oneof![0..2000_u64, any::<u64>()],
        sectors in 0..1000_u64,
    ) {
        let limits = Limits { capacity: sectors * SECTOR, ..DISK };
        let mut bytes = header(kind, sector);
        bytes.extend(tail);
        let shape = shape(readable, writable);
        bytes.truncate(HEADER + segment_bytes(shape));
        let inside = |offset: u64, len: u64| offset + len <= limits.capacity;
        match parse(&bytes, shape, limits) {
            Ok(Operation::Read { offset, len }) => {
                prop_assert!(inside(offset, len) && len == writable.saturating_sub(1));
            }
            Ok(Operation::Write { offset, len }) => {
                prop_assert!(inside(offset, len) && len == readable.saturating_sub(16));
            }
            Ok(Operation::Discard(ranges) | Operation::WriteZeroes(ranges)) => {
                prop_assert!(ranges.len() <= MAX_SEGMENTS);
                prop_assert!(ranges.iter().all(|range| inside(range.offset, range.len)));
            }
            Ok(Operation::Flush | Operation::GetId) | Err(_) => {}
        }
    }
}
