//! Names inside images, loops, locks of qcow2, data files, full disks: what others get wrong.
mod common;

use std::path::Path;
use std::process::Command;

use common::*;
use images::ops::Repair;
use images::ops::check::check_storage;
use images::ops::create::{Backing, CreateOptions, create, create_on};
use images::storage::{Event, MemoryStorage, Storage};
use images::{DenyAll, ErrorKind, Format, Image, IoBuf, OpenOptions, PathGate};

fn overlay(file: &Path, backing: &str) {
    let options = CreateOptions {
        backing: Some(Backing {
            name: backing.into(),
            format: Format::Qcow2,
        }),
        ..CreateOptions::new(Format::Qcow2, 1 << 20)
    };
    let mut f = std::fs::File::options();
    let f = f
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .unwrap();
    create(&f, &options).unwrap();
}

fn refusal(file: &Path, gate: &PathGate) -> ErrorKind {
    let e = open_with(file, &qcow2().read_only(true), gate).err();
    e.expect("it must be refused").kind().clone()
}

#[test]
fn loops_and_long_chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    overlay(&a, "a");
    assert_eq!(refusal(&a, &PathGate::new()), ErrorKind::Corrupt);
    overlay(&a, "b");
    overlay(&b, "a");
    assert_eq!(refusal(&a, &PathGate::new()), ErrorKind::Corrupt);
    for i in 0..210 {
        overlay(&dir.path().join(format!("l{i}")), &format!("l{}", i + 1));
    }
    assert_eq!(
        refusal(&dir.path().join("l0"), &PathGate::new()),
        ErrorKind::Corrupt
    );
}

#[test]
fn names_in_images_open_nothing_that_the_gate_does_not_allow() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.qcow2");
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for name in [
        "fifo",
        "/dev/zero",
        "/dev/null",
        "nbd:localhost:10809",
        "json:{}",
        "nbd://x/y",
    ] {
        overlay(&file, name);
        assert_eq!(
            refusal(&file, &PathGate::new()),
            ErrorKind::Refused,
            "{name}"
        );
        let denied = open_with(&file, &qcow2().read_only(true), &DenyAll)
            .err()
            .unwrap();
        assert_eq!(denied.kind(), &ErrorKind::Refused);
    }
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    overlay(&dir.path().join("outside.qcow2"), "none");
    let file = inside.join("disk.qcow2");
    overlay(&file, "../outside.qcow2");
    let gate = PathGate::new().beneath(&inside);
    assert_eq!(refusal(&file, &gate), ErrorKind::Refused);
    std::os::unix::fs::symlink("../outside.qcow2", inside.join("link")).unwrap();
    overlay(&file, "link");
    assert_eq!(refusal(&file, &gate), ErrorKind::Refused);
}

#[test]
fn a_missing_backing_format_is_not_guessed() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (base, file) = (dir.path().join("base"), dir.path().join("disk.qcow2"));
    std::fs::write(&base, vec![1; 65536]).unwrap();
    must(
        "qemu-img",
        &[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            "base",
            "-F",
            "raw",
            path(&file),
            "1M",
        ],
    );
    must(
        "qemu-img",
        &[
            "rebase",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            "base",
            "-F",
            "raw",
            path(&file),
        ],
    );
    // Takes the format away: the extension's type becomes one that is not known.
    use std::os::unix::fs::FileExt;
    let f = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    let mut head = [0; 512];
    f.read_exact_at(&mut head, 0).unwrap();
    let at = head
        .windows(4)
        .position(|w| w == 0xe279_2acau32.to_be_bytes())
        .unwrap();
    f.write_all_at(&[0x55; 4], at as u64).unwrap();
    assert_eq!(refusal(&file, &PathGate::new()), ErrorKind::Refused);
    let raw = PathGate::new().assume_format(Format::Raw);
    assert!(open_with(&file, &qcow2(), &raw).is_ok());
}

