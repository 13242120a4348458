//! A power cut while an image that nobody uses is amended or rebased. In every state that the disk may
//! have then, the image is sound, its disk has the same content as before, and every property is either
//! the old or the new one.
mod common;

use std::path::Path;

use common::replay::{apply_some, corruption};
use common::*;
use images::exec::Executor;
use images::ops::create::{Backing, CreateOptions, create_on};
use images::ops::{self, AmendOptions};
use images::storage::{Event, MemoryStorage, Storage};
use images::{Format, Image, IoBuf, OpenOptions, PathGate};

/// An operation as it was recorded.
struct Recording {
    what: String,
    /// What was there before, durably.
    base: MemoryStorage,
    log: Vec<Event>,
}

fn open_image(storage: &MemoryStorage, read_only: bool) -> images::error::Result<Image> {
    let options = OpenOptions::new(Format::Qcow2).read_only(read_only);
    let storage = Storage::from(storage.clone());
    Image::open_storage(storage, "top", &options, &PathGate::new())
}

fn content(ex: &Executor, storage: &MemoryStorage) -> images::error::Result<Vec<u8>> {
    let image = open_image(storage, true)?;
    ex.block_on(async {
        image.activate().await?;
        let size = image.virtual_size() as usize;
        Ok(image.read_bytes(0, size).await?.to_vec())
    })
}

/// Writes into an image: data here and there, and zeroes over some of it.
fn fill(ex: &Executor, storage: &MemoryStorage, value: u8) {
    let image = open_image(storage, false).unwrap();
    ex.block_on(async {
        image.activate().await.unwrap();
        for i in 0..6u64 {
            let at = (i * 97 + u64::from(value) * 31) * 1024 % (600 << 10);
            let data = vec![value * 10 + i as u8; 20_000];
            image.write_bytes(at, IoBuf::from(&data[..])).await.unwrap();
        }
        image.write_zeroes(64 << 10, 40 << 10, true).await.unwrap();
        image.inactivate().await.unwrap();
    });
}

fn record(work: &MemoryStorage, what: String, act: impl FnOnce(&MemoryStorage)) -> Recording {
    let base = work.fork();
    let recorded = work.fork();
    recorded.start_log();
    act(&recorded);
    let log = recorded.take_log();
    log.iter().for_each(|event| work.apply(event));
    Recording { what, base, log }
}

/// Visits every state of a recording; how many, and the first that is bad.
fn visit(
    recording: &Recording,
    flushes: bool,
    judge: &dyn Fn(&MemoryStorage) -> Option<String>,
) -> (usize, Option<String>) {
    let Recording { what, base, log } = recording;
    let mut r = Random::new(7);
    let durable = base.fork();
    let mut epoch: Vec<Event> = Vec::new();
    // Long ones have a lot of the same.
    let every = log.len().div_ceil(150).max(1);
    let mut visited = 0;
    for position in 0..=log.len() {
        let turning = log.get(position) == Some(&Event::Sync);
        for variant in 0..3 {
            if position % every > 0 && !turning {
                break;
            }
            let state = durable.fork();
            apply_some(&mut r, &state, &epoch, variant);
            visited += 1;
            if let Some(bad) = judge(&state) {
                let total = log.len();
                let bad = format!("{what}: {position} of {total}, variant {variant}: {bad}");
                return (visited, Some(bad));
            }
        }
        match log.get(position) {
            Some(Event::Sync) if flushes => epoch.drain(..).for_each(|e| durable.apply(&e)),
            Some(event) => epoch.push(event.clone()),
            None => {}
        }
    }
    (visited, None)
}

/// Version, size in bytes, and whether refcounts are lazy, as the header says.
fn facts(storage: &MemoryStorage) -> [u64; 3] {
    let head = storage.head(104);
    let number = |at: usize, len: usize| {
        let bytes = &head[at..at + len];
        bytes.iter().fold(0, |all, b| all << 8 | u64::from(*b))
    };
    let version = number(4, 4);
    let lazy = if version > 2 { number(80, 8) & 1 } else { 0 };
    [version, number(24, 8), lazy]
}

fn amendments() -> Vec<AmendOptions> {
    let none = AmendOptions::default;
    let version = |version| AmendOptions {
        version: Some(version),
        ..none()
    };
    let lazy = |on| AmendOptions {
        lazy_refcounts: Some(on),
        ..none()
    };
    let size = |mib: u64| AmendOptions {
        size: Some(mib << 20),
        ..none()
    };
    vec![
        version(3),
        lazy(true),
        size(3),
        lazy(false),
        version(2),
        AmendOptions {
            size: Some(4 << 20),
            ..version(3)
        },
    ]
}

