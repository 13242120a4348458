//! The fuzz bodies over damaged images: bounded here, longer with cargo-fuzz.
//!
//! `IMAGES_FUZZ_ROUNDS` sets how many damaged images each seed gives (default 150).
mod common;

use common::*;
use images::fuzz::{open_and_read, open_write_check};
use images::ops::create::{CreateOptions, create_on};
use images::storage::{MemoryStorage, Storage};
use images::{Format, Image, IoBuf, OpenOptions};

/// Real images of several shapes, small enough to be damaged often.
fn seeds() -> Vec<Vec<u8>> {
    let plain = CreateOptions::new(Format::Qcow2, 1 << 20);
    let shapes = [
        CreateOptions {
            cluster_size: 512,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 1,
            size: 100 << 10,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 4096,
            refcount_bits: 64,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 4096,
            version: 2,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 16384,
            extended_l2: true,
            ..plain
        },
    ];
    let ex = executor();
    let mut all: Vec<Vec<u8>> = shapes
        .iter()
        .map(|options| {
            let memory = MemoryStorage::new();
            create_on(&Storage::from(memory.clone()), options).unwrap();
            let open = OpenOptions::new(Format::Qcow2);
            let image = Image::open_storage(memory.clone().into(), "seed", &open, &images::DenyAll)
                .unwrap();
            ex.block_on(async {
                image.activate().await.unwrap();
                for i in 0..10u64 {
                    let buf = IoBuf::from(&vec![i as u8 + 1; 3000][..]);
                    image.write_bytes(i * 9000, buf).await.unwrap();
                }
                image.write_zeroes(0, 5000, true).await.unwrap();
                let writable = options.refcount_bits > 1;
                if writable {
                    let clock = std::time::Duration::from_secs(1);
                    images::ops::snapshot::take(&image, "s", clock)
                        .await
                        .unwrap();
                    image
                        .write_bytes(0, IoBuf::from(&[9; 2000][..]))
                        .await
                        .unwrap();
                }
                image.inactivate().await.unwrap();
            });
            memory.to_vec()
        })
        .collect();
    if have_qemu() {
        let dir = tempfile::tempdir().unwrap();
        for shape in ["cluster_size=4k", "cluster_size=4k,compression_type=zstd"] {
            let (raw, file) = (dir.path().join("raw"), dir.path().join("qcow2"));
            std::fs::write(&raw, vec![5; 100_000]).unwrap();
            let (raw, out) = (path(&raw), path(&file));
            must(
                "qemu-img",
                &[
                    "convert", "-c", "-O", "qcow2", "-o", shape, "-f", "raw", raw, out,
                ],
            );
            all.push(std::fs::read(&file).unwrap());
        }
    }
    all
}

fn rounds() -> u64 {
    std::env::var("IMAGES_FUZZ_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150)
}

/// Damages a few places, most of them where metadata is.
fn damage(r: &mut Random, bytes: &mut [u8]) {
    for _ in 0..r.below(4) + 1 {
        let reach = r
            .pick(&[112, 112, 4096, 32768, bytes.len() as u64])
            .min(bytes.len() as u64);
        let at = r.below(reach) as usize;
        match r.below(4) {
            0 => bytes[at] ^= 1 << r.below(8),
            1 => bytes[at] = r.next() as u8,
            2 => {
                // A number of eight bytes that looks like an offset, or is huge.
                let value = r.pick(&[0, 512, 4096, 65536, 1 << 40, u64::MAX, 1 << 62, 1 << 63]);
                let at = at / 8 * 8;
                if let Some(target) = bytes.get_mut(at..at + 8) {
                    target.copy_from_slice(&(value | r.below(2)).to_be_bytes());
                }
            }
            _ => {
                let from = r.below(bytes.len() as u64 / 8) as usize * 8;
                let at = at / 8 * 8;
                if from + 8 <= bytes.len() && at + 8 <= bytes.len() {
                    bytes.copy_within(from..from + 8, at);
                }
            }
        }
    }
}

#[test]
fn damaged_images_are_refused_or_read() {
    for (n, seed) in seeds().into_iter().enumerate() {
        let mut r = Random::new(n as u64 + 1);
        open_and_read(&seed);
        for _ in 0..rounds() {
            let mut bytes = seed.clone();
            damage(&mut r, &mut bytes);
            if r.below(8) == 0 {
                bytes.truncate(r.below(bytes.len() as u64) as usize);
            }
            open_and_read(&bytes);
        }
    }
}

#[test]
fn damaged_images_are_refused_or_written_and_checked() {
    for (n, seed) in seeds().into_iter().enumerate() {
        let mut r = Random::new(n as u64 + 1000);
        for _ in 0..rounds() {
            let mut bytes: Vec<u8> = (0..64).map(|_| r.next() as u8).collect();
            let mut image = seed.clone();
            damage(&mut r, &mut image);
            bytes.extend(image);
            open_write_check(&bytes);
        }
    }
}

#[test]
fn no_bytes_at_all_are_refused() {
    open_and_read(&[]);
    open_write_check(&[]);
    open_and_read(b"QFI\xfb");
}
