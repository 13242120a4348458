//! A power cut at any instant: everything that an image writes is recorded, and replayed up to
//! every point, in order, in other orders that a disk may choose between two flushes, and with
//! the last write torn. In every state our check (and qemu-img's, on samples) finds no
//! corruption, and every guest sector has what was flushed or something written later.
//!
//! `IMAGES_CRASH_STATES` sets how many states each case visits (default 400).
mod common;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use common::replay::*;
use common::*;
use images::exec::Executor;
use images::ops::create::{Backing, CreateOptions, create_on};
use images::storage::{Event, MemoryStorage, Storage};
use images::{Format, Gate, GateRequest, Image, OpenOptions, OpenedFile};

/// Opens one known backing file.
struct OneFile(Option<PathBuf>);

impl Gate for OneFile {
    fn open(&self, request: &GateRequest<'_>) -> images::error::Result<OpenedFile> {
        let Some(path) = &self.0 else {
            return images::DenyAll.open(request);
        };
        let file = File::open(path).unwrap();
        Ok(OpenedFile {
            file,
            name: request.name.to_owned(),
            format: Format::Raw,
        })
    }
}

/// What was recorded.
struct Recording {
    base: MemoryStorage,
    log: Vec<Event>,
    done: Vec<Done>,
    before: Vec<u8>,
    gate: OneFile,
}

fn options(read_only: bool) -> OpenOptions {
    OpenOptions::new(Format::Qcow2).read_only(read_only)
}

fn read_all(ex: &Executor, storage: &MemoryStorage, gate: &OneFile) -> Result<Vec<u8>, String> {
    let storage = Storage::from(storage.clone());
    let image = Image::open_storage(storage, "state", &options(true), gate);
    let image = image.map_err(|e| e.to_string())?;
    ex.block_on(async {
        image.activate().await.map_err(|e| e.to_string())?;
        let len = image.virtual_size() as usize;
        Ok(image
            .read_bytes(0, len)
            .await
            .map_err(|e| e.to_string())?
            .to_vec())
    })
}

/// Runs a workload with several requests in flight, flushes among them.
fn record(ex: &Executor, base: MemoryStorage, gate: OneFile, cluster: u64, seed: u64) -> Recording {
    let before = read_all(ex, &base, &gate).unwrap();
    let work = base.fork();
    work.start_log();
    let storage = Storage::from(work.clone());
    let image = Rc::new(Image::open_storage(storage, "work", &options(false), &gate).unwrap());
    let done = Rc::new(RefCell::new(Vec::new()));
    let mut r = Random::new(seed);
    let clock = Rc::new(Cell::new(0u64));
    let tick = |clock: &Cell<u64>| {
        clock.set(clock.get() + 1);
        clock.get()
    };
    ex.block_on(async { image.activate().await.unwrap() });
    for batch in 0..25u64 {
        let mut together: Vec<Change> = Vec::new();
        for i in 0..r.below(6) + 1 {
            let size = image.virtual_size();
            let c = change(&mut r, size, cluster, batch * 6 + i);
            let c = sectors(c, size);
            if !together.iter().any(|&other| overlap(c, other)) {
                together.push(c);
            }
        }
        let left = Rc::new(RefCell::new(together.len()));
        for change in together {
            let (image, done, work, left) =
                (image.clone(), done.clone(), work.clone(), left.clone());
            let clock = clock.clone();
            ex.spawn(async move {
                let (issued, called) = (work.log_len(), tick(&clock));
                apply(&image, change).await.unwrap();
                let (acknowledged, returned) = (work.log_len(), tick(&clock));
                let this = Done {
                    change,
                    issued,
                    acknowledged,
                    called,
                    returned,
                };
                done.borrow_mut().push(this);
                *left.borrow_mut() -= 1;
            });
        }
        ex.block_on(async {
            while *left.borrow() > 0 {
                images::exec::yield_now().await;
            }
        });
    }
    let (issued, called) = (work.log_len(), tick(&clock));
    ex.block_on(async { image.inactivate().await.unwrap() });
    let (acknowledged, returned) = (work.log_len(), tick(&clock));
    let last = Done {
        change: Change::Flush,
        issued,
        acknowledged,
        called,
        returned,
    };
    done.borrow_mut().push(last);
    let done = done.borrow().clone();
    Recording {
        base,
        log: work.take_log(),
        done,
        before,
        gate,
    }
}

