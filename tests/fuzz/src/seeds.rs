//! Inputs that reach something, made rather than kept.

use crate::mutate::Random;
use images::Format;
use images::ops::create::{CreateOptions, create_on};
use images::storage::{MemoryStorage, Storage};

/// Scripts of chance: bodies that read one get somewhere with any bytes.
pub(crate) fn scripts() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    [16, 64, 256, 1024, 4096, 4096, 8192]
        .map(|length| random.bytes(length))
        .into()
}

pub(crate) fn console() -> Vec<Vec<u8>> {
    let lines = [
        "{}\n",
        "{\"write\":true,\"force\":false}\nls\n",
        "{\"write\":true}\n",
    ];
    lines.map(Into::into).into()
}

/// A client that has come in and says one of everything.
pub(crate) fn vnc() -> Vec<Vec<u8>> {
    let enter = b"RFB 003.008\n\x01\x01";
    let encodings = [2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xfe, 0xcc];
    let request = [3, 0, 0, 0, 0, 0, 1, 0, 1, 0];
    let rest = [
        &[4, 1, 0, 0, 0, 0, 0, b'a'][..],
        &[5, 1, 0, 9, 0, 9],
        &[6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i'],
        &[255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 30],
        &request,
    ];
    vec![
        [&enter[..], &encodings, &request, &rest.concat()].concat(),
        [&enter[..], &request, &request].concat(),
        b"RFB 003.003\n\x01".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]
}

/// The same in masked messages of a WebSocket, a ping between them; and requests that open none.
pub(crate) fn vnc_web() -> Vec<Vec<u8>> {
    let frame = |kind: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len().min(125)).unwrap_or(125);
        let mask = [1, 2, 3, 4_u8];
        let masked = bytes.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m);
        let masked: Vec<u8> = masked.take(length.into()).collect();
        [&[0x80 | kind, 0x80 | length][..], &mask, &masked].concat()
    };
    let said = vnc().into_iter().map(|bytes| {
        let frames = [frame(2, &bytes), frame(9, b"there?"), frame(8, b"")];
        [&[0][..], &frames.concat()].concat()
    });
    let requests = [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: base64, binary\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
    ];
    let requests = requests.map(|text| [&[0x80][..], text.as_bytes()].concat());
    said.chain(requests).collect()
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    [
        r#"{"min":1,"max":1,"build":"0.1.0","capabilities":["save"]}"#,
        r#"{"id":1,"do":"query"}"#,
        r#"{"id":1,"request":{"do":"stats","device":null}}"#,
        r#"{"id":2,"request":{"do":"pause"}}"#,
        r#"{"answer":{"id":1,"outcome":{"ok":"done"}}}"#,
        r#"{"reason":"shutdown","detail":"","code":0}"#,
        r#"{"write":true,"force":true}"#,
        r#"{"role":"writer","replay":17}"#,
    ]
    .map(Into::into)
    .into()
}

pub(crate) fn control() -> Vec<Vec<u8>> {
    let hello = r#"{"min":1,"max":1,"build":"x","capabilities":[]}"#;
    let calls = [
        "query", "events", "pause", "resume", "save", "destroy", "nonsense",
    ];
    let calls: Vec<String> = (1..)
        .zip(calls)
        .flat_map(|(id, word)| {
            [
                format!("{{\"id\":{id},\"request\":{{\"do\":\"{word}\"}}}}"),
                format!("{{\"id\":{id},\"do\":\"{word}\"}}"),
            ]
        })
        .collect();
    vec![
        format!("{hello}\n{}", calls.join("\n")).into_bytes(),
        format!("{hello}\n!\u{1}\u{2}\u{3}\u{0}").into_bytes(),
        b"{}\n{}".to_vec(),
    ]
}

pub(crate) fn specs() -> Vec<Vec<u8>> {
    vec![
        serde_json::json!({
            "version": vmm_api::spec::SPEC_VERSION,
            "name": "a",
            "uuid": "91b72d56-7f74-4bd8-85d0-29f821a332e4",
            "machine": vmm_api::spec::MACHINE_NEWEST,
            "cpus": vmm_api::spec::CpuSpec::fixed(2),
            "memory": vmm_api::spec::MemorySpec::anonymous(128 << 20),
            "boot": {"type": "kernel", "kernel": {"fd": 3, "name": "k"}, "cmdline": "quiet"},
            "devices": [
                {"id": "panic0", "address": null, "kind": {"pv-panic": {}}},
                {"id": "pci.1", "address": "0000:00:02.0",
                 "type": "pcie-root-port", "bus": 1, "port": 1, "chassis": 1},
            ],
            "host": {"kvm": 4},
        })
        .to_string()
        .into_bytes(),
    ]
}

pub(crate) fn snapshots() -> Vec<Vec<u8>> {
    vec![vmm::fuzz::snapshot_seed()]
}

