//! Operations on whole images, with qemu-img as oracle.
mod common;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use common::*;
use images::exec::Executor;
use images::ops::create::{Backing, CreateOptions, create};
use images::ops::{self, Comparison, ConvertOptions};
use images::{Compression, Format, Image, IoBuf, PathGate};

fn make(file: &Path, options: &CreateOptions) {
    let mut open = File::options();
    let f = open
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .unwrap();
    create(&f, options).unwrap();
}

fn active(ex: &Executor, file: &Path, format: Format, read_only: bool) -> Arc<Image> {
    let options = images::OpenOptions::new(format)
        .cache(images::Cache::Writeback)
        .read_only(read_only);
    let image = Arc::new(open_with(file, &options, &PathGate::new()).unwrap());
    ex.block_on(async { image.activate().await.unwrap() });
    image
}

fn close(ex: &Executor, image: &Image) {
    ex.block_on(async { image.inactivate().await.unwrap() });
}

/// Bytes with zeroes, repetition and noise in them.
fn content(len: usize) -> Vec<u8> {
    let mut r = Random::new(5);
    (0..len)
        .map(|i| match i / 50_000 % 4 {
            0 => 0,
            1 => (i / 100) as u8,
            2 => r.below(256) as u8,
            _ => r.below(3) as u8,
        })
        .collect()
}

#[test]
fn what_is_converted_is_the_same_in_every_format() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source.raw");
    let bytes = content(3_000_320);
    std::fs::write(&source, &bytes).unwrap();
    let plain = CreateOptions::new(Format::Qcow2, bytes.len() as u64);
    let cases = [
        (
            CreateOptions {
                format: Format::Raw,
                ..plain.clone()
            },
            false,
        ),
        (plain.clone(), false),
        (plain.clone(), true),
        (
            CreateOptions {
                compression: Compression::Zstd,
                ..plain.clone()
            },
            true,
        ),
        (
            CreateOptions {
                cluster_size: 4096,
                ..plain.clone()
            },
            true,
        ),
        (
            CreateOptions {
                cluster_size: 512,
                refcount_bits: 1,
                ..plain.clone()
            },
            true,
        ),
        (
            CreateOptions {
                cluster_size: 2 << 20,
                ..plain.clone()
            },
            true,
        ),
        (
            CreateOptions {
                extended_l2: true,
                ..plain.clone()
            },
            true,
        ),
        (
            CreateOptions {
                version: 2,
                ..plain
            },
            true,
        ),
    ];
    for (options, compress) in cases {
        convert_there_and_back(&ex, dir.path(), &bytes, &options, compress);
    }
}

/// Converts a raw file, has QEMU look at the result, and converts it back.
fn convert_there_and_back(
    ex: &Executor,
    dir: &Path,
    bytes: &[u8],
    options: &CreateOptions,
    compress: bool,
) {
    let what = format!("{options:?}, compressed: {compress}");
    let target = dir.join("target");
    make(&target, options);
    let from = active(ex, &dir.join("source.raw"), Format::Raw, true);
    let to = active(ex, &target, options.format, false);
    let convert = ConvertOptions {
        compress,
        ..ConvertOptions::default()
    };
    ex.block_on(async {
        ops::convert(&from, &to, &convert, &|_, _| {})
            .await
            .unwrap();
        let same = ops::compare(&from, &to, true, &|_, _| {}).await.unwrap();
        assert_eq!(
            same,
            Comparison::Identical {
                sizes_differ: false
            },
            "{what}"
        );
    });
    close(ex, &to);
    if options.format == Format::Qcow2 {
        let (status, text) = check(&target);
        assert_eq!(status, 0, "{what}: {text}");
        assert!(qemu_reads(&target, dir)[..bytes.len()] == *bytes, "{what}");
        let size = std::fs::metadata(&target).unwrap().len();
        let small = options.cluster_size > 512 && options.cluster_size < 1 << 20;
        assert!(
            !compress || !small || size < 1_600_000,
            "{what}: {size} bytes"
        );
    } else {
        assert!(std::fs::read(&target).unwrap()[..bytes.len()] == *bytes);
    }
    let back = dir.join("back.raw");
    make(&back, &CreateOptions::new(Format::Raw, bytes.len() as u64));
    let from = active(ex, &target, options.format, true);
    let to = active(ex, &back, Format::Raw, false);
    let plain = ConvertOptions::default();
    ex.block_on(async { ops::convert(&from, &to, &plain, &|_, _| {}).await.unwrap() });
    close(ex, &to);
    assert!(
        std::fs::read(&back).unwrap()[..bytes.len()] == *bytes,
        "{what}"
    );
}

