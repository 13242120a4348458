//! A power cut in the middle of a job on an image that is in use: all that the job and the writers
//! write to any of the files is recorded in one order, and replayed up to every point, in order, in
//! other orders, and torn. In every state the disk, opened as its owner would open it then, has
//! what was flushed, and no file is corrupt.
//!
//! `IMAGES_CRASH_STATES` sets how many states each case visits.
mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use common::replay::*;
use common::*;
use images::exec::Executor;
use images::jobs::{
    self, BackupOptions, Control, MirrorOptions, Outcome, Phase, StreamOptions, Target,
};
use images::ops::create::{Backing, CreateOptions, create_on};
use images::ops::{bitmap, snapshot};
use images::storage::{Event, MemoryStorage, SharedLog, Storage};
use images::{Cache, Format, Image, OpenOptions, PathGate};

const SIZE: u64 = 512 << 10;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Job {
    Overlay,
    Mirror,
    Commit,
    Stream,
    Backup,
    DeleteSnapshot,
    Grow,
}

const JOBS: [Job; 7] = [
    Job::Overlay,
    Job::Mirror,
    Job::Commit,
    Job::Stream,
    Job::Backup,
    Job::DeleteSnapshot,
    Job::Grow,
];

/// Index of the file that the image is at first, and of the one that a job writes.
const TOP: usize = 0;
const OTHER: usize = 1;

struct Scene {
    dir: tempfile::TempDir,
    job: Job,
    /// The files before anything happened.
    first: Vec<MemoryStorage>,
    log: Vec<(usize, Event)>,
    done: Vec<Done>,
    before: Vec<u8>,
    /// From here on the owner may open the other file, and from here on he must.
    may: usize,
    must: usize,
}

fn options(read_only: bool) -> OpenOptions {
    OpenOptions::new(Format::Qcow2)
        .cache(Cache::Writeback)
        .read_only(read_only)
}

fn open_memory(dir: &tempfile::TempDir, storage: &MemoryStorage, read_only: bool) -> Image {
    let name = dir.path().join("memory");
    let storage = Storage::from(storage.clone());
    Image::open_storage(storage, path(&name), &options(read_only), &PathGate::new()).unwrap()
}

async fn all(image: &Image) -> Vec<u8> {
    let len = image.virtual_size() as usize;
    image.read_bytes(0, len).await.unwrap().to_vec()
}

