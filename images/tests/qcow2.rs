//! qcow2 against QEMU's tools, in both directions, over a matrix of shapes.
mod common;

use std::path::Path;

use common::*;
use images::exec::Executor;
use images::{Format, Image, OpenOptions};

/// The options of qemu-img create, and the cluster size they mean.
const SHAPES: &[(&str, u64)] = &[
    ("cluster_size=64k", 65536),
    ("compat=0.10", 65536),
    ("compat=0.10,cluster_size=512", 512),
    ("cluster_size=512,refcount_bits=1", 512),
    ("cluster_size=512,refcount_bits=64", 512),
    ("cluster_size=1k,refcount_bits=2", 1024),
    ("cluster_size=2k,refcount_bits=4", 2048),
    ("cluster_size=4k,refcount_bits=8", 4096),
    ("cluster_size=4k,refcount_bits=32", 4096),
    ("cluster_size=16k,extended_l2=on", 16384),
    ("cluster_size=64k,extended_l2=on", 65536),
    ("cluster_size=2M", 2 << 20),
    ("cluster_size=64k,lazy_refcounts=on", 65536),
    ("cluster_size=64k,preallocation=metadata", 65536),
    (
        "cluster_size=16k,extended_l2=on,preallocation=metadata",
        16384,
    ),
    ("cluster_size=64k,compression_type=zstd", 65536),
];

/// A disk of many clusters, but not of many megabytes.
fn disk_size(cluster: u64) -> u64 {
    (cluster * 40).clamp(1 << 20, 5 << 20)
}

async fn read_all(image: &Image) -> Vec<u8> {
    image
        .read_bytes(0, image.virtual_size() as usize)
        .await
        .unwrap()
        .to_vec()
}

fn reads(ex: &Executor, file: &Path) -> Vec<u8> {
    let image = open(file, &qcow2().read_only(true)).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        let all = read_all(&image).await;
        image.inactivate().await.unwrap();
        all
    })
}

/// Writes a pattern with qemu-io.
fn qemu_fills(file: &Path, size: u64, cluster: u64, seed: u64) {
    let mut r = Random::new(seed);
    let mut args: Vec<String> = vec!["-f".into(), "qcow2".into()];
    for i in 0..30u64 {
        let command = match change(&mut r, size, cluster, i) {
            Change::Write { at, len, value } => format!("write -P {value} {at} {len}"),
            Change::Zero {
                at,
                len,
                unmap: true,
            } => format!("write -z -u {at} {len}"),
            Change::Zero {
                at,
                len,
                unmap: false,
            } => format!("write -z {at} {len}"),
            Change::Discard { at, len } => format!("discard {at} {len}"),
            Change::Flush => "flush".into(),
        };
        args.extend(["-c".into(), command]);
    }
    args.push(path(file).into());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    must("qemu-io", &args);
}

#[test]
fn what_qemu_writes_we_read() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (n, (shape, cluster)) in SHAPES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.qcow2");
        let size = disk_size(*cluster) + 512 * n as u64;
        must(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                shape,
                path(&file),
                &size.to_string(),
            ],
        );
        qemu_fills(&file, size, *cluster, n as u64 + 1);
        assert!(
            reads(&ex, &file) == qemu_reads(&file, dir.path()),
            "{shape}"
        );
    }
}

#[test]
fn compressed_images_are_read() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (n, shape) in [
        "cluster_size=64k",
        "cluster_size=4k",
        "cluster_size=512",
        "cluster_size=2M",
        "compression_type=zstd",
        "compression_type=zstd,cluster_size=4k",
        "compression_type=zstd,extended_l2=on",
        "compat=0.10",
    ]
    .iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let (source, file) = (dir.path().join("source.raw"), dir.path().join("disk.qcow2"));
        let mut r = Random::new(n as u64 + 7);
        let bytes: Vec<u8> = (0..3_000_000u64)
            .map(|i| {
                if i / 70000 % 3 == 0 {
                    r.below(7) as u8
                } else {
                    (i / 1000) as u8
                }
            })
            .collect();
        std::fs::write(&source, &bytes).unwrap();
        must(
            "qemu-img",
            &[
                "convert",
                "-c",
                "-O",
                "qcow2",
                "-o",
                shape,
                "-f",
                "raw",
                path(&source),
                path(&file),
            ],
        );
        assert!(reads(&ex, &file)[..bytes.len()] == bytes, "{shape}");
    }
}

#[test]
fn backing_chains_are_read_and_copied_from() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for shape in [
        "cluster_size=64k",
        "cluster_size=4k",
        "compat=0.10",
        "extended_l2=on",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..3)
            .map(|i| dir.path().join(format!("layer{i}")))
            .collect();
        let cluster = if shape.contains("4k") { 4096 } else { 65536 };
        let sizes = [700 * 1024 + 512, 2 << 20, 3 << 20u64];
        std::fs::write(&names[0], vec![0xaa; sizes[0] as usize]).unwrap();
        for i in 1..3 {
            let format = if i == 1 { "raw" } else { "qcow2" };
            let backing = format!("layer{}", i - 1);
            must(
                "qemu-img",
                &[
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-o",
                    shape,
                    "-b",
                    &backing,
                    "-F",
                    format,
                    path(&names[i]),
                    &sizes[i].to_string(),
                ],
            );
            qemu_fills(&names[i], sizes[i], cluster, 31 + i as u64);
        }
        let before = reads(&ex, &names[2]);
        assert!(before == qemu_reads(&names[2], dir.path()), "{shape}");
        random_writes(&ex, &names[2], before, cluster, 5, shape);
        let (status, text) = check(&names[2]);
        assert_eq!(status, 0, "{shape}: {text}");
        let image = open(&names[2], &qcow2().read_only(true)).unwrap();
        ex.block_on(async { image.activate().await.unwrap() });
        assert!(
            ex.block_on(read_all(&image)) == qemu_reads(&names[2], dir.path()),
            "{shape}"
        );
    }
}

