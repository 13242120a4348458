//! Internal snapshots: ours read by QEMU's tools, and QEMU's by us.
mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use images::exec::Executor;
use images::ops::snapshot;
use images::{Image, IoBuf};

async fn fill(image: &Image, r: &mut Random, cluster: u64) {
    let size = image.virtual_size();
    for i in 0..20 {
        apply(image, change(r, size, cluster, i)).await.unwrap();
    }
}

async fn all(image: &Image) -> Vec<u8> {
    image
        .read_bytes(0, image.virtual_size() as usize)
        .await
        .unwrap()
        .to_vec()
}

fn assert_clean(file: &Path, what: &str) {
    let (status, text) = check(file);
    assert_eq!(status, 0, "{what}: {text}");
}

const SHAPES: [(&str, u64); 6] = [
    ("cluster_size=64k", 65536),
    ("cluster_size=4k", 4096),
    ("cluster_size=512,refcount_bits=64", 512),
    ("compat=0.10", 65536),
    ("cluster_size=16k,extended_l2=on", 16384),
    ("cluster_size=4k,preallocation=metadata", 4096),
];

/// A disk with two snapshots of ours.
struct Disk {
    dir: tempfile::TempDir,
    file: PathBuf,
    image: Image,
    first: Vec<u8>,
    second: Vec<u8>,
    last: Vec<u8>,
}

fn disk(ex: &Executor, shape: &str, cluster: u64) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.qcow2");
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
            "2M",
        ],
    );
    let mut r = Random::new(cluster + 77);
    let image = open(&file, &qcow2()).unwrap();
    let (first, second, last) = ex.block_on(async {
        image.activate().await.unwrap();
        fill(&image, &mut r, cluster).await;
        let first = all(&image).await;
        let id = snapshot::take(&image, "first", Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(id, "1");
        fill(&image, &mut r, cluster).await;
        let second = all(&image).await;
        snapshot::take(&image, "second", Duration::ZERO)
            .await
            .unwrap();
        fill(&image, &mut r, cluster).await;
        let last = all(&image).await;
        image.inactivate().await.unwrap();
        (first, second, last)
    });
    assert_clean(&file, shape);
    Disk {
        dir,
        file,
        image,
        first,
        second,
        last,
    }
}

#[test]
fn qemu_lists_and_reads_our_snapshots() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (shape, cluster) in SHAPES {
        let d = disk(&ex, shape, cluster);
        assert!(qemu_reads(&d.file, d.dir.path()) == d.last, "{shape}");
        let listed = must("qemu-img", &["snapshot", "-l", path(&d.file)]);
        assert!(
            listed.contains("first") && listed.contains("second"),
            "{listed}"
        );
        let raw = d.dir.path().join("s.raw");
        for (name, content) in [("first", &d.first), ("second", &d.second)] {
            let (from, to) = (path(&d.file), path(&raw));
            must(
                "qemu-img",
                &["convert", "-l", name, "-f", "qcow2", "-O", "raw", from, to],
            );
            assert!(&std::fs::read(&raw).unwrap() == content, "{shape}: {name}");
        }
    }
}

#[test]
fn snapshots_are_applied_and_deleted_together_with_qemu() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (shape, cluster) in SHAPES {
        let d = disk(&ex, shape, cluster);
        let image = &d.image;
        let mut r = Random::new(cluster);
        ex.block_on(async {
            image.activate().await.unwrap();
            snapshot::apply(image, "first").await.unwrap();
            assert!(all(image).await == d.first, "{shape}");
            image
                .write_bytes(0, IoBuf::from(&[1; 512][..]))
                .await
                .unwrap();
            image.inactivate().await.unwrap();
        });
        assert_clean(&d.file, shape);
        // QEMU deletes one of ours, we delete the other and one of QEMU's.
        must("qemu-img", &["snapshot", "-d", "first", path(&d.file)]);
        must("qemu-img", &["snapshot", "-c", "theirs", path(&d.file)]);
        ex.block_on(async {
            image.activate().await.unwrap();
            let names: Vec<_> = snapshot::list(image)
                .unwrap()
                .into_iter()
                .map(|s| s.name)
                .collect();
            assert_eq!(names, ["second", "theirs"]);
            fill(image, &mut r, cluster).await;
            snapshot::apply(image, "second").await.unwrap();
            assert!(all(image).await == d.second, "{shape}");
            snapshot::delete(image, "second").await.unwrap();
            snapshot::delete(image, "theirs").await.unwrap();
            assert!(snapshot::delete(image, "theirs").await.is_err());
            assert!(all(image).await == d.second, "{shape}");
            fill(image, &mut r, cluster).await;
            image.inactivate().await.unwrap();
        });
        assert_clean(&d.file, shape);
    }
}

#[test]
fn a_refcount_of_one_bit_takes_no_snapshot_and_loses_nothing() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.qcow2");
    let shape = "refcount_bits=1";
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
            "2M",
        ],
    );
    ex.block_on(async {
        let image = open(&file, &qcow2()).unwrap();
        image.activate().await.unwrap();
        image
            .write_bytes(0, IoBuf::from(&[3; 70000][..]))
            .await
            .unwrap();
        let before = all(&image).await;
        assert!(snapshot::take(&image, "s", Duration::ZERO).await.is_err());
        drop(image);
        let image = open(&file, &qcow2()).unwrap();
        image.activate().await.unwrap();
        assert!(all(&image).await == before);
        image.inactivate().await.unwrap();
    });
    assert_clean(&file, shape);
}