/// Amends an image again and again; what was found of each amendment, as `visit` has it.
fn amend_all(ex: &Executor, cluster: u64, flushes: bool) -> Vec<(usize, Option<String>)> {
    let work = MemoryStorage::new();
    let options = CreateOptions {
        cluster_size: cluster,
        version: 2,
        ..CreateOptions::new(Format::Qcow2, 1 << 20)
    };
    create_on(&Storage::from(work.clone()), &options).unwrap();
    let mut found = Vec::new();
    for (value, amendment) in (1..).zip(amendments()) {
        fill(ex, &work, value);
        let mut disk = content(ex, &work).unwrap();
        let before = facts(&work);
        let recording = record(&work, format!("{amendment:?}"), |storage| {
            let storage = Storage::from(storage.clone());
            let gate = PathGate::new();
            let amended = ops::amend_on(storage, "top", &amendment, &gate);
            ex.block_on(amended).unwrap();
        });
        let after = facts(&work);
        assert_ne!(before, after, "{}", recording.what);
        disk.resize(disk.len().max(after[1] as usize), 0);
        let judge = |state: &MemoryStorage| {
            if let Some(bad) = corruption(ex, state) {
                return Some(bad);
            }
            let now = facts(state);
            let known = now
                .iter()
                .zip(before.iter().zip(&after))
                .all(|(now, (before, after))| now == before || now == after);
            let same = match content(ex, state) {
                Ok(bytes) => bytes == disk[..bytes.len()] && bytes.len() as u64 == now[1],
                Err(error) => return Some(format!("read: {error}")),
            };
            (!known || !same).then(|| format!("{now:?}, same content: {same}"))
        };
        found.push(visit(&recording, flushes, &judge));
    }
    found
}

#[test]
fn no_crash_breaks_an_amendment_in_two() {
    let ex = executor();
    for cluster in [512, 4096, 65536] {
        for (visited, bad) in amend_all(&ex, cluster, true) {
            assert_eq!(bad, None, "clusters of {cluster}");
            assert!(visited > 3, "only {visited} states");
        }
    }
}

#[test]
fn without_its_flushes_an_amendment_breaks() {
    let found = amend_all(&executor(), 4096, false);
    assert!(
        found.iter().any(|(_, bad)| bad.is_some()),
        "the test must notice that flushes are missing"
    );
}

/// A file that images name, of some bytes that differ from file to file.
fn below(dir: &Path, name: &str, len: usize, seed: u64) -> Backing {
    let mut r = Random::new(seed);
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(30_000) {
        if r.below(3) > 0 {
            piece.fill(r.below(255) as u8);
        }
    }
    std::fs::write(dir.join(name), bytes).unwrap();
    Backing {
        name: path(&dir.join(name)).into(),
        format: Format::Raw,
    }
}

/// Puts an image on another backing file, or on none; what `visit` found.
fn rebase(ex: &Executor, cluster: u64, flat: bool, flushes: bool) -> (usize, Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    let old = below(dir.path(), "old.raw", 1 << 20, 1);
    // It ends earlier: behind that is what only the old one has.
    let new = below(dir.path(), "new.raw", 700 << 10, 2);
    let new = (!flat).then_some(new);
    let work = MemoryStorage::new();
    let options = CreateOptions {
        cluster_size: cluster,
        backing: Some(old),
        ..CreateOptions::new(Format::Qcow2, 1 << 20)
    };
    create_on(&Storage::from(work.clone()), &options).unwrap();
    fill(ex, &work, 1);
    let disk = content(ex, &work).unwrap();
    let recording = record(&work, format!("rebase to {new:?}"), |storage| {
        let image = open_image(storage, false).unwrap();
        let other = new.as_ref().map(|backing| {
            let options = OpenOptions::new(Format::Raw).read_only(true);
            open(Path::new(&backing.name), &options).unwrap()
        });
        ex.block_on(async {
            image.activate().await.unwrap();
            if let Some(other) = &other {
                other.activate().await.unwrap();
            }
            let told = |_, _| {};
            ops::rebase(&image, other.as_ref(), &told).await.unwrap();
            image.inactivate().await.unwrap();
            let storage = Storage::from(storage.clone());
            ops::set_backing_on(storage, "top", new.as_ref())
                .await
                .unwrap();
        });
    });
    let judge = |state: &MemoryStorage| {
        corruption(ex, state).or_else(|| match content(ex, state) {
            Ok(bytes) => (bytes != disk).then(|| "another content".to_owned()),
            Err(error) => Some(format!("read: {error}")),
        })
    };
    visit(&recording, flushes, &judge)
}

#[test]
fn no_crash_in_a_rebase_changes_the_disk() {
    let ex = executor();
    for cluster in [512, 4096, 65536] {
        for flat in [false, true] {
            let (visited, bad) = rebase(&ex, cluster, flat, true);
            assert_eq!(bad, None, "clusters of {cluster}");
            assert!(visited > 10, "only {visited} states");
        }
    }
}

#[test]
fn without_its_flushes_a_rebase_changes_the_disk() {
    for flat in [false, true] {
        let (_, bad) = rebase(&executor(), 4096, flat, false);
        assert!(bad.is_some(), "the test must notice missing flushes");
    }
}