#[test]
fn qcow2_locks_agree_with_qemu_in_both_directions() {
    if !have_qemu() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (base, file) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"));
    must(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", path(&base), "1M"],
    );
    must(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.qcow2",
            "-F",
            "qcow2",
            path(&file),
        ],
    );
    let refused = |args: &[&str]| {
        let out = run(args[0], &args[1..]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            !out.status.success() && text.contains("lock"),
            "{args:?}: {text}"
        );
    };
    let ex = executor();
    ex.block_on(async {
        let image = open_with(&file, &qcow2(), &PathGate::new()).unwrap();
        must("qemu-img", &["info", path(&file)]);
        image.activate().await.unwrap();
        refused(&["qemu-img", "info", path(&file)]);
        refused(&["qemu-img", "check", path(&file)]);
        refused(&["qemu-io", "-c", "write 0 512", path(&file)]);
        // The backing file may be read by others, and not be written.
        must("qemu-img", &["info", path(&base)]);
        refused(&["qemu-io", "-c", "write 0 512", path(&base)]);
        image.inactivate().await.unwrap();
        must("qemu-io", &["-c", "write 0 512", path(&file)]);
        must("qemu-io", &["-c", "write 0 512", path(&base)]);
    });
}

#[test]
fn data_files_are_read_and_written_like_qemus() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for raw in ["off", "on"] {
        let dir = tempfile::tempdir().unwrap();
        let (file, data) = (dir.path().join("disk.qcow2"), dir.path().join("disk.data"));
        let options = format!("data_file={},data_file_raw={raw}", path(&data));
        must(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &options,
                path(&file),
                "4M",
            ],
        );
        must("qemu-io", &["-c", "write -P 7 100k 300k", path(&file)]);
        let image = open_with(&file, &qcow2(), &PathGate::new()).unwrap();
        let mut model = Model::new(qemu_reads(&file, dir.path()));
        let mut r = Random::new(4);
        ex.block_on(async {
            image.activate().await.unwrap();
            for i in 0..60 {
                let change = change(&mut r, 4 << 20, 65536, i);
                apply(&image, change).await.unwrap();
                model.apply(change);
            }
            let all = image.read_bytes(0, 4 << 20).await.unwrap();
            model.check(&all, raw);
            model.settle(&all);
            image.inactivate().await.unwrap();
        });
        let (status, text) = check(&file);
        assert_eq!(status, 0, "{raw}: {text}");
        assert!(qemu_reads(&file, dir.path()) == model.0, "{raw}");
        if raw == "on" {
            let bytes = std::fs::read(&data).unwrap();
            assert!(
                bytes == model.0[..bytes.len()],
                "the data file is a raw image by itself"
            );
        }
    }
}

/// An image in memory, and its storage.
fn in_memory(options: &CreateOptions) -> (Image, MemoryStorage) {
    let memory = MemoryStorage::new();
    create_on(&Storage::from(memory.clone()), options).unwrap();
    let open = OpenOptions::new(Format::Qcow2);
    let image = Image::open_storage(memory.clone().into(), "memory", &open, &DenyAll).unwrap();
    (image, memory)
}

