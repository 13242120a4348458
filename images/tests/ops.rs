//! Creating, describing and checking images, with qemu-img as oracle.
mod common;

use std::fs::File;
use std::path::Path;

use common::*;
use images::ops::{
    Backing, CheckReport, CreateOptions, Preallocation, Repair, check as our_check, create, info,
};
use images::{Compression, Format, IoBuf};

fn new_file(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap()
}

/// Checks an image that nobody has open any more. Other tests start programs meanwhile: until such a
/// child runs its own code it has our descriptors, and with them the locks of a file that we have closed.
fn checked(file: &Path, repair: Repair) -> images::error::Result<CheckReport> {
    let mut tries = 0;
    loop {
        let f = File::options().read(true).write(true).open(file).unwrap();
        let report = executor().block_on(our_check(f, path(file), repair));
        match report {
            Err(e) if matches!(e.kind(), images::ErrorKind::Locked { .. }) && tries < 100 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            report => return report,
        }
    }
}

/// A matrix of new images.
fn matrix() -> Vec<CreateOptions> {
    let mut all = Vec::new();
    let plain = CreateOptions::new(Format::Qcow2, 5_000_000);
    for cluster_size in [512, 4096, 65536, 2 << 20] {
        for refcount_bits in [1, 8, 16, 64] {
            for preallocation in [Preallocation::Off, Preallocation::Metadata] {
                let o = plain.clone();
                all.push(CreateOptions {
                    cluster_size,
                    refcount_bits,
                    preallocation,
                    ..o
                });
            }
        }
    }
    all.push(CreateOptions {
        version: 2,
        ..plain.clone()
    });
    all.push(CreateOptions {
        extended_l2: true,
        ..plain.clone()
    });
    all.push(CreateOptions {
        extended_l2: true,
        preallocation: Preallocation::Metadata,
        ..plain.clone()
    });
    all.push(CreateOptions {
        compression: Compression::Zstd,
        ..plain.clone()
    });
    all.push(CreateOptions {
        lazy_refcounts: true,
        ..plain.clone()
    });
    all.push(CreateOptions {
        preallocation: Preallocation::Falloc,
        ..plain.clone()
    });
    all.push(CreateOptions {
        preallocation: Preallocation::Full,
        ..plain.clone()
    });
    all.push(CreateOptions {
        size: 0,
        ..plain.clone()
    });
    all.push(CreateOptions {
        size: 1 << 40,
        ..plain
    });
    all
}

#[test]
fn new_images_are_what_was_asked_for() {
    if !have_qemu() {
        return;
    }
    for options in matrix() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new.qcow2");
        create(&new_file(&file), &options).unwrap();
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{options:?}: {text}");
        let report = checked(&file, Repair::No).unwrap();
        assert!(report.is_clean(), "{options:?}: {:?}", report.messages);

        let theirs: serde_json::Value =
            serde_json::from_str(&must("qemu-img", &["info", "--output=json", path(&file)]))
                .unwrap();
        let ours = info(File::open(&file).unwrap(), path(&file), Format::Qcow2).unwrap();
        let ours = serde_json::to_value(&ours).unwrap();
        for key in [
            "virtual-size",
            "cluster-size",
            "format",
            "dirty-flag",
            "actual-size",
        ] {
            assert_eq!(ours[key], theirs[key], "{options:?}: {key}");
        }
        assert_eq!(
            ours["format-specific"], theirs["format-specific"],
            "{options:?}"
        );
        if options.size < 1 << 30 {
            assert!(qemu_reads(&file, dir.path()).iter().all(|&b| b == 0));
        }
    }
}

