//! A power cut while bitmaps record: in every state, a bitmap that counts as valid has everything
//! that was written since it was empty.
mod common;

use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::*;
use images::exec::Executor;
use images::ops::create::{CreateOptions, create_on};
use images::ops::{self, bitmap, snapshot};
use images::storage::{Event, MemoryStorage, Storage};
use images::{DenyAll, Format, Image, OpenOptions};

const SECTOR: usize = 512;
const SIZE: u64 = 1 << 20;

fn open_image(storage: &MemoryStorage) -> Image {
    let options = OpenOptions::new(Format::Qcow2);
    Image::open_storage(Storage::from(storage.clone()), "it", &options, &DenyAll).unwrap()
}

async fn write(image: &Image, at: u64, len: u64, value: u8) {
    apply(image, Change::Write { at, len, value })
        .await
        .unwrap();
}

/// A disk with a snapshot and with bitmaps that say nothing, and what it has.
fn base(ex: &Executor, cluster_size: u64) -> (MemoryStorage, Vec<u8>) {
    let base = MemoryStorage::new();
    let options = CreateOptions {
        cluster_size,
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    create_on(&Storage::from(base.clone()), &options).unwrap();
    let image = open_image(&base);
    let disk = ex.block_on(async {
        image.activate().await.unwrap();
        write(&image, 30_000, 100_000, 1).await;
        snapshot::take(&image, "s", Duration::ZERO).await.unwrap();
        write(&image, 60_000, 150_000, 2).await;
        for (name, enabled) in [("on", true), ("gone", true), ("off", false)] {
            bitmap::add(&image, name, Some(4096), enabled)
                .await
                .unwrap();
        }
        let disk = image.read_bytes(0, SIZE as usize).await.unwrap().to_vec();
        image.inactivate().await.unwrap();
        disk
    });
    (base, disk)
}

/// Uses the disk in all ways that change it; everything that happens to the file.
fn record(ex: &Executor, base: &MemoryStorage) -> Vec<Event> {
    let work = base.fork();
    work.start_log();
    let image = open_image(&work);
    ex.block_on(async {
        image.activate().await.unwrap();
        assert!(snapshot::delete(&image, "nosuch").await.is_err());
        bitmap::remove(&image, "gone").await.unwrap();
        let log = work.take_log();
        let quiet = |e: &Event| *e == Event::Sync;
        assert!(log.iter().all(quiet), "nothing was written: {log:?}");
        // In place, where no metadata changes.
        write(&image, 60_000, 8192, 3).await;
        write(&image, 600_000, 8192, 4).await;
        image.flush().await.unwrap();
        image.inactivate().await.unwrap();
        image.activate().await.unwrap();
        snapshot::apply(&image, "s").await.unwrap();
        image.inactivate().await.unwrap();
        image.activate().await.unwrap();
        ops::resize(&image, SIZE + (40 << 10)).await.unwrap();
        write(&image, SIZE + 100, 9000, 5).await;
        image.inactivate().await.unwrap();
        image.activate().await.unwrap();
        image.write_zeroes(100_000, 50_000, true).await.unwrap();
        bitmap::enable(&image, "on", false).await.unwrap();
        bitmap::enable(&image, "on", true).await.unwrap();
        write(&image, 200_000, 9000, 6).await;
        ops::resize(&image, 700 << 10).await.unwrap();
        image.inactivate().await.unwrap();
    });
    work.take_log()
}

/// What is wrong with a state, if anything; and whether its bitmap is valid.
fn judge(ex: &Executor, state: &MemoryStorage, old: &[u8]) -> (bool, Option<String>) {
    let image = open_image(state);
    ex.block_on(async {
        if let Err(e) = image.activate().await {
            return (false, Some(format!("activate: {e}")));
        }
        let mut valid = false;
        let size = image.virtual_size();
        let disk = image.read_bytes(0, size as usize).await.unwrap();
        for info in bitmap::list(&image).unwrap() {
            if info.flags.contains(&"in-use") || info.name == "off" {
                continue;
            }
            valid |= info.name == "on";
            let runs = match bitmap::dirty(&image, &info.name).await {
                Ok(runs) => runs,
                Err(e) => return (valid, Some(format!("{}: {e}", info.name))),
            };
            for (n, now) in disk.chunks(SECTOR).enumerate() {
                let at = (n * SECTOR) as u64;
                let known = runs
                    .iter()
                    .any(|&(from, len)| from <= at && at < from + len);
                if !known && old.get(n * SECTOR..(n + 1) * SECTOR) != Some(now) {
                    let what = format!("{} does not have what was written at {at}", info.name);
                    return (valid, Some(what));
                }
            }
        }
        (valid, None)
    })
}

/// Visits the states that a power cut may leave: how many have a valid bitmap, how many have none,
/// and the first that is bad.
fn visit(ex: &Executor, cluster_size: u64, flushes: bool) -> (usize, usize, Option<String>) {
    let (base, old) = base(ex, cluster_size);
    let log = record(ex, &base);
    let mut r = Random::new(11);
    let durable = base.fork();
    let mut epoch: Vec<Event> = Vec::new();
    let (mut valid, mut invalid) = (0, 0);
    for position in 0..=log.len() {
        for reordered in [false, true] {
            let state = durable.fork();
            for event in &epoch {
                if !reordered || r.below(2) == 0 {
                    state.apply(event);
                }
            }
            match judge(ex, &state, &old) {
                (_, Some(bad)) => {
                    let total = log.len();
                    let bad = format!("{position} of {total}, reordered: {reordered}: {bad}");
                    return (valid, invalid, Some(bad));
                }
                (true, None) => valid += 1,
                (false, None) => invalid += 1,
            }
        }
        match log.get(position) {
            Some(Event::Sync) if flushes => epoch.drain(..).for_each(|e| durable.apply(&e)),
            Some(event) => epoch.push(event.clone()),
            None => {}
        }
    }
    (valid, invalid, None)
}

#[test]
fn a_valid_bitmap_has_everything_that_was_written() {
    let ex = executor();
    for cluster_size in [4096, 65536] {
        let (valid, invalid, bad) = visit(&ex, cluster_size, true);
        assert_eq!(bad, None, "{cluster_size}");
        assert!(valid > 10 && invalid > 10, "{valid} and {invalid} states");
    }
}

#[test]
fn without_flushes_a_bitmap_lacks_something() {
    let ex = executor();
    let (_, _, bad) = visit(&ex, 4096, false);
    assert!(
        bad.is_some(),
        "the test must notice that flushes are missing"
    );
}

#[test]
fn a_write_fails_if_the_mark_cannot_be_made() {
    let ex = executor();
    let (base, old) = base(&ex, 4096);
    for fail_sync in [false, true] {
        let state = base.fork();
        let image = open_image(&state);
        ex.block_on(async {
            image.activate().await.unwrap();
            state.set_fault(Some(Box::new(move |event: &Event| {
                ((*event == Event::Sync) == fail_sync).then_some(5)
            })));
            for _ in 0..2 {
                let change = Change::Write {
                    at: 60_000,
                    len: 512,
                    value: 9,
                };
                apply(&image, change).await.unwrap_err();
            }
            state.set_fault(None);
            let disk = image.read_bytes(0, SIZE as usize).await.unwrap();
            assert!(disk.as_ref() == old.as_slice(), "nothing was written");
            write(&image, 60_000, 512, 9).await;
        });
        // The attempt that worked has made it.
        let crashed = state.fork();
        assert_eq!(judge(&ex, &crashed, &old), (false, None));
        // Closed, it counts again.
        ex.block_on(image.inactivate()).unwrap();
        assert_eq!(judge(&ex, &state, &old), (true, None));
    }
}

/// The one that makes the mark is the first; those that come meanwhile must not overtake it.
#[test]
fn all_first_writers_wait_for_the_mark() {
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.qcow2");
    let (base, _) = base(&ex, 65536);
    for _ in 0..20 {
        std::fs::write(&file, base.to_vec()).unwrap();
        let image = Arc::new(open(&file, &qcow2()).unwrap());
        ex.block_on(image.activate()).unwrap();
        let together = Barrier::new(4);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (image, file, together) = (&image, &file, &together);
                scope.spawn(move || {
                    let ex = executor();
                    together.wait();
                    ex.block_on(write(image, n * 65536, 100, 7));
                    let f = std::fs::File::open(file).unwrap();
                    let info = ops::info(f, path(file), Format::Qcow2).unwrap();
                    let info = serde_json::to_value(&info).unwrap();
                    let bitmaps = &info["format-specific"]["data"]["bitmaps"];
                    let flags = &bitmaps[0]["flags"];
                    assert_eq!(flags, &serde_json::json!(["in-use", "auto"]), "{bitmaps}");
                });
            }
        });
        ex.block_on(image.inactivate()).unwrap();
    }
}