#[test]
fn after_a_failed_write_or_flush_everything_works_again() {
    let ex = executor();
    let shapes = [
        CreateOptions {
            cluster_size: 4096,
            ..CreateOptions::new(Format::Qcow2, 1 << 20)
        },
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 64,
            ..CreateOptions::new(Format::Qcow2, 256 << 10)
        },
        CreateOptions {
            cluster_size: 16384,
            extended_l2: true,
            ..CreateOptions::new(Format::Qcow2, 1 << 20)
        },
    ];
    for (n, options) in shapes.iter().enumerate() {
        for errno in [5, 28] {
            let (image, memory) = in_memory(options);
            let mut r = Random::new(n as u64 + 9);
            let mut model = Model::new(vec![0; image.virtual_size() as usize]);
            let mut failures = 0;
            ex.block_on(async {
                image.activate().await.unwrap();
                for i in 0..150u64 {
                    // One of the next few events fails.
                    let mut left = r.below(6);
                    memory.set_fault(Some(Box::new(move |event: &Event| {
                        left = left.wrapping_sub(1);
                        let hit = left == 0 && !matches!(event, Event::SetLen(_));
                        hit.then_some(errno)
                    })));
                    let change = change(&mut r, image.virtual_size(), options.cluster_size, i);
                    let first = apply(&image, change).await;
                    memory.set_fault(None);
                    if let Err(e) = first {
                        failures += 1;
                        let expected = if errno == 28 {
                            ErrorKind::NoSpace
                        } else {
                            ErrorKind::Io(Some(errno))
                        };
                        assert_eq!(e.kind(), &expected, "{e}");
                        apply(&image, change).await.unwrap();
                    }
                    model.apply(change);
                }
                let all = image
                    .read_bytes(0, image.virtual_size() as usize)
                    .await
                    .unwrap();
                model.check(&all, "after faults");
                model.settle(&all);
                image.inactivate().await.unwrap();
            });
            assert!(
                failures > 10,
                "only {failures} requests failed: the test is too kind"
            );
            let report = ex
                .block_on(check_storage(memory.fork().into(), "memory", Repair::No))
                .unwrap();
            assert_eq!(report.corruptions, 0, "{:?}", report.messages);
            let open = OpenOptions::new(Format::Qcow2).read_only(true);
            let image = Image::open_storage(memory.into(), "memory", &open, &DenyAll).unwrap();
            ex.block_on(async {
                image.activate().await.unwrap();
                let all = image.read_bytes(0, model.0.len()).await.unwrap();
                assert!(all[..] == model.0[..]);
            });
        }
    }
}

#[test]
fn a_full_disk_fails_the_request_and_a_larger_one_takes_it() {
    let ex = executor();
    let options = CreateOptions::new(Format::Qcow2, 8 << 20);
    let (image, memory) = in_memory(&options);
    memory.set_limit(1 << 20);
    ex.block_on(async {
        image.activate().await.unwrap();
        let data = vec![1; 65536];
        let mut written = 0;
        let error = loop {
            match image.write_bytes(written, IoBuf::from(&data[..])).await {
                Ok(()) => written += 65536,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), &ErrorKind::NoSpace);
        assert!(written > 0);
        image.flush().await.unwrap();
        memory.set_limit(u64::MAX);
        image
            .write_bytes(written, IoBuf::from(&data[..]))
            .await
            .unwrap();
        image.inactivate().await.unwrap();
        let report = check_storage(memory.into(), "memory", Repair::No)
            .await
            .unwrap();
        assert!(report.is_clean(), "{:?}", report.messages);
    });
}

#[test]
fn guest_data_never_overwrites_metadata() {
    let ex = executor();
    let options = CreateOptions::new(Format::Qcow2, 8 << 20);
    let (image, memory) = in_memory(&options);
    ex.block_on(async {
        image.activate().await.unwrap();
        image
            .write_bytes(0, IoBuf::from(&[1; 65536][..]))
            .await
            .unwrap();
        image.inactivate().await.unwrap();
    });
    let bytes = memory.to_vec();
    let be64 = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1 = be64(40) as usize;
    let l2 = (be64(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    // The first cluster of the disk now points at the L1 table, as a cluster of its own.
    for target in [0u64, be64(48), l1 as u64, l2 as u64] {
        let mut damaged = bytes.clone();
        damaged[l2..l2 + 8].copy_from_slice(&(target | 1 << 63).to_be_bytes());
        let memory = MemoryStorage::with_bytes(&damaged);
        let open = OpenOptions::new(Format::Qcow2);
        let storage = Storage::from(memory.clone());
        let image = Image::open_storage(storage, "memory", &open, &DenyAll).unwrap();
        ex.block_on(async {
            image.activate().await.unwrap();
            let result = image.write_bytes(0, IoBuf::from(&[2; 65536][..])).await;
            if target == 0 {
                // Offset zero is no place: the cluster counts as unallocated.
                return;
            }
            assert_eq!(result.unwrap_err().kind(), &ErrorKind::Corrupt);
            // From here on nothing is written.
            let e = image
                .write_bytes(1 << 20, IoBuf::from(&[2; 512][..]))
                .await
                .unwrap_err();
            assert_eq!(e.kind(), &ErrorKind::Corrupt);
            assert!(memory.to_vec()[..damaged.len()] == damaged[..]);
        });
    }
}