#[test]
fn a_new_image_names_its_backing_file() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (base, file) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"));
    std::fs::write(&base, vec![7; 1 << 20]).unwrap();
    let options = CreateOptions {
        backing: Some(Backing {
            name: "base.raw".into(),
            format: Format::Raw,
        }),
        ..CreateOptions::new(Format::Qcow2, 2 << 20)
    };
    create(&new_file(&file), &options).unwrap();
    let ours = info(File::open(&file).unwrap(), path(&file), Format::Qcow2).unwrap();
    assert_eq!(ours.backing_filename.as_deref(), Some("base.raw"));
    assert_eq!(ours.full_backing_filename.as_deref(), Some(path(&base)));
    assert_eq!(ours.backing_filename_format.as_deref(), Some("raw"));
    let bytes = qemu_reads(&file, dir.path());
    assert!(bytes[..1 << 20].iter().all(|&b| b == 7) && bytes[1 << 20..].iter().all(|&b| b == 0));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let plain = CreateOptions::new(Format::Qcow2, 1 << 20);
    let cases = [
        CreateOptions {
            cluster_size: 100,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 4 << 20,
            ..plain.clone()
        },
        CreateOptions {
            refcount_bits: 3,
            ..plain.clone()
        },
        CreateOptions {
            version: 2,
            refcount_bits: 1,
            ..plain.clone()
        },
        CreateOptions {
            version: 4,
            ..plain.clone()
        },
        CreateOptions {
            extended_l2: true,
            cluster_size: 4096,
            ..plain.clone()
        },
        CreateOptions {
            size: u64::MAX,
            ..plain.clone()
        },
        CreateOptions {
            size: 1 << 62,
            cluster_size: 512,
            ..plain.clone()
        },
        CreateOptions {
            data_file: Some("a\0b".into()),
            ..plain.clone()
        },
        CreateOptions {
            data_file_raw: true,
            ..plain
        },
        CreateOptions {
            preallocation: Preallocation::Metadata,
            ..CreateOptions::new(Format::Raw, 1 << 20)
        },
    ];
    for options in cases {
        let e = create(&tempfile::tempfile().unwrap(), &options).unwrap_err();
        assert_eq!(
            e.kind(),
            &images::ErrorKind::InvalidInput,
            "{options:?}: {e}"
        );
    }
}

/// An image with data and a snapshot.
fn filled(dir: &Path, options: &str) -> std::path::PathBuf {
    let file = dir.join("disk.qcow2");
    must(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            path(&file),
            "8M",
        ],
    );
    must(
        "qemu-io",
        &[
            "-c",
            "write -P 1 0 1M",
            "-c",
            "write -P 2 3M 64k",
            path(&file),
        ],
    );
    must("qemu-img", &["snapshot", "-c", "s", path(&file)]);
    must("qemu-io", &["-c", "write -P 3 512k 1M", path(&file)]);
    file
}

fn patch(file: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    File::options()
        .write(true)
        .open(file)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

fn be64(file: &Path, at: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut b = [0; 8];
    File::open(file).unwrap().read_exact_at(&mut b, at).unwrap();
    u64::from_be_bytes(b)
}

#[test]
fn our_check_agrees_with_qemu_on_damage_and_repairs_it() {
    if !have_qemu() {
        return;
    }
    type Damage = fn(&Path);
    let reftable = |f: &Path| be64(f, 48);
    let _ = reftable;
    let damages: [(&str, Damage); 6] = [
        ("nothing", |_| {}),
        ("a count that is too high", |f| {
            patch(f, be64(f, be64(f, 48)) + 2 * 6, &[0, 5])
        }),
        ("counts that are zero", |f| {
            patch(f, be64(f, be64(f, 48)) + 2 * 3, &[0; 12])
        }),
        ("a block that is gone", |f| patch(f, be64(f, 48), &[0; 8])),
        ("a block at an odd place", |f| {
            patch(f, be64(f, 48), &0x1_0200u64.to_be_bytes())
        }),
        ("a leaked cluster", |f| {
            patch(f, be64(f, be64(f, 48)) + 2 * 200, &[0, 1])
        }),
    ];
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let file = filled(dir.path(), "cluster_size=64k");
        let file_len = std::fs::metadata(&file).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(file_len.max(210 << 16))
            .unwrap();
        let before = qemu_reads(&file, dir.path());
        damage(&file);
        let out = run(
            "qemu-img",
            &["check", "--output=json", "-f", "qcow2", path(&file)],
        );
        let theirs: serde_json::Value =
            serde_json::from_slice(&out.stdout).unwrap_or(serde_json::Value::Null);
        let ours = checked(&file, Repair::No).unwrap();
        let json = serde_json::to_value(&ours).unwrap();
        for key in [
            "leaks",
            "total-clusters",
            "allocated-clusters",
            "image-end-offset",
        ] {
            if !theirs[key].is_null() && theirs["check-errors"] == 0 {
                assert_eq!(json[key], theirs[key], "{what}: {key}: {:?}", ours.messages);
            }
        }
        let corrupt = theirs["corruptions"].as_u64().unwrap_or(0) > 0 || theirs.is_null();
        assert_eq!(
            ours.corruptions > 0,
            corrupt,
            "{what}: {theirs} {:?}",
            ours.messages
        );
        let repaired = checked(&file, Repair::All).unwrap();
        assert!(repaired.is_clean(), "{what}: {:?}", repaired.messages);
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{what}: {text}");
        assert!(
            qemu_reads(&file, dir.path()) == before,
            "{what}: the repair changed data"
        );
        must("qemu-img", &["snapshot", "-a", "s", path(&file)]);
        assert_eq!(check(&file).0, 0);
    }
}