#[test]
fn compressed_clusters_are_overwritten_and_packed_beside_others() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (
        dir.path().join("source.raw"),
        dir.path().join("target.qcow2"),
    );
    let bytes = content(2 << 20);
    std::fs::write(&source, &bytes).unwrap();
    for cluster_size in [4096, 65536] {
        let options = CreateOptions {
            cluster_size,
            ..CreateOptions::new(Format::Qcow2, 2 << 20)
        };
        make(&target, &options);
        let from = active(&ex, &source, Format::Raw, true);
        let to = active(&ex, &target, Format::Qcow2, false);
        let convert = ConvertOptions {
            compress: true,
            ..ConvertOptions::default()
        };
        let mut model = Model::new(bytes.clone());
        let mut r = Random::new(cluster_size);
        ex.block_on(async {
            // The second time every cluster replaces a compressed one.
            for round in 0..2 {
                ops::convert(&from, &to, &convert, &|_, _| {})
                    .await
                    .unwrap();
                for i in 0..40 {
                    let change = change(&mut r, 2 << 20, cluster_size, i);
                    apply(&to, change).await.unwrap();
                    if round == 1 {
                        model.apply(change);
                    }
                }
                if round == 0 {
                    to.write_zeroes(0, 2 << 20, true).await.unwrap();
                }
            }
            let all = to.read_bytes(0, 2 << 20).await.unwrap();
            model.check(&all, "packed");
        });
        close(&ex, &to);
        let (status, text) = check(&target);
        assert_eq!(status, 0, "{cluster_size}: {text}");
    }
}

#[test]
fn resized_disks_keep_what_they_have_and_gain_zeroes() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.qcow2");
    let plain = CreateOptions::new(Format::Qcow2, 1 << 20);
    for options in [
        plain.clone(),
        CreateOptions {
            cluster_size: 512,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 16384,
            extended_l2: true,
            ..plain.clone()
        },
        CreateOptions {
            version: 2,
            ..plain
        },
    ] {
        make(&file, &options);
        let image = active(&ex, &file, Format::Qcow2, false);
        let mut r = Random::new(8);
        let mut model = vec![0u8; 1 << 20];
        ex.block_on(async {
            for size in [
                3_000_320u64,
                700_416,
                66_048,
                9 << 20,
                512,
                5 << 20,
                5 << 20,
            ] {
                ops::resize(&image, size).await.unwrap();
                assert_eq!(image.virtual_size(), size);
                model.resize(size as usize, 0);
                let all = image.read_bytes(0, size as usize).await.unwrap();
                assert!(
                    all[..] == model[..],
                    "{options:?}: after a resize to {size}"
                );
                for _ in 0..10 {
                    let at = r.below(size / 512) as usize * 512;
                    let len = 3000.min(model.len() - at);
                    model[at..at + len].fill(7);
                    let buf = IoBuf::from(&model[at..at + len]);
                    image.write_bytes(at as u64, buf).await.unwrap();
                }
            }
        });
        close(&ex, &image);
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{options:?}: {text}");
        assert!(qemu_reads(&file, dir.path()) == model, "{options:?}");
    }
}

#[test]
fn a_disk_that_grows_over_a_longer_backing_file_shows_none_of_it() {
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), vec![9; 2 << 20]).unwrap();
    let file = dir.path().join("top");
    let backing = Some(Backing {
        name: "base".into(),
        format: Format::Raw,
    });
    make(
        &file,
        &CreateOptions {
            backing,
            ..CreateOptions::new(Format::Qcow2, 1 << 20)
        },
    );
    let image = active(&ex, &file, Format::Qcow2, false);
    ex.block_on(async {
        ops::resize(&image, 3 << 20).await.unwrap();
        let all = image.read_bytes(0, 3 << 20).await.unwrap();
        assert!(all[..1 << 20].iter().all(|&b| b == 9));
        assert!(all[1 << 20..].iter().all(|&b| b == 0));
    });
}

