//! Persistent dirty bitmaps: what we record QEMU reads, and the other way round; after a crash, or
//! when somebody wrote without knowing them, they are not trusted.
mod common;

use std::fs::File;
use std::path::{Path, PathBuf};

use common::*;
use images::exec::Executor;
use images::ops::{self, CreateOptions, Repair, bitmap, snapshot};
use images::{Format, Image};

const SIZE: u64 = 8 << 20;

fn new_disk(dir: &Path, cluster_size: u64) -> PathBuf {
    let file = dir.join("disk.qcow2");
    let f = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&file)
        .unwrap();
    let options = CreateOptions {
        cluster_size,
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    ops::create(&f, &options).unwrap();
    file
}

fn active(ex: &Executor, file: &Path) -> Image {
    let image = open(file, &qcow2()).unwrap();
    ex.block_on(image.activate()).unwrap();
    image
}

fn close(ex: &Executor, image: &Image) {
    ex.block_on(image.inactivate()).unwrap();
}

/// Runs changes on the image and closes it.
fn with(ex: &Executor, file: &Path, f: impl AsyncFnOnce(&Image)) {
    let image = active(ex, file);
    ex.block_on(f(&image));
    close(ex, &image);
}

/// The granules that a bitmap has set, as we read it from the closed image.
fn ours(ex: &Executor, file: &Path, name: &str) -> Vec<(u64, u64)> {
    let image = open(file, &qcow2().read_only(true)).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        bitmap::dirty(&image, name).await.unwrap()
    })
}

/// The same as QEMU exports it.
fn theirs(dir: &Path, file: &Path, name: &str) -> Vec<(u64, u64)> {
    let socket = dir.join("nbd");
    let _ = std::fs::remove_file(&socket);
    let mut server = std::process::Command::new("qemu-nbd")
        .args([
            "-r",
            "-f",
            "qcow2",
            "-B",
            name,
            "-k",
            path(&socket),
            path(file),
        ])
        .spawn()
        .unwrap();
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
        path(&socket)
    );
    for _ in 0..600 {
        if socket.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let map = must(
        "qemu-img",
        &["map", "--output=json", "--image-opts", &options],
    );
    server.wait().unwrap();
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    // QEMU shows what is dirty as "no data".
    for e in map.iter().filter(|e| e["data"] == false) {
        let (at, len) = (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap());
        match runs.last_mut() {
            Some((start, n)) if *start + *n == at => *n += len,
            _ => runs.push((at, len)),
        }
    }
    runs
}

fn assert_clean(file: &Path, what: &str) {
    let (status, text) = check(file);
    assert_eq!(status, 0, "{what}: {text}");
    let f = File::options().read(true).write(true).open(file).unwrap();
    let report = executor().block_on(ops::check(f, "x", Repair::No)).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.messages);
}

fn info_agrees(file: &Path) {
    let theirs = must("qemu-img", &["info", "--output=json", path(file)]);
    let theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
    let ours = ops::info(File::open(file).unwrap(), path(file), Format::Qcow2).unwrap();
    let ours = serde_json::to_value(&ours).unwrap();
    assert_eq!(ours["format-specific"], theirs["format-specific"]);
}

fn granules(writes: &[(u64, u64)], granularity: u64) -> Vec<(u64, u64)> {
    let mut bits = vec![false; (SIZE / granularity) as usize];
    for (at, len) in writes {
        bits[(at / granularity) as usize..(at + len).div_ceil(granularity) as usize].fill(true);
    }
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (n, _) in bits.iter().enumerate().filter(|(_, set)| **set) {
        let at = n as u64 * granularity;
        match runs.last_mut() {
            Some((start, len)) if *start + *len == at => *len += granularity,
            _ => runs.push((at, granularity)),
        }
    }
    runs
}

#[test]
fn what_we_record_qemu_reads_and_the_other_way_round() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (cluster, granularity) in [(65536, 65536), (4096, 512), (512, 4096), (65536, 1 << 20)] {
        let dir = tempfile::tempdir().unwrap();
        let file = new_disk(dir.path(), cluster);
        must(
            "qemu-img",
            &["bitmap", "--add", "-g", "64k", path(&file), "qemus"],
        );
        let writes = [(0, 10), (100_000, 300_000), (SIZE - 1000, 1000)];
        with(&ex, &file, async |image| {
            bitmap::add(image, "ours", Some(granularity), true)
                .await
                .unwrap();
            bitmap::add(image, "off", None, false).await.unwrap();
            for (at, len) in writes {
                let change = Change::Write { at, len, value: 3 };
                apply(image, change).await.unwrap();
            }
        });
        assert_clean(&file, "recorded");
        info_agrees(&file);
        for (name, granularity) in [("ours", granularity), ("qemus", 65536)] {
            let want = granules(&writes, granularity);
            assert_eq!(ours(&ex, &file, name), want, "{cluster}: {name}");
            assert_eq!(theirs(dir.path(), &file, name), want, "{cluster}: {name}");
        }
        assert!(ours(&ex, &file, "off").is_empty());
        must(
            "qemu-io",
            &["-c", "write 3M 100k", "-c", "write -z 5M 64k", path(&file)],
        );
        assert_clean(&file, "QEMU recorded");
        let more = [&writes[..], &[(3 << 20, 102_400), (5 << 20, 65536)]].concat();
        for (name, granularity) in [("ours", granularity), ("qemus", 65536)] {
            assert_eq!(ours(&ex, &file, name), granules(&more, granularity));
        }
        // Opening and closing changes nothing, and closing twice neither.
        with(&ex, &file, async |image| {
            image.inactivate().await.unwrap();
            image.activate().await.unwrap();
            let change = Change::Zero {
                at: 0,
                len: 512,
                unmap: true,
            };
            apply(image, change).await.unwrap();
        });
        assert_eq!(ours(&ex, &file, "qemus"), granules(&more, 65536));
        assert_clean(&file, "again");
    }
}