pub(crate) fn domains() -> Vec<Vec<u8>> {
    vec![include_bytes!("domain.xml").to_vec()]
}

/// Networks with one of everything, and the one that everybody has.
pub(crate) fn networks() -> Vec<Vec<u8>> {
    let default = include_bytes!("../../../virshlike/dist/default-network.xml");
    vec![include_bytes!("network.xml").to_vec(), default.to_vec()]
}

/// XPath expressions.
pub(crate) fn expressions() -> Vec<Vec<u8>> {
    let all = [
        "//c[@x='2' and position() < last()]/text() | /a/@b",
        "count(//c) + sum(//@*) * 2 - -1 div .5 mod 3",
        "concat(substring(name(//e:*), 1, 2), translate('ab', 'b', 'c'), string(true()))",
        "(//c)[1]/following-sibling::node()/ancestor-or-self::*[not(self::a)]",
    ];
    all.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Small images of several shapes, with a place in front for a script.
pub(crate) fn images() -> Vec<Vec<u8>> {
    let plain = CreateOptions {
        cluster_size: 512,
        ..CreateOptions::new(Format::Qcow2, 256 << 10)
    };
    let narrow = CreateOptions {
        refcount_bits: 1,
        ..plain.clone()
    };
    let old = CreateOptions {
        cluster_size: 4096,
        version: 2,
        ..plain.clone()
    };
    let sub = CreateOptions {
        cluster_size: 16384,
        extended_l2: true,
        ..plain.clone()
    };
    let mut random = Random::new(2);
    let mut all = Vec::new();
    for options in [plain, narrow, old, sub] {
        let memory = MemoryStorage::new();
        if create_on(&Storage::from(memory.clone()), &options).is_ok() {
            let image = memory.to_vec();
            // As it is for the body that reads, behind a script for the one that writes.
            let mut scripted = random.bytes(64);
            scripted.extend_from_slice(&image);
            all.extend([image, scripted]);
        }
    }
    all
}

/// Bitmap directories as they are written, behind a count and a place at which tables begin.
pub(crate) fn bitmaps() -> Vec<Vec<u8>> {
    let entry = |table: u64, entries: u32, flags: u32, name: &[u8]| {
        let mut bytes = table.to_be_bytes().to_vec();
        bytes.extend(entries.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend([1, 9]);
        bytes.extend((name.len() as u16).to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let one = entry(8192, 1, 2, b"one");
    let two = entry(8704, 1, 0, b"two");
    let in_use = entry(8192, 1, 3, b"in use");
    let long = entry(1 << 40, u32::MAX, 2, &[b'n'; 1023]);
    let table = [0x2600u64, 1, 0, u64::MAX].map(u64::to_be_bytes).concat();
    [[one, two].concat(), in_use, long]
        .into_iter()
        .map(|directory| {
            let half = (directory.len() / 2) as u8;
            [&[2, half][..], &directory, &table].concat()
        })
        .collect()
}

/// Small vmdk disks: a descriptor by itself, and files of plain, of compressed and of streamed grains.
pub(crate) fn vmdk() -> Vec<Vec<u8>> {
    const TEXT: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
        createType=\"monolithicSparse\"\nRW 128 SPARSE \"x.vmdk\"\n";
    // Sectors: 0 header, 1 descriptor, 2 directory, 3 to 6 table, 8 to 15 and 16 to 23 grains.
    let file = |flags: u32, compression: u16, directory: u64| {
        let mut bytes = vec![0; 24 * 512];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"KDMV");
        put(4, &1u32.to_le_bytes());
        put(8, &flags.to_le_bytes());
        for (at, value) in [(12, 128u64), (20, 8), (28, 1), (36, 1), (56, directory)] {
            put(at, &value.to_le_bytes());
        }
        put(44, &512u32.to_le_bytes());
        put(73, b"\n \r\n");
        put(77, &compression.to_le_bytes());
        put(512, TEXT);
        put(2 * 512, &3u32.to_le_bytes());
        put(3 * 512, &[8u32, 16, 1, 0].map(u32::to_le_bytes).concat());
        // A compressed grain: its place, its length, and a stored block of zlib.
        put(8 * 512 + 8, &16u32.to_le_bytes());
        put(
            8 * 512 + 12,
            &[
                0x78, 0x01, 1, 5, 0, 0xfa, 0xff, b'a', b'b', b'c', b'd', b'e', 5, 200, 1, 240,
            ],
        );
        bytes
    };
    let plain = file(5, 0, 2);
    let packed = file(0x1_0001, 1, 2);
    // The header of a stream says that its footer says where the directory is.
    let mut streamed = file(0x1_0001, 1, u64::MAX);
    streamed.extend_from_slice(&packed[..512]);
    streamed.extend([0; 512]);
    vec![TEXT.to_vec(), plain, packed, streamed]
}