fn memory(cluster: u64, backing: Option<(&str, Format)>) -> MemoryStorage {
    let storage = MemoryStorage::new();
    let options = CreateOptions {
        cluster_size: cluster,
        backing: backing.map(|(name, format)| Backing {
            name: name.into(),
            format,
        }),
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    create_on(&Storage::from(storage.clone()), &options).unwrap();
    storage
}

/// What the writers share.
#[derive(Clone)]
struct Writers {
    image: Arc<Image>,
    log: SharedLog,
    done: Rc<RefCell<Vec<Done>>>,
    clock: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<u32>>,
}

impl Writers {
    fn now(&self) -> (usize, u64) {
        self.clock.set(self.clock.get() + 1);
        (self.log.lock().unwrap().len(), self.clock.get())
    }

    async fn act(&self, change: Change) {
        let (issued, called) = self.now();
        apply(&self.image, change).await.unwrap();
        self.note(change, issued, called);
    }

    fn note(&self, change: Change, issued: usize, called: u64) {
        let (acknowledged, returned) = self.now();
        self.done.borrow_mut().push(Done {
            change,
            issued,
            acknowledged,
            called,
            returned,
        });
    }

    /// One writer, with a stripe of the disk of its own.
    async fn write(self, w: u64, seed: u64) {
        let mut r = Random::new(seed * 10 + w);
        let stripe = SIZE / 4;
        while !self.stop.get() {
            let len = (r.below(12) + 1) * 512;
            let at = w * stripe + r.below((stripe - len) / 512) * 512;
            let value = r.below(254) as u8 + 1;
            let change = match r.below(12) {
                0 => Change::Zero {
                    at,
                    len,
                    unmap: true,
                },
                1 => Change::Discard { at, len },
                2 | 3 => Change::Flush,
                _ => Change::Write { at, len, value },
            };
            self.act(change).await;
            images::exec::yield_now().await;
        }
        self.running.set(self.running.get() - 1);
    }

    async fn some(&self) {
        let from = self.done.borrow().len();
        while self.done.borrow().len() < from + 20 {
            images::exec::yield_now().await;
        }
    }
}

/// An image over a raw base, with writes and, for its deletion, a snapshot of its own.
fn first_files(
    ex: &Executor,
    dir: &tempfile::TempDir,
    job: Job,
    cluster: u64,
) -> Vec<MemoryStorage> {
    let content: Vec<u8> = (0..SIZE).map(|i| (i / 4096) as u8 / 2).collect();
    std::fs::write(dir.path().join("base.raw"), &content).unwrap();
    let base = memory(cluster, None);
    let image = open_memory(dir, &base, false);
    ex.block_on(async {
        image.activate().await.unwrap();
        let change = Change::Write {
            at: SIZE / 2,
            len: 65536,
            value: 77,
        };
        apply(&image, change).await.unwrap();
        image.inactivate().await.unwrap();
    });
    std::fs::write(dir.path().join("base.qcow2"), base.to_vec()).unwrap();
    let backing = match job {
        Job::Commit => ("base.qcow2", Format::Qcow2),
        _ => ("base.raw", Format::Raw),
    };
    let top = memory(cluster, Some(backing));
    let image = open_memory(dir, &top, false);
    ex.block_on(async {
        image.activate().await.unwrap();
        for n in 0..4 {
            let at = n * SIZE / 4 + 8192;
            let change = Change::Write {
                at,
                len: 20_480,
                value: 60 + n as u8,
            };
            apply(&image, change).await.unwrap();
        }
        if job == Job::DeleteSnapshot {
            snapshot::take(&image, "s", std::time::Duration::ZERO)
                .await
                .unwrap();
        }
        if job == Job::Backup {
            bitmap::add(&image, "b", Some(4096), true).await.unwrap();
        }
        image.inactivate().await.unwrap();
    });
    let other = match job {
        Job::Overlay => memory(cluster, Some(("top.qcow2", Format::Qcow2))),
        Job::Commit => base,
        _ => memory(cluster, None),
    };
    vec![top, other]
}

/// Runs a job among writers and records.
fn record(ex: &Executor, job: Job, cluster: u64, seed: u64) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let first = first_files(ex, &dir, job, cluster);
    let work: Vec<MemoryStorage> = first.iter().map(MemoryStorage::fork).collect();
    let image = Arc::new(open_memory(&dir, &work[TOP], false));
    let looking = open_memory(&dir, &work[TOP], true);
    let before = ex.block_on(async {
        looking.activate().await.unwrap();
        all(&looking).await
    });
    let log = SharedLog::default();
    for (n, storage) in work.iter().enumerate() {
        storage.share_log(n, &log);
    }
    let writers = Writers {
        image: image.clone(),
        log: log.clone(),
        done: Rc::default(),
        clock: Rc::default(),
        stop: Rc::default(),
        running: Rc::default(),
    };
    ex.block_on(image.activate()).unwrap();
    for w in 0..4 {
        writers.running.set(writers.running.get() + 1);
        ex.spawn(writers.clone().write(w, seed));
    }
    let (may, must) = ex.block_on(async {
        writers.some().await;
        let places = run(&dir, job, &writers, &work).await;
        writers.some().await;
        writers.stop.set(true);
        while writers.running.get() > 0 {
            images::exec::yield_now().await;
        }
        let (issued, called) = writers.now();
        image.inactivate().await.unwrap();
        writers.note(Change::Flush, issued, called);
        places
    });
    let log = std::mem::take(&mut *log.lock().unwrap());
    let done = writers.done.take();
    Scene {
        dir,
        job,
        first,
        log,
        done,
        before,
        may,
        must,
    }
}

/// Runs the job; from where on the other file may be, and must be, the disk.
async fn run(
    dir: &tempfile::TempDir,
    job: Job,
    writers: &Writers,
    work: &[MemoryStorage],
) -> (usize, usize) {
    let image = &writers.image;
    let target = || Target {
        storage: work[OTHER].clone().into(),
        name: path(&dir.path().join("other")).to_owned(),
        format: Format::Qcow2,
    };
    let control = Rc::new(Control::new());
    let may = Rc::new(Cell::new(usize::MAX));
    let (steering, decided, w) = (control.clone(), may.clone(), writers.clone());
    let pivot = async move {
        while steering.phase() == Phase::Running {
            images::exec::yield_now().await;
        }
        decided.set(w.now().0);
        steering.complete();
    };
    let done = match job {
        Job::Overlay => {
            may.set(writers.now().0);
            jobs::overlay(image, target()).await.map(|()| Outcome::Done)
        }
        Job::Mirror => {
            images::exec::spawn_local(pivot).unwrap();
            let gate = PathGate::new();
            jobs::mirror(image, target(), &gate, MirrorOptions::Full, &control).await
        }
        Job::Commit => {
            images::exec::spawn_local(pivot).unwrap();
            jobs::commit(image, 1, target(), &control).await
        }
        Job::Stream => jobs::stream(image, &StreamOptions::default(), &control).await,
        Job::Backup => {
            let to = Arc::new(open_memory(dir, &work[OTHER], false));
            to.activate().await.unwrap();
            let options = BackupOptions {
                bitmap: Some("b".into()),
                incremental: false,
            };
            let done = jobs::backup(image, &to, &options, &control).await;
            to.inactivate().await.unwrap();
            done
        }
        Job::DeleteSnapshot => jobs::delete_snapshot(image, "s", &control).await,
        Job::Grow => jobs::grow(image, SIZE + 65536)
            .await
            .map(|()| Outcome::Done),
    };
    assert_eq!(done.unwrap(), Outcome::Done, "{job:?}");
    match job {
        Job::Overlay | Job::Mirror | Job::Commit => (may.get(), writers.now().0),
        _ => (usize::MAX, usize::MAX),
    }
}

