//! Inputs that reach something, made rather than kept.

use crate::mutate::Random;
use images::Format;
use images::ops::create::{CreateOptions, create_on};
use images::storage::{MemoryStorage, Storage};
use uuid::Uuid;
use vmm_api::spec::{
    BootSpec, CpuSpec, DeviceKind, DeviceSpec, EndActions, Fd, HostSpec, MACHINE_NEWEST,
    MachineSpec, MemorySpec, NamedFd, Origin, PciAddress, PvPanicSpec, RootPortSpec, SPEC_VERSION,
};

/// What begins a request of NBD.
const NBD_REQUEST: u32 = 0x2560_9513;

/// A script that does what a proper driver does, that one with chance behind it, and chance alone: bodies
/// that read one get somewhere with any bytes.
pub(crate) fn scripts(proper: Vec<u8>) -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let chance = [16, 64, 256, 1024, 4096, 4096, 8192].map(|length| random.bytes(length));
    let more = [&proper[..], &random.bytes(1024)].concat();
    [vec![proper, more], chance.into()].concat()
}

pub(crate) fn console() -> Vec<Vec<u8>> {
    let lines = [
        "{}\n",
        "{\"write\":true,\"force\":false}\nls\n",
        "{\"write\":true}\n",
    ];
    lines.map(Into::into).into()
}

/// A client that has come in and says one of everything: at once, without reading, and in part.
pub(crate) fn vnc() -> Vec<Vec<u8>> {
    let all = said_by_viewers().into_iter();
    let first = [&[2][..], &viewer()].concat();
    all.map(|bytes| [&[0][..], &bytes].concat())
        .chain([first])
        .collect()
}

/// A viewer's words: it comes in, asks for the picture, types, points, and asks again.
fn viewer() -> Vec<u8> {
    let encodings = [2, 0, 0, 2, 0, 0, 0, 16, 0xff, 0xff, 0xfe, 0xcc];
    let request = [3, 0, 0, 0, 0, 0, 1, 0, 1, 0];
    let rest = [
        &[4, 1, 0, 0, 0, 0, 0, b'a'][..],
        &[5, 1, 0, 9, 0, 9],
        &[6, 0, 0, 0, 0, 0, 0, 2, b'h', b'i'],
        &[255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 30],
        &request,
    ];
    let enter = b"RFB 003.008\n\x01\x01";
    [&enter[..], &encodings, &request, &rest.concat()].concat()
}

fn said_by_viewers() -> Vec<Vec<u8>> {
    let request = [3, 0, 0, 0, 0, 0, 1, 0, 1, 0];
    vec![
        viewer(),
        [&b"RFB 003.008\n\x01\x01"[..], &request, &request].concat(),
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
    let said = said_by_viewers().into_iter().map(|bytes| {
        let frames = [frame(2, &bytes), frame(9, b"there?"), frame(8, b"")];
        [&[0][..], &frames.concat()].concat()
    });
    let requests = [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Origin: http://x\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: base64, binary\r\n\r\n",
        "POST / HTTP/1.0\r\n\r\n",
    ];
    let requests = requests.map(|text| [&[1][..], text.as_bytes()].concat());
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

/// A machine with a kernel and two devices; and a text that is none.
pub(crate) fn specs() -> Vec<Vec<u8>> {
    let device = |id: &str, address, kind| DeviceSpec {
        id: id.into(),
        address,
        kind,
    };
    let port = RootPortSpec {
        bus: 1,
        port: 1,
        chassis: 1,
    };
    let spec = MachineSpec {
        version: SPEC_VERSION,
        name: "a".into(),
        uuid: Uuid::from_u128(0x91b7_2d56_7f74_4bd8_85d0_29f8_21a3_32e4),
        machine: MACHINE_NEWEST.into(),
        cpus: CpuSpec::fixed(2),
        memory: MemorySpec::anonymous(128 << 20),
        boot: BootSpec::Kernel {
            kernel: NamedFd {
                fd: Fd(3),
                name: "k".into(),
            },
            initrd: None,
            cmdline: "quiet".into(),
        },
        end_actions: EndActions::default(),
        rtc_offset: 0,
        devices: vec![
            device("panic0", None, DeviceKind::PvPanic(PvPanicSpec {})),
            device(
                "pci.1",
                PciAddress::new(0, 2, 0),
                DeviceKind::PcieRootPort(port),
            ),
        ],
        origin: Origin::Fresh,
        host: HostSpec {
            kvm: Some(Fd(4)),
            ..HostSpec::default()
        },
    };
    let text = spec.to_json().expect("plain data");
    vec![text, b"{\"version\": 1, \"devices\": []}".to_vec()]
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

/// The same with those first that the body takes that writes.
pub(crate) fn scripted_images() -> Vec<Vec<u8>> {
    let mut all = images();
    all.reverse();
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

fn option(out: &mut Vec<u8>, number: u32, data: &[u8]) {
    out.extend(b"IHAVEOPT");
    out.extend(number.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
}

fn request(out: &mut Vec<u8>, kind: u16, flags: u16, offset: u64, len: u32) {
    out.extend(NBD_REQUEST.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(out.len().to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
}

/// Every request there is, in both kinds of replies.
pub(crate) fn nbd() -> Vec<Vec<u8>> {
    let mut structured = 3u32.to_be_bytes().to_vec();
    option(&mut structured, 3, &[]);
    option(&mut structured, 5, &[]);
    option(&mut structured, 8, &[]);
    let mut query = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
    query.extend(b"base:allocation");
    option(&mut structured, 9, &query);
    option(&mut structured, 10, &query);
    option(&mut structured, 6, &[0, 0, 0, 0, 0, 3, 0, 1, 0, 2, 0, 3]);
    option(&mut structured, 7, &[0, 0, 0, 0, 0, 1, 0, 3]);
    let mut plain = 1u32.to_be_bytes().to_vec();
    option(&mut plain, 1, &[]);
    for seed in [&mut structured, &mut plain] {
        request(seed, 0, 0, 4096, 8192);
        request(seed, 0, 4, 1, 3);
        request(seed, 1, 1, 512, 700);
        seed.extend([5; 700]);
        request(seed, 3, 0, 0, 0);
        request(seed, 4, 1, 8192, 65536);
        request(seed, 6, 2 | 16, 100, 50_000);
        request(seed, 6, 0, 0, 4096);
        request(seed, 5, 0, 0, 262_144);
        request(seed, 7, 0, 0, 262_144);
        request(seed, 7, 8, 7, 100);
        request(seed, 0, 0, 262_143, 2);
        request(seed, 0, 0, 0, 0);
        request(seed, 2, 0, 0, 0);
    }
    vec![structured, plain]
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
    vec![plain, packed, streamed, TEXT.to_vec()]
}