/// The change in whole sectors, so that the model can be.
fn sectors(c: Change, size: u64) -> Change {
    let fix = |at: u64, len: u64| {
        let from = at / 512 * 512;
        (from, ((at + len).next_multiple_of(512)).min(size) - from)
    };
    match c {
        Change::Write { at, len, value } => {
            let (at, len) = fix(at, len);
            Change::Write { at, len, value }
        }
        Change::Zero { at, len, unmap } => {
            let (at, len) = fix(at, len);
            Change::Zero { at, len, unmap }
        }
        Change::Discard { at, len } => {
            let (at, len) = fix(at, len);
            Change::Discard { at, len }
        }
        Change::Flush => Change::Flush,
    }
}

/// What is wrong with a state, if anything.
fn judge(
    ex: &Executor,
    state: &MemoryStorage,
    recording: &Recording,
    position: usize,
) -> Option<String> {
    if let Some(bad) = corruption(ex, state) {
        return Some(bad);
    }
    let bytes = match read_all(ex, state, &recording.gate) {
        Ok(bytes) => bytes,
        Err(e) => return Some(format!("read: {e}")),
    };
    let allowed = allowed(&recording.before, &recording.done, position);
    let wrong = first_wrong(&bytes, &allowed)?;
    Some(describe(wrong, &bytes, &allowed, &recording.done))
}

/// Visits states. The first that is bad, and how many were good.
fn replay(
    ex: &Executor,
    recording: &Recording,
    states: usize,
    flushes: bool,
) -> (usize, Option<String>) {
    let mut r = Random::new(99);
    let durable = recording.base.fork();
    let mut epoch: Vec<Event> = Vec::new();
    let total = recording.log.len();
    // Every prefix while there are states enough, an even choice otherwise.
    let every = (total * 3).div_ceil(states).max(1);
    let mut visited = 0;
    for position in 0..=total {
        if position % every == 0 {
            for variant in 0..3 {
                let state = durable.fork();
                apply_some(&mut r, &state, &epoch, variant);
                visited += 1;
                if let Some(bad) = judge(ex, &state, recording, position) {
                    let what = ["in order", "reordered", "torn"][variant];
                    return (
                        visited,
                        Some(format!("{what}, {position} of {total} events: {bad}")),
                    );
                }
                if visited % 150 == 7 {
                    qemu_agrees(&state);
                }
            }
        }
        if let Some(event) = recording.log.get(position) {
            if *event == Event::Sync && flushes {
                epoch.drain(..).for_each(|e| durable.apply(&e));
            } else {
                epoch.push(event.clone());
            }
        }
    }
    (visited, None)
}