/// A random workload with many requests in flight; checked against a model.
fn random_writes(
    ex: &Executor,
    file: &Path,
    before: Vec<u8>,
    cluster: u64,
    seed: u64,
    what: &str,
) -> Vec<u8> {
    let image = open(file, &qcow2()).unwrap();
    let mut model = Model::new(before);
    let mut r = Random::new(seed);
    ex.block_on(async {
        image.activate().await.unwrap();
        let size = image.virtual_size();
        for i in 0..200 {
            let change = change(&mut r, size, cluster, i);
            apply(&image, change).await.unwrap();
            model.apply(change);
            if i % 10 == 0 {
                let all = read_all(&image).await;
                model.check(&all, what);
                model.settle(&all);
            }
        }
        let all = read_all(&image).await;
        model.check(&all, what);
        image.inactivate().await.unwrap();
        all
    })
}

#[test]
fn what_we_write_qemu_reads() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (n, (shape, cluster)) in SHAPES.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.qcow2");
        let size = disk_size(*cluster) + 512 * n as u64;
        must(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                shape,
                path(&file),
                &size.to_string(),
            ],
        );
        for round in 0..2 {
            let before = reads(&ex, &file);
            let after = random_writes(&ex, &file, before, *cluster, 3 * n as u64 + round, shape);
            let (status, text) = check(&file);
            assert_eq!(status, 0, "{shape}: {text}");
            assert!(
                qemu_reads(&file, dir.path()) == after,
                "{shape}: qemu reads something else"
            );
            qemu_fills(&file, size, *cluster, n as u64 + 100);
        }
    }
}

#[test]
fn snapshots_keep_their_content_while_the_disk_changes() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (n, (shape, cluster)) in SHAPES.iter().enumerate() {
        // A refcount of one bit cannot count a snapshot.
        if shape.contains("refcount_bits=1") && !shape.contains("refcount_bits=16") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.qcow2");
        let size = disk_size(*cluster);
        must(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                shape,
                path(&file),
                &size.to_string(),
            ],
        );
        qemu_fills(&file, size, *cluster, n as u64 + 50);
        let kept = qemu_reads(&file, dir.path());
        must("qemu-img", &["snapshot", "-c", "kept", path(&file)]);
        let before = reads(&ex, &file);
        assert!(before == kept, "{shape}");
        let after = random_writes(&ex, &file, before, *cluster, n as u64, shape);
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{shape}: {text}");
        assert!(qemu_reads(&file, dir.path()) == after, "{shape}");
        must("qemu-img", &["snapshot", "-a", "kept", path(&file)]);
        assert!(
            qemu_reads(&file, dir.path()) == kept,
            "{shape}: the snapshot changed"
        );
        must("qemu-img", &["snapshot", "-d", "kept", path(&file)]);
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{shape}: {text}");
    }
}

#[test]
fn many_requests_in_flight_on_several_threads_keep_apart() {
    if !have_qemu() {
        return;
    }
    for shape in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = dir.path().join("disk.qcow2");
        let size: u64 = 32 << 20;
        must(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                shape,
                path(&file),
                "32M",
            ],
        );
        // With direct I/O, as a guest's disk.
        let image = open(&file, &OpenOptions::new(Format::Qcow2)).unwrap();
        let image = std::sync::Arc::new(image);
        executor().block_on(async { image.activate().await.unwrap() });
        let threads: Vec<_> = (0..3u64)
            .map(|t| {
                let image = image.clone();
                std::thread::spawn(move || {
                    let ex = executor();
                    let tasks = std::rc::Rc::new(std::cell::Cell::new(0u32));
                    for task in 0..16u64 {
                        let (image, tasks) = (image.clone(), tasks.clone());
                        tasks.set(tasks.get() + 1);
                        ex.spawn(async move {
                            let mut r = Random::new(t * 100 + task);
                            for i in 0..60 {
                                // Sector s of every task: (s / 512) % 48 tells the owner.
                                let sector = r.below(size / 512 / 48) * 48 + t * 16 + task;
                                let value = vec![(t * 16 + task + 1) as u8; 512];
                                let buf = images::IoBuf::from(&value[..]);
                                image.write_bytes(sector * 512, buf).await.unwrap();
                                if i % 20 == 0 {
                                    image.flush().await.unwrap();
                                }
                                let read = image.read_bytes(sector * 512, 512).await.unwrap();
                                assert_eq!(read[..], value[..]);
                            }
                            tasks.set(tasks.get() - 1);
                        });
                    }
                    ex.block_on(async {
                        while tasks.get() > 0 {
                            images::exec::sleep(std::time::Duration::from_millis(1)).await;
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let ex = executor();
        let all = ex.block_on(async {
            let all = read_all(&image).await;
            image.inactivate().await.unwrap();
            all
        });
        for (sector, bytes) in all.chunks(512).enumerate() {
            let owner = (sector % 48) as u8 + 1;
            assert!(bytes.iter().all(|&b| b == 0) || bytes.iter().all(|&b| b == owner));
        }
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{shape}: {text}");
        assert!(qemu_reads(&file, dir.path()) == all, "{shape}");
    }
}