#[test]
fn maps_and_measures_agree_with_qemu() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), content(1 << 20)).unwrap();
    let file = dir.path().join("top.qcow2");
    let backing = Some(Backing {
        name: "base".into(),
        format: Format::Raw,
    });
    make(
        &file,
        &CreateOptions {
            backing,
            ..CreateOptions::new(Format::Qcow2, 4 << 20)
        },
    );
    must(
        "qemu-io",
        &[
            "-c",
            "write 1M 200k",
            "-c",
            "write -z 2M 128k",
            "-c",
            "write 0 64k",
            path(&file),
        ],
    );
    let image = active(&ex, &file, Format::Qcow2, true);
    let mut ours = Vec::new();
    ex.block_on(async {
        ops::map(&image, (0, u64::MAX), |e| ours.push(e.clone()))
            .await
            .unwrap()
    });
    let text = must("qemu-img", &["map", "--output=json", path(&file)]);
    let theirs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let at = |entries: &[serde_json::Value], offset: u64| {
        let e = entries.iter().find(|e| {
            let start = e["start"].as_u64().unwrap();
            (start..start + e["length"].as_u64().unwrap()).contains(&offset)
        });
        let e = e.unwrap();
        (
            e["depth"].clone(),
            e["zero"].clone(),
            e["data"].clone(),
            e["present"].clone(),
        )
    };
    let ours: Vec<_> = ours
        .iter()
        .map(|e| serde_json::to_value(e).unwrap())
        .collect();
    for offset in (0..4 << 20).step_by(65536) {
        assert_eq!(
            at(&ours, offset),
            at(&theirs, offset),
            "offset {offset}: {ours:#?} {text}"
        );
    }
    let total: u64 = ours.iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(total, 4 << 20);

    let text = must(
        "qemu-img",
        &["measure", "--output=json", "-O", "qcow2", path(&file)],
    );
    let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
    let options = CreateOptions::new(Format::Qcow2, 0);
    let ours = ex.block_on(async { ops::measure(Some(&image), &options).await.unwrap() });
    let ours = serde_json::to_value(ours).unwrap();
    assert_eq!(ours["required"], theirs["required"]);
    assert_eq!(ours["fully-allocated"], theirs["fully-allocated"]);
}

#[test]
fn rebase_and_commit_keep_the_content() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |name: &str| dir.path().join(name);
    std::fs::write(in_dir("old.raw"), content(1 << 20)).unwrap();
    std::fs::write(in_dir("new.raw"), vec![3; 1 << 20]).unwrap();
    let file = in_dir("top.qcow2");
    let named = |name: &str| {
        Some(Backing {
            name: name.into(),
            format: Format::Raw,
        })
    };
    let backing = named("old.raw");
    make(
        &file,
        &CreateOptions {
            backing,
            ..CreateOptions::new(Format::Qcow2, 1 << 20)
        },
    );
    must(
        "qemu-io",
        &[
            "-c",
            "write -P 5 100k 100k",
            "-c",
            "write -z 500k 64k",
            path(&file),
        ],
    );
    let before = qemu_reads(&file, dir.path());

    let image = active(&ex, &file, Format::Qcow2, false);
    let new = active(&ex, &in_dir("new.raw"), Format::Raw, true);
    ex.block_on(async { ops::rebase(&image, Some(&new), &|_, _| {}).await.unwrap() });
    close(&ex, &image);
    let reopen = || File::options().read(true).write(true).open(&file).unwrap();
    ex.block_on(async {
        let backing = named("new.raw");
        ops::set_backing(reopen(), path(&file), backing.as_ref())
            .await
            .unwrap();
    });
    assert!(qemu_reads(&file, dir.path()) == before);
    assert_eq!(check(&file).0, 0);

    let image = active(&ex, &file, Format::Qcow2, true);
    close(&ex, &new);
    // The chain holds its own lock on the base: a commit opens it beside, unlocked.
    close(&ex, &image);
    let mut options = images::OpenOptions::new(Format::Raw).cache(images::Cache::Writeback);
    options.no_locks = true;
    let base = open_with(&in_dir("new.raw"), &options, &PathGate::new()).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        base.activate().await.unwrap();
        ops::commit(&image, &base, &|_, _| {}).await.unwrap();
        base.inactivate().await.unwrap();
        image.inactivate().await.unwrap();
    });
    assert!(std::fs::read(in_dir("new.raw")).unwrap() == before);

    // And without any backing file.
    let image = active(&ex, &file, Format::Qcow2, false);
    ex.block_on(async { ops::rebase(&image, None, &|_, _| {}).await.unwrap() });
    close(&ex, &image);
    ex.block_on(async { ops::set_backing(reopen(), path(&file), None).await.unwrap() });
    std::fs::remove_file(in_dir("new.raw")).unwrap();
    assert!(qemu_reads(&file, dir.path()) == before);
}

#[test]
fn differences_are_found_where_they_are() {
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut bytes = content(1 << 20);
    std::fs::write(&a, &bytes).unwrap();
    bytes.resize(2 << 20, 0);
    std::fs::write(&b, &bytes).unwrap();
    let compare = |strict| {
        let x = active(&ex, &a, Format::Raw, true);
        let y = active(&ex, &b, Format::Raw, true);
        ex.block_on(async { ops::compare(&x, &y, strict, &|_, _| {}).await.unwrap() })
    };
    assert_eq!(compare(false), Comparison::Identical { sizes_differ: true });
    assert_eq!(compare(true), Comparison::SizesDiffer);
    bytes[(2 << 20) - 1] = 1;
    std::fs::write(&b, &bytes).unwrap();
    assert_eq!(
        compare(false),
        Comparison::Differs {
            offset: (2 << 20) - 1
        }
    );
    bytes[77777] ^= 1;
    std::fs::write(&b, &bytes).unwrap();
    assert_eq!(compare(false), Comparison::Differs { offset: 77777 });
}
