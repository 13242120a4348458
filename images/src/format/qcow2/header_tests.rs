use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn plain() -> Header {
    Header {
        version: 3,
        cluster_bits: 16,
        size: 1 << 30,
        l1_size: 2,
        l1_offset: 3 << 16,
        reftable_offset: 1 << 16,
        reftable_clusters: 1,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_order: 4,
        header_length: V3_LEN,
        compression: Compression::Zlib,
        backing: None,
        extensions: Vec::new(),
        rest: Vec::new(),
    }
}

fn patched(at: usize, value: &[u8]) -> Result<Header> {
    let mut bytes = plain().to_bytes().unwrap();
    set(&mut bytes, at, value);
    Header::parse(&bytes)
}

#[test]
fn what_is_written_is_read_back() {
    let mut header = plain();
    header.backing = Some("base.qcow2".to_owned());
    header.extensions.push(Extension {
        kind: extension::BACKING_FORMAT,
        data: b"qcow2".to_vec(),
    });
    header.extensions.push(Extension {
        kind: 0x1234_5678,
        data: vec![1, 2, 3],
    });
    header.rest = vec![7; 8];
    header.header_length = V3_LEN + 8;
    let read = Header::parse(&header.to_bytes().unwrap()).unwrap();
    assert_eq!(read, header);
    assert_eq!(read.backing_format().unwrap().as_deref(), Some("qcow2"));
    let mut v2 = plain();
    v2.version = 2;
    v2.header_length = V2_LEN;
    assert_eq!(Header::parse(&v2.to_bytes().unwrap()).unwrap(), v2);
}

#[test]
fn impossible_fields_are_refused_by_name() {
    let cases: [(usize, &[u8], &str); 10] = [
        (20, &8u32.to_be_bytes(), "cluster_bits"),
        (20, &22u32.to_be_bytes(), "cluster_bits"),
        (24, &u64::MAX.to_be_bytes(), "virtual size"),
        (36, &0u32.to_be_bytes(), "L1 table"),
        (36, &u32::MAX.to_be_bytes(), "L1 table"),
        (40, &513u64.to_be_bytes(), "L1 table"),
        (56, &u32::MAX.to_be_bytes(), "refcount table"),
        (60, &u32::MAX.to_be_bytes(), "snapshots"),
        (96, &7u32.to_be_bytes(), "refcount_order"),
        (100, &u32::MAX.to_be_bytes(), "header_length"),
    ];
    for (at, value, field) in cases {
        let e = patched(at, value).unwrap_err();
        assert_eq!(e.kind(), &ErrorKind::Corrupt);
        assert!(e.to_string().contains(field), "{e}");
    }
}

#[test]
fn features_and_encryption_are_refused_by_name() {
    let e = patched(72, &(1u64 << 40).to_be_bytes()).unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::Unsupported(f) if f.contains("bit 40")),
        "{e}"
    );
    let mut header = plain();
    let mut entry = vec![0, 40];
    entry.extend(b"time travel");
    entry.resize(48, 0);
    header.extensions.push(Extension {
        kind: extension::FEATURE_NAMES,
        data: entry,
    });
    header.incompatible = 1 << 40;
    let e = Header::parse(&header.to_bytes().unwrap()).unwrap_err();
    assert!(
        matches!(e.kind(), ErrorKind::Unsupported(f) if f.contains("time travel")),
        "{e}"
    );
    for (method, name) in [(1u32, "AES"), (2, "LUKS"), (3, "method 3")] {
        let e = patched(32, &method.to_be_bytes()).unwrap_err();
        assert!(
            matches!(e.kind(), ErrorKind::Unsupported(f) if f.contains(name)),
            "{e}"
        );
    }
}

#[test]
fn names_with_a_nul_are_refused() {
    let mut header = plain();
    header.backing = Some("/etc/shadow\0.qcow2".to_owned());
    let e = Header::parse(&header.to_bytes().unwrap()).unwrap_err();
    assert_eq!(e.kind(), &ErrorKind::Corrupt);
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Header::parse(&bytes);
        if bytes.len() > 24 {
            bytes[..4].copy_from_slice(b"QFI\xfb");
            bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
            bytes[20..24].copy_from_slice(&9u32.to_be_bytes());
            let _ = Header::parse(&bytes);
        }
    }
}