#[test]
fn bitmaps_are_changed_like_qemus() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let file = new_disk(dir.path(), 65536);
    let write = |at, len| Change::Write { at, len, value: 1 };
    with(&ex, &file, async |image| {
        for name in ["a", "b"] {
            bitmap::add(image, name, Some(4096), true).await.unwrap();
        }
        assert!(bitmap::add(image, "a", None, true).await.is_err());
        assert!(bitmap::add(image, "", None, true).await.is_err());
        assert!(bitmap::add(image, "c", Some(1000), true).await.is_err());
        assert!(bitmap::remove(image, "c").await.is_err());
        apply(image, write(0, 4096)).await.unwrap();
        bitmap::enable(image, "b", false).await.unwrap();
        apply(image, write(1 << 20, 4096)).await.unwrap();
    });
    assert_eq!(ours(&ex, &file, "b"), [(0, 4096)]);
    assert_eq!(ours(&ex, &file, "a"), [(0, 4096), (1 << 20, 4096)]);
    with(&ex, &file, async |image| {
        bitmap::merge(image, "b", None, "a").await.unwrap();
        bitmap::clear(image, "a").await.unwrap();
        bitmap::enable(image, "b", true).await.unwrap();
    });
    assert_eq!(theirs(dir.path(), &file, "b"), [(0, 4096), (1 << 20, 4096)]);
    assert!(ours(&ex, &file, "a").is_empty());
    // Snapshots and sizes: what may have changed counts as changed.
    with(&ex, &file, async |image| {
        snapshot::take(image, "s", std::time::Duration::ZERO)
            .await
            .unwrap();
        ops::resize(image, SIZE + (1 << 20)).await.unwrap();
    });
    assert_eq!(ours(&ex, &file, "a"), [(SIZE, 1 << 20)]);
    assert_clean(&file, "resized");
    with(&ex, &file, async |image| {
        snapshot::apply(image, "s").await.unwrap();
    });
    assert_eq!(ours(&ex, &file, "a"), [(0, SIZE)]);
    must("qemu-img", &["bitmap", "--remove", path(&file), "a"]);
    with(&ex, &file, async |image| {
        bitmap::remove(image, "b").await.unwrap();
    });
    let info = must("qemu-img", &["info", path(&file)]);
    assert!(!info.contains("bitmaps"), "{info}");
    assert_clean(&file, "removed");
}

#[test]
fn bitmaps_that_may_be_old_are_not_used() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let file = new_disk(dir.path(), 65536);
    with(&ex, &file, async |image| {
        bitmap::add(image, "on", None, true).await.unwrap();
        bitmap::add(image, "off", None, false).await.unwrap();
    });
    // As after a crash: it is marked before anything is written, but not before that.
    let crashed = dir.path().join("crashed.qcow2");
    let before = std::fs::read(&file).unwrap();
    let image = active(&ex, &file);
    ex.block_on(async {
        assert!(snapshot::delete(&image, "nosuch").await.is_err());
        bitmap::enable(&image, "on", false).await.unwrap();
        bitmap::enable(&image, "on", true).await.unwrap();
        assert!(
            std::fs::read(&file).unwrap() == before,
            "nothing is written"
        );
        let change = Change::Write {
            at: 0,
            len: 1,
            value: 1,
        };
        apply(&image, change).await.unwrap();
    });
    std::fs::copy(&file, &crashed).unwrap();
    close(&ex, &image);
    info_agrees(&crashed);
    let info = must("qemu-img", &["info", path(&crashed)]);
    assert!(info.contains("in-use"), "{info}");
    with(&ex, &crashed, async |image| {
        let names: Vec<_> = bitmap::list(image).unwrap();
        assert_eq!(names[0].flags, ["in-use", "auto"]);
        assert!(bitmap::dirty(image, "on").await.is_err());
        assert!(bitmap::clear(image, "on").await.is_err());
        bitmap::dirty(image, "off").await.unwrap();
        let change = Change::Write {
            at: 0,
            len: 9,
            value: 1,
        };
        apply(image, change).await.unwrap();
    });
    assert_clean(&crashed, "after the crash");
    with(&ex, &crashed, async |image| {
        bitmap::remove(image, "on").await.unwrap();
    });
    assert_clean(&crashed, "after it was removed");
    // Somebody wrote without knowing bitmaps: the autoclear bit is gone.
    use std::os::unix::fs::FileExt;
    let f = File::options().write(true).open(&file).unwrap();
    f.write_all_at(&[0; 8], 88).unwrap();
    assert_eq!(check(&file).0, 3, "QEMU finds leaks");
    let f = || File::options().read(true).write(true).open(&file).unwrap();
    let report = ex.block_on(ops::check(f(), "x", Repair::No)).unwrap();
    assert!(report.leaks > 0 && report.corruptions == 0);
    with(&ex, &file, async |image| {
        assert!(bitmap::list(image).unwrap().is_empty());
    });
    let report = ex.block_on(ops::check(f(), "x", Repair::Leaks)).unwrap();
    assert!(report.is_clean() && report.leaks_fixed > 0);
    assert_clean(&file, "repaired");
}