#[test]
fn an_image_that_was_not_closed_is_repaired_when_it_is_activated() {
    if !have_qemu() {
        return;
    }
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
            "lazy_refcounts=on",
            path(&file),
            "8M",
        ],
    );
    // qemu-io kills itself before it has written the refcounts.
    let out = run(
        "qemu-io",
        &[
            "-c",
            "write -P 5 0 1M",
            "-c",
            "flush",
            "-c",
            "sigraise 9",
            path(&file),
        ],
    );
    assert!(!out.status.success());
    assert!(
        info(File::open(&file).unwrap(), "x", Format::Qcow2)
            .unwrap()
            .dirty_flag
    );
    assert!(checked(&file, Repair::No).unwrap().corruptions > 0);
    let ex = executor();
    // Reading needs no repair, and does none.
    let image = open(&file, &qcow2().read_only(true)).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        assert!(
            image
                .read_bytes(0, 1 << 20)
                .await
                .unwrap()
                .iter()
                .all(|&b| b == 5)
        );
        image.inactivate().await.unwrap();
    });
    assert!(
        info(File::open(&file).unwrap(), "x", Format::Qcow2)
            .unwrap()
            .dirty_flag
    );
    let image = open(&file, &qcow2()).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        image
            .write_bytes(2 << 20, IoBuf::from(&[6; 65536][..]))
            .await
            .unwrap();
        image.inactivate().await.unwrap();
    });
    assert!(
        !info(File::open(&file).unwrap(), "x", Format::Qcow2)
            .unwrap()
            .dirty_flag
    );
    let (status, text) = check(&file);
    assert_eq!(status, 0, "{text}");
    let bytes = qemu_reads(&file, dir.path());
    assert!(bytes[..1 << 20].iter().all(|&b| b == 5));
    assert!(bytes[2 << 20..(2 << 20) + 65536].iter().all(|&b| b == 6));
}

#[test]
fn a_corrupt_image_is_read_but_not_written() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = filled(dir.path(), "cluster_size=64k");
    patch(&file, 72, &2u64.to_be_bytes());
    let ex = executor();
    ex.block_on(async {
        let image = open(&file, &qcow2()).unwrap();
        let e = image.activate().await.unwrap_err();
        assert_eq!(e.kind(), &images::ErrorKind::Corrupt);
        let image = open(&file, &qcow2().read_only(true)).unwrap();
        image.activate().await.unwrap();
        assert!(
            image
                .read_bytes(0, 4096)
                .await
                .unwrap()
                .iter()
                .all(|&b| b == 1)
        );
    });
    checked(&file, Repair::All).unwrap();
    let image = open(&file, &qcow2()).unwrap();
    ex.block_on(async { image.activate().await.unwrap() });
}