fn states() -> usize {
    std::env::var("IMAGES_CRASH_STATES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(400)
}

fn new_image(options: &CreateOptions) -> MemoryStorage {
    let storage = MemoryStorage::new();
    create_on(&Storage::from(storage.clone()), options).unwrap();
    storage
}

/// Small images of all shapes: (name, create options).
fn shapes() -> Vec<(&'static str, CreateOptions)> {
    let plain = CreateOptions {
        cluster_size: 4096,
        ..CreateOptions::new(Format::Qcow2, 1 << 20)
    };
    vec![
        ("4k clusters", plain.clone()),
        (
            "512 byte clusters, 64 bit refcounts",
            CreateOptions {
                cluster_size: 512,
                refcount_bits: 64,
                size: 192 << 10,
                ..plain.clone()
            },
        ),
        (
            "1k clusters, 1 bit refcounts",
            CreateOptions {
                cluster_size: 1024,
                refcount_bits: 1,
                size: 256 << 10,
                ..plain.clone()
            },
        ),
        (
            "64k clusters",
            CreateOptions {
                cluster_size: 65536,
                ..plain.clone()
            },
        ),
        (
            "extended L2",
            CreateOptions {
                cluster_size: 16384,
                extended_l2: true,
                ..plain.clone()
            },
        ),
        (
            "lazy refcounts",
            CreateOptions {
                lazy_refcounts: true,
                ..plain.clone()
            },
        ),
        (
            "version 2",
            CreateOptions {
                version: 2,
                ..plain
            },
        ),
    ]
}

#[test]
fn no_crash_loses_what_was_flushed() {
    let ex = executor();
    let mut total = 0;
    for (n, (name, options)) in shapes().into_iter().enumerate() {
        let base = new_image(&options);
        let recording = record(
            &ex,
            base,
            OneFile(None),
            options.cluster_size,
            1000 + n as u64,
        );
        let (visited, bad) = replay(&ex, &recording, states(), true);
        assert_eq!(bad, None, "{name}");
        total += visited;
    }
    println!("{total} states");
}

#[test]
fn no_crash_loses_what_was_flushed_over_a_backing_file() {
    let ex = executor();
    let dir = tempfile::tempdir().unwrap();
    let backing = dir.path().join("base.raw");
    std::fs::write(&backing, vec![0xbb; 512 << 10]).unwrap();
    for (n, (name, options)) in shapes().into_iter().enumerate() {
        let named = Backing {
            name: "base.raw".into(),
            format: Format::Raw,
        };
        let base = new_image(&CreateOptions {
            backing: Some(named),
            ..options.clone()
        });
        let gate = OneFile(Some(backing.clone()));
        let recording = record(&ex, base, gate, options.cluster_size, 2000 + n as u64);
        let (_, bad) = replay(&ex, &recording, states() / 2, true);
        assert_eq!(bad, None, "{name}");
    }
}

/// An image with data and an internal snapshot, made by QEMU's tools.
fn with_snapshot(dir: &Path, shape: &str, compressed: bool) -> MemoryStorage {
    let (raw, file) = (dir.join("source.raw"), dir.join("snapshot.qcow2"));
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i / 65536) as u8 + 1).collect();
    std::fs::write(&raw, bytes).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", shape];
    if compressed {
        args.push("-c");
    }
    args.extend([path(&raw), path(&file)]);
    must("qemu-img", &args);
    must("qemu-img", &["snapshot", "-c", "s", path(&file)]);
    MemoryStorage::with_bytes(&std::fs::read(&file).unwrap())
}

#[test]
fn no_crash_loses_what_was_flushed_beside_a_snapshot() {
    if !have_qemu() {
        return;
    }
    let ex = executor();
    for (n, (shape, cluster, compressed)) in [
        ("cluster_size=4k", 4096, false),
        ("cluster_size=4k", 4096, true),
        ("cluster_size=512,refcount_bits=64", 512, false),
        ("cluster_size=64k", 65536, true),
        ("cluster_size=16k,extended_l2=on", 16384, false),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let base = with_snapshot(dir.path(), shape, compressed);
        let recording = record(&ex, base, OneFile(None), cluster, 3000 + n as u64);
        let (_, bad) = replay(&ex, &recording, states() / 2, true);
        assert_eq!(bad, None, "{shape}, compressed: {compressed}");
    }
}

#[test]
fn without_its_flushes_the_log_shows_damage() {
    let ex = executor();
    let damaged = shapes()
        .into_iter()
        .enumerate()
        .filter(|(n, (_, options))| {
            let base = new_image(options);
            let recording = record(
                &ex,
                base,
                OneFile(None),
                options.cluster_size,
                1000 + *n as u64,
            );
            replay(&ex, &recording, states(), false).1.is_some()
        })
        .count();
    assert_eq!(
        damaged,
        shapes().len(),
        "the test must notice that flushes are missing"
    );
}
