//! vmdk disks as QEMU makes them, read by us; and what cannot be one.
mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use images::ops::{self, ConvertOptions, CreateOptions};
use images::{DenyAll, ErrorKind, Format, Image, OpenOptions, PathGate, detect};

const SIZE: usize = 5 << 20;

fn options() -> OpenOptions {
    OpenOptions::new(Format::Vmdk)
        .read_only(true)
        .cache(images::Cache::Writeback)
}

fn content() -> Vec<u8> {
    let mut r = Random::new(5);
    let mut bytes = vec![0; SIZE];
    for piece in bytes.chunks_mut(50_000) {
        match r.below(3) {
            0 => {}
            1 => piece.fill(r.below(255) as u8),
            _ => piece.iter_mut().for_each(|b| *b = r.below(256) as u8),
        }
    }
    bytes
}

/// A disk of a kind that QEMU makes, and what it has; None without QEMU.
fn disk(dir: &Path, kind: &str) -> Option<Vec<u8>> {
    if !have_qemu() {
        return None;
    }
    let bytes = content();
    std::fs::write(dir.join("raw"), &bytes).unwrap();
    let how = format!("subformat={kind}");
    let (from, to) = (dir.join("raw"), dir.join("d.vmdk"));
    let words = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        &how,
        path(&from),
        path(&to),
    ];
    must("qemu-img", &words);
    Some(bytes)
}

#[test]
fn disks_of_every_kind_read_as_qemu_wrote_them() {
    for kind in [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let Some(bytes) = disk(dir.path(), kind) else {
            return;
        };
        let file = dir.path().join("d.vmdk");
        let opened = std::fs::File::open(&file).unwrap();
        assert_eq!(detect(&opened), Some(Format::Vmdk), "{kind}");
        let info = ops::info(opened, path(&file), Format::Vmdk).unwrap();
        assert_eq!(info.virtual_size, SIZE as u64, "{kind}");
        let image = Arc::new(open_with(&file, &options(), &PathGate::new()).unwrap());
        executor().block_on(async {
            image.activate().await.unwrap();
            assert_eq!(image.virtual_size(), SIZE as u64);
            let all = image.read_bytes(0, SIZE).await.unwrap();
            assert!(*all == *bytes, "{kind}");
            let mut r = Random::new(9);
            for _ in 0..200 {
                let at = r.below(SIZE as u64 - 1);
                let len = (r.below(200_000) + 1).min(SIZE as u64 - at) as usize;
                let got = image.read_bytes(at, len).await.unwrap();
                assert!(
                    *got == bytes[at as usize..at as usize + len],
                    "{kind} at {at}"
                );
            }
            let mut covered = 0;
            let each = |entry: &ops::map::MapEntry| {
                assert_eq!(entry.start, covered);
                covered += entry.length;
                let range = entry.start as usize..covered as usize;
                assert!(
                    !entry.zero || bytes[range].iter().all(|&b| b == 0),
                    "{kind}: {entry:?}"
                );
            };
            ops::map::map(&image, (0, u64::MAX), each).await.unwrap();
            assert_eq!(covered, SIZE as u64);
            to_qcow2(&image, dir.path()).await;
        });
        assert!(
            qemu_reads(&dir.path().join("q"), dir.path()) == bytes,
            "{kind}"
        );
    }
}

async fn to_qcow2(image: &Arc<Image>, dir: &Path) {
    let file = std::fs::File::create_new(dir.join("q")).unwrap();
    ops::create(&file, &CreateOptions::new(Format::Qcow2, SIZE as u64)).unwrap();
    drop(file);
    let to = Arc::new(open_with(&dir.join("q"), &qcow2(), &DenyAll).unwrap());
    to.activate().await.unwrap();
    let how = ConvertOptions::default();
    ops::convert(image, &to, &how, &|_, _| {}).await.unwrap();
    to.inactivate().await.unwrap();
}

#[test]
fn files_that_a_descriptor_names_are_asked_from_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_) = disk(dir.path(), "monolithicFlat") else {
        return;
    };
    let file = dir.path().join("d.vmdk");
    let refused = open_with(&file, &options(), &DenyAll).err().unwrap();
    assert_eq!(refused.kind(), &ErrorKind::Refused, "{refused}");
    let elsewhere = tempfile::tempdir().unwrap();
    let gate = PathGate::new().beneath(elsewhere.path());
    assert!(open_with(&file, &options(), &gate).is_err());
    // A descriptor that names itself, or one file twice.
    let text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().find(|l| l.starts_with("RW ")).unwrap();
    for (lines, part) in [
        (format!("{line}\n{line}"), "twice: d-flat.vmdk"),
        (line.replace("d-flat.vmdk", "d.vmdk"), "the disk itself"),
    ] {
        std::fs::write(&file, text.replace(line, &lines)).unwrap();
        let error = open_with(&file, &options(), &PathGate::new()).err();
        let said = error.unwrap().to_string();
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_vmdk_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_) = disk(dir.path(), "monolithicSparse") else {
        return;
    };
    let file = dir.path().join("d.vmdk");
    let before = std::fs::read(&file).unwrap();
    let writable = options().read_only(false);
    let refused = open_with(&file, &writable, &PathGate::new()).err().unwrap();
    assert!(refused.to_string().contains("convert it"), "{refused}");
    let new = CreateOptions::new(Format::Vmdk, 1 << 20);
    let other = std::fs::File::create(dir.path().join("new")).unwrap();
    assert!(ops::create(&other, &new).is_err());
    assert!(std::fs::read(&file).unwrap() == before);
}

#[test]
fn what_cannot_be_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_) = disk(dir.path(), "monolithicSparse") else {
        return;
    };
    let file = dir.path().join("d.vmdk");
    let good = std::fs::read(&file).unwrap();
    let damaged = |at: usize, bytes: &[u8]| {
        let mut all = good.clone();
        all[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&file, all).unwrap();
        let error = open_with(&file, &options(), &PathGate::new()).err();
        error.map(|e| e.to_string()).unwrap_or_default()
    };
    let huge = u64::MAX.to_le_bytes();
    for (at, bytes, part) in [
        (4, &[9, 0, 0, 0][..], "version"),
        (12, &huge, "beyond"),
        (20, &[3], "grain"),
        (44, &[0, 0], "grain tables"),
        (56, &[0; 8], "grain directory"),
        (56, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], "grain directory"),
        (73, b"\r\n\n\n", "line ends"),
        (0, b"COWD", "neither"),
    ] {
        let said = damaged(at, bytes);
        assert!(said.contains(part), "{at}: {said}");
    }
    // Whatever a byte of the metadata becomes: an answer or an error.
    let ex = executor();
    let mut r = Random::new(3);
    for _ in 0..300 {
        let mut all = good.clone();
        for _ in 0..3 {
            let at = r.below(130 * 512) as usize;
            all[at] = r.below(256) as u8;
        }
        std::fs::write(&file, all).unwrap();
        if let Ok(image) = open_with(&file, &options(), &PathGate::new()) {
            ex.block_on(async {
                image.activate().await.unwrap();
                let size = image.virtual_size();
                let _ = image.read_bytes(0, size.min(1 << 20) as usize).await;
                let _ = image
                    .read_bytes(size / 2, (size / 2).min(1 << 16) as usize)
                    .await;
            });
        }
    }
}