/// The disk as it is when a file of the state is opened.
fn disk(ex: &Executor, scene: &Scene, state: &[MemoryStorage], file: usize) -> Vec<u8> {
    // What lies beneath is a file for the gate.
    let beneath = match (scene.job, file) {
        (Job::Overlay, OTHER) => Some(("top.qcow2", TOP)),
        (Job::Commit, TOP) => Some(("base.qcow2", OTHER)),
        _ => None,
    };
    if let Some((name, n)) = beneath {
        std::fs::write(scene.dir.path().join(name), state[n].to_vec()).unwrap();
    }
    let image = open_memory(&scene.dir, &state[file], true);
    ex.block_on(async {
        image.activate().await.unwrap();
        all(&image).await
    })
}

/// What is wrong with a state, if anything.
fn judge(ex: &Executor, scene: &Scene, state: &[MemoryStorage], position: usize) -> Option<String> {
    for (n, storage) in state.iter().enumerate() {
        if let Some(bad) = corruption(ex, storage) {
            return Some(format!("file {n}: {bad}"));
        }
    }
    let mut candidates = Vec::new();
    if position < scene.must {
        candidates.push(TOP);
    }
    if position >= scene.may {
        candidates.push(OTHER);
    }
    let allowed = allowed(&scene.before, &scene.done, position);
    let mut bad = None;
    for file in candidates {
        let bytes = disk(ex, scene, state, file);
        match first_wrong(&bytes, &allowed) {
            None => return None,
            Some(sector) => bad = Some(describe(sector, &bytes, &allowed, &scene.done)),
        }
    }
    bad
}

/// Visits states; how many, and the first that is bad.
fn replay(ex: &Executor, scene: &Scene, states: usize, flushes: bool) -> (usize, Option<String>) {
    let mut r = Random::new(7);
    let durable: Vec<MemoryStorage> = scene.first.iter().map(MemoryStorage::fork).collect();
    let mut epochs: Vec<Vec<Event>> = vec![Vec::new(); durable.len()];
    let total = scene.log.len();
    let every = (total * 3).div_ceil(states).max(1);
    let mut visited = 0;
    for position in 0..=total {
        if position % every == 0 {
            for variant in 0..3 {
                let state: Vec<MemoryStorage> = durable.iter().map(MemoryStorage::fork).collect();
                for (storage, epoch) in state.iter().zip(&epochs) {
                    apply_some(&mut r, storage, epoch, variant);
                }
                visited += 1;
                if let Some(bad) = judge(ex, scene, &state, position) {
                    let what = ["in order", "reordered", "torn"][variant];
                    let at = format!("{what}, {position} of {total} (job {:?})", scene.job);
                    return (visited, Some(format!("{at}: {bad}")));
                }
                if visited % 150 == 7 {
                    state.iter().for_each(qemu_agrees);
                }
            }
        }
        match scene.log.get(position) {
            Some((n, Event::Sync)) if flushes => {
                epochs[*n].drain(..).for_each(|e| durable[*n].apply(&e));
            }
            Some((n, event)) => epochs[*n].push(event.clone()),
            None => {}
        }
    }
    (visited, None)
}

fn states() -> usize {
    std::env::var("IMAGES_CRASH_STATES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(60)
}

#[test]
fn no_crash_during_a_job_loses_what_was_flushed() {
    let ex = executor();
    let mut total = 0;
    for (n, job) in JOBS.into_iter().enumerate() {
        for cluster in [4096, 65536] {
            let scene = record(&ex, job, cluster, n as u64 + 1);
            let (visited, bad) = replay(&ex, &scene, states(), true);
            assert_eq!(bad, None, "{job:?}, clusters of {cluster}");
            println!("{job:?}: {visited} states of {} events", scene.log.len());
            assert!(visited > 20, "{job:?}: only {visited} states");
            total += visited;
        }
    }
    println!("{total} states");
}

#[test]
fn without_its_flushes_a_job_loses_data() {
    let ex = executor();
    for job in [Job::Overlay, Job::Mirror, Job::Commit, Job::Stream] {
        let scene = record(&ex, job, 4096, 5);
        let (_, bad) = replay(&ex, &scene, states() * 2, false);
        assert!(
            bad.is_some(),
            "{job:?}: the test must notice missing flushes"
        );
    }
}
