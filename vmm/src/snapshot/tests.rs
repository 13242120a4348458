//! The container on its own: golden bytes, and every kind of damage.

use super::header::{ALIGNMENT, Header, LENGTH, Region, TABLE_OFFSET};
use super::*;
use devices::state::Section;
use proptest::prelude::*;
use std::fs::File;
use std::os::unix::fs::FileExt;

fn header() -> Header {
    Header {
        sections: 3,
        sections_offset: TABLE_OFFSET + 32,
        sections_length: 0x1234,
        regions: 1,
        file_length: ALIGNMENT + 0x10_0000,
        creator: "0.1.0".into(),
    }
}

/// Version 1, byte by byte. It must never change.
const GOLDEN: &str = "\
    766d737461746500010000006000000001000000030000002010000000000000\
    3412000000000000001000000000000001000000000020000000300000000000\
    302e312e300000000000000000000000000000000000000000000000";

#[test]
fn the_header_of_version_1_is_what_it_always_was() {
    let bytes = header().to_bytes();
    assert_eq!(bytes.len(), LENGTH);
    let hex = crate::arch::state::to_hex(&bytes);
    assert_eq!(hex.get(..GOLDEN.len()), Some(GOLDEN));
    assert_eq!(crc32c::crc32c(&bytes[..92]).to_le_bytes(), bytes[92..96]);
    let parsed = Header::parse(&bytes, ALIGNMENT + 0x10_0000).expect("whole");
    assert_eq!(parsed, header());
}

#[test]
fn damage_is_named() {
    let length = ALIGNMENT + 0x10_0000;
    let good = header().to_bytes();
    let say = |bytes: &[u8], length| {
        Header::parse(bytes, length)
            .expect_err("damaged")
            .to_string()
    };
    assert!(say(&[0; LENGTH], length).contains("not finished"));
    assert!(say(b"", length).contains("not finished"));
    assert!(say(&[b'x'; LENGTH], length).contains("not a file with saved state"));
    assert!(say(&good, length - 1).contains("bytes, its header says"));
    let mut newer = good.clone();
    newer[8] = 9;
    assert!(say(&newer, length).contains("version 9"));
    let mut flipped = good;
    flipped[60] ^= 1;
    assert!(say(&flipped, length).contains("checksum of the header"));
}

fn sections() -> Vec<Section> {
    [("serial0", "serial"), ("virtio-disk0", "virtio-blk")]
        .map(|(device, kind)| {
            Section::new(device, kind, 2, &serde_json::json!({"a": [1, 2]})).expect("plain data")
        })
        .into()
}

fn written() -> Vec<u8> {
    let mut bytes = Vec::new();
    for section in sections() {
        super::sections::write(&mut bytes, &section).expect("small");
    }
    bytes
}

#[test]
fn sections_survive_and_a_damaged_one_is_named() {
    let bytes = written();
    let parsed = super::sections::parse(&bytes, 2).expect("whole");
    assert_eq!(parsed, sections());
    let mut damaged = bytes.clone();
    let last = damaged.len() - 3;
    damaged[last] ^= 0x20;
    let error = super::sections::parse(&damaged, 2).expect_err("damaged");
    assert!(
        error
            .to_string()
            .contains("section 'virtio-blk' of device 'virtio-disk0'"),
        "{error}"
    );
    let error = super::sections::parse(&bytes, 1).expect_err("one too many");
    assert!(error.to_string().contains("follow the last section"));
    let error = super::sections::parse(&bytes, 3).expect_err("one too few");
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn regions_survive_and_must_lie_inside_the_file() {
    let region = Region {
        start: 0,
        length: 0x10_0000,
        offset: ALIGNMENT,
    };
    let parsed = Region::parse(&region.to_bytes(), &header()).expect("whole");
    assert_eq!(parsed, region);
    let outside = Region {
        length: 0x10_1000,
        ..region
    };
    assert!(Region::parse(&outside.to_bytes(), &header()).is_err());
    let crooked = Region {
        offset: 4096,
        ..region
    };
    assert!(Region::parse(&crooked.to_bytes(), &header()).is_err());
}

fn file_with(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("temporary file");
    file.write_all_at(bytes, 0).expect("written");
    file
}

#[test]
fn files_that_are_no_container_are_refused() {
    for bytes in [&b""[..], b"QFI\xfb", &[0; 5000], &[0xff; 5000]] {
        let error = open(file_with(bytes)).expect_err("no container");
        assert!(matches!(error, SnapshotError::NotAContainer(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), count in 0u32..5) {
        let _header = Header::parse(&bytes, 1 << 20);
        let _sections = super::sections::parse(&bytes, count);
        let _region = Region::parse(&bytes, &header());
    }

    #[test]
    fn no_flipped_bit_goes_unseen(at in 0usize..200, bit in 0u8..8) {
        let mut bytes = written();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(super::sections::parse(&bytes, 2).is_err());
    }
}
