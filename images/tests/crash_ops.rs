//! A power cut in the middle of an operation on the whole image: taking, applying and deleting a
//! snapshot, changing the size, packing, emptying. In every state the disk is what it was before
//! the operation or what it is after it, and so is every snapshot.
mod common;

use std::time::Duration;

use common::*;
use images::exec::Executor;
use images::ops::check::check_storage;
use images::ops::create::{CreateOptions, create_on};
use images::ops::{self, Repair, snapshot};
use images::storage::{Event, MemoryStorage, Storage};
use images::{DenyAll, Format, Image, IoBuf, OpenOptions};

/// What the disk and its snapshots are at some moment.
#[derive(Debug, Clone, PartialEq)]
struct Moment {
    /// Events of the log up to here.
    position: usize,
    disk: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Fill(u8),
    Take(&'static str),
    Apply(&'static str),
    Delete(&'static str),
    Resize(u64),
}

const STEPS: [Step; 12] = [
    Step::Fill(1),
    Step::Take("a"),
    Step::Fill(2),
    Step::Take("b"),
    Step::Fill(3),
    Step::Apply("a"),
    Step::Fill(4),
    Step::Delete("b"),
    Step::Resize(3 << 20),
    Step::Fill(5),
    Step::Delete("a"),
    Step::Resize(700 << 10),
];

fn open_image(storage: &MemoryStorage, read_only: bool) -> images::error::Result<Image> {
    let options = OpenOptions::new(Format::Qcow2).read_only(read_only);
    Image::open_storage(Storage::from(storage.clone()), "ops", &options, &DenyAll)
}

async fn read_all(image: &Image) -> Vec<u8> {
    image
        .read_bytes(0, image.virtual_size() as usize)
        .await
        .unwrap()
        .to_vec()
}

/// Runs the steps, each made durable, and notes what is there after each.
fn record(ex: &Executor, options: &CreateOptions) -> (MemoryStorage, Vec<Event>, Vec<Moment>) {
    let base = MemoryStorage::new();
    create_on(&Storage::from(base.clone()), options).unwrap();
    let work = base.fork();
    work.start_log();
    let image = open_image(&work, false).unwrap();
    let mut moments = Vec::new();
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    ex.block_on(async {
        image.activate().await.unwrap();
        let disk = read_all(&image).await;
        moments.push(Moment {
            position: work.log_len(),
            disk,
            snapshots: Vec::new(),
        });
        for step in STEPS {
            match step {
                Step::Fill(value) => {
                    for i in 0..6u64 {
                        let at = (i * 97 + u64::from(value) * 31) * 1024 % (600 << 10);
                        let data = vec![value * 10 + i as u8; 20_000];
                        image.write_bytes(at, IoBuf::from(&data[..])).await.unwrap();
                    }
                }
                Step::Take(name) => {
                    snapshot::take(&image, name, Duration::ZERO).await.unwrap();
                    snapshots.push((name.to_owned(), read_all(&image).await));
                }
                Step::Apply(name) => snapshot::apply(&image, name).await.unwrap(),
                Step::Delete(name) => {
                    snapshot::delete(&image, name).await.unwrap();
                    snapshots.retain(|(n, _)| n != name);
                }
                Step::Resize(size) => ops::resize(&image, size).await.unwrap(),
            }
            image.flush().await.unwrap();
            let disk = read_all(&image).await;
            let snapshots = snapshots.clone();
            moments.push(Moment {
                position: work.log_len(),
                disk,
                snapshots,
            });
        }
    });
    (base, work.take_log(), moments)
}

/// What a state has: the disk, and what each snapshot gives when it is applied.
async fn contents(state: &MemoryStorage) -> images::error::Result<Moment> {
    let image = open_image(state, true)?;
    image.activate().await?;
    let disk = read_all(&image).await;
    let listed = snapshot::list(&image)?;
    let mut snapshots = Vec::new();
    for s in listed {
        let copy = state.fork();
        let image = open_image(&copy, false)?;
        image.activate().await?;
        snapshot::apply(&image, &s.name).await?;
        snapshots.push((s.name, read_all(&image).await));
    }
    Ok(Moment {
        position: 0,
        disk,
        snapshots,
    })
}

/// What is wrong with a state, if anything.
fn judge(
    ex: &Executor,
    state: &MemoryStorage,
    position: usize,
    moments: &[Moment],
) -> Option<String> {
    let dirty = state.to_vec().get(79).is_some_and(|b| b & 1 != 0);
    let repair = if dirty { Repair::All } else { Repair::No };
    let report = match ex.block_on(check_storage(state.clone().into(), "state", repair)) {
        Ok(report) => report,
        Err(e) => return Some(format!("check: {e}")),
    };
    if report.corruptions > 0 {
        return Some(format!("corrupt (dirty: {dirty}): {:?}", report.messages));
    }
    let found = match ex.block_on(contents(state)) {
        Ok(found) => found,
        Err(e) => return Some(format!("read: {e}")),
    };
    let before = moments
        .iter()
        .rposition(|m| m.position <= position)
        .unwrap_or(0);
    let now = [moments.get(before), moments.get(before + 1)];
    let filling = matches!(STEPS.get(before), Some(Step::Fill(_)));
    let fits = now
        .iter()
        .flatten()
        .any(|m| m.snapshots == found.snapshots && (filling || m.disk == found.disk));
    // While data is written, every sector is old or new.
    let mixed = !filling || {
        let sector = |m: &Moment, s: usize| m.disk.get(s * 512..(s + 1) * 512).map(<[u8]>::to_vec);
        (0..found.disk.len() / 512).all(|s| {
            let got = sector(&found, s);
            now.iter().flatten().any(|m| sector(m, s) == got)
                || got.is_some_and(|b| b.iter().all(|&x| (10..60).contains(&x)))
        })
    };
    (!fits || !mixed).then(|| {
        let names = |m: &Moment| {
            let names: Vec<&str> = m.snapshots.iter().map(|(n, _)| n.as_str()).collect();
            format!("{} bytes with {names:?}", m.disk.len())
        };
        format!(
            "during {:?}: the state has {}, expected {:?}",
            STEPS.get(before),
            names(&found),
            now.iter().flatten().map(|m| names(m)).collect::<Vec<_>>()
        )
    })
}

fn shapes() -> [CreateOptions; 4] {
    let plain = CreateOptions {
        cluster_size: 4096,
        ..CreateOptions::new(Format::Qcow2, 1 << 20)
    };
    [
        plain.clone(),
        CreateOptions {
            cluster_size: 512,
            refcount_bits: 8,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 65536,
            ..plain.clone()
        },
        CreateOptions {
            cluster_size: 16384,
            extended_l2: true,
            ..plain
        },
    ]
}

/// Visits states; how many, and the first that is bad.
fn visit(ex: &Executor, options: &CreateOptions, flushes: bool) -> (usize, Option<String>) {
    let states: usize = std::env::var("IMAGES_CRASH_STATES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(250);
    let (base, log, moments) = record(ex, options);
    let mut r = Random::new(3);
    let durable = base.fork();
    let mut epoch: Vec<Event> = Vec::new();
    let every = (log.len() * 2).div_ceil(states).max(1);
    let mut visited = 0;
    for position in 0..=log.len() {
        // The syncs of an operation are its turning points: more of those states are visited.
        let turning = log.get(position) == Some(&Event::Sync) && position.is_multiple_of(3);
        if position % every == 0 || turning {
            for reordered in [false, true] {
                let state = durable.fork();
                for event in &epoch {
                    if !reordered || r.below(2) == 0 {
                        state.apply(event);
                    }
                }
                visited += 1;
                if let Some(bad) = judge(ex, &state, position, &moments) {
                    let total = log.len();
                    let bad = format!("{position} of {total}, reordered: {reordered}: {bad}");
                    return (visited, Some(bad));
                }
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

#[test]
fn no_crash_breaks_an_operation_in_two() {
    let ex = executor();
    for options in shapes() {
        let (visited, bad) = visit(&ex, &options, true);
        assert_eq!(bad, None, "{options:?}");
        assert!(visited > 100, "only {visited} states");
    }
}

#[test]
fn without_its_flushes_an_operation_breaks() {
    let ex = executor();
    for options in shapes() {
        let (_, bad) = visit(&ex, &options, false);
        assert!(
            bad.is_some(),
            "{options:?}: the test must notice that flushes are missing"
        );
    }
}
