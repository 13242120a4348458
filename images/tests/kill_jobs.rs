//! A process that is killed in the middle of a job: this test starts itself again as a child that
//! runs a job among writers on real files, kills it at some moment, and looks at what is there.
mod common;

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use common::*;
use images::jobs::{self, Control, MirrorOptions, Phase, StreamOptions, Target};
use images::ops::{self, Backing, CreateOptions, Repair, snapshot};
use images::{Cache, ErrorKind, Format, Image, IoBuf, OpenOptions, PathGate};

const SIZE: u64 = 8 << 20;
const WRITERS: u64 = 4;
const CHILD: &str = "IMAGES_KILL_CHILD";

fn create(file: &Path, backing: Option<(&str, Format)>) {
    let f = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(file)
        .unwrap();
    let backing = backing.map(|(name, format)| Backing {
        name: name.into(),
        format,
    });
    let options = CreateOptions {
        backing,
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    ops::create(&f, &options).unwrap();
}

fn target(file: &Path) -> Target {
    let f = File::options().read(true).write(true).open(file).unwrap();
    Target::file(f, path(file), Format::Qcow2, Cache::Writeback).unwrap()
}

/// Writes one growing number into a sector of its own stripe after the other, and says what has
/// been flushed: "writer number".
async fn write(image: Arc<Image>, w: u64, stop: Rc<Cell<bool>>) {
    let stripe = SIZE / WRITERS;
    let mut number = 0u64;
    while !stop.get() {
        for _ in 0..20 {
            let mut sector = vec![0; 512];
            sector[..8].copy_from_slice(&(number + 1).to_le_bytes());
            // Spread, so that clusters are allocated and copied on write all the time.
            let at = w * stripe + number * 37 % (stripe / 512) * 512;
            image
                .write_bytes(at, IoBuf::from(&sector[..]))
                .await
                .unwrap();
            number += 1;
        }
        image.flush().await.unwrap();
        say(&format!("{w} {number}"));
        images::exec::yield_now().await;
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {line}").unwrap();
    out.flush().unwrap();
}

/// The child: runs the job over and over for as long as it lives, or once and then only writes.
fn child(dir: &Path, job: &str) {
    let ex = executor();
    let image = Arc::new(open_with(&dir.join("top.qcow2"), &qcow2(), &PathGate::new()).unwrap());
    ex.block_on(image.activate()).unwrap();
    let stop = Rc::new(Cell::new(false));
    for w in 0..WRITERS {
        ex.spawn(write(image.clone(), w, stop.clone()));
    }
    let control = Rc::new(Control::new());
    let steering = control.clone();
    ex.spawn(async move {
        while steering.phase() != Phase::Ready {
            images::exec::yield_now().await;
        }
        // The owner notes the new disk before it takes over.
        say("pivot 0");
        steering.complete();
    });
    ex.block_on(async {
        // Some milliseconds, so that the parent meets every part of it.
        control.set_speed(32 << 20);
        match job {
            "mirror" => {
                let gate = PathGate::new();
                let (t, how) = (target(&dir.join("copy.qcow2")), MirrorOptions::Full);
                jobs::mirror(&image, t, &gate, how, &control).await.unwrap();
            }
            "commit" => {
                let t = target(&dir.join("base.qcow2"));
                jobs::commit(&image, 1, t, &control).await.unwrap();
            }
            "stream" => {
                let options = StreamOptions::default();
                jobs::stream(&image, &options, &control).await.unwrap();
            }
            _ => {
                snapshot::take(&image, "s", std::time::Duration::ZERO)
                    .await
                    .unwrap();
                jobs::delete_snapshot(&image, "s", &control).await.unwrap();
            }
        }
        say("ended 0");
        loop {
            images::exec::yield_now().await;
        }
    });
}

#[test]
fn a_killed_job_leaves_everything_that_was_flushed() {
    if let Ok(what) = std::env::var(CHILD) {
        let (job, dir) = what.split_once(':').unwrap();
        return child(Path::new(dir), job);
    }
    let mut r = Random::new(u64::from(std::process::id()));
    for (job, file) in [
        ("mirror", "copy.qcow2"),
        ("commit", "base.qcow2"),
        ("stream", "top.qcow2"),
        ("snapshot", "top.qcow2"),
    ] {
        for _ in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            create(&dir.path().join("base.qcow2"), None);
            create(
                &dir.path().join("top.qcow2"),
                Some(("base.qcow2", Format::Qcow2)),
            );
            create(&dir.path().join("copy.qcow2"), None);
            let (acked, pivoted) = kill(dir.path(), job, r.below(400) + 5);
            // Both are the disk while the owner's note and the exchange are under way.
            let files: &[&str] = if pivoted {
                &[file, "top.qcow2"]
            } else {
                &["top.qcow2"]
            };
            let found: Vec<_> = files
                .iter()
                .map(|file| missing(&dir.path().join(file), &acked))
                .collect();
            assert!(found.iter().any(Option::is_none), "{job}: {found:?}");
        }
    }
}

/// Runs the child, kills it after some acknowledgements; what it acknowledged per writer, and
/// whether the owner had noted the new disk.
fn kill(dir: &Path, job: &str, after: u64) -> ([u64; WRITERS as usize], bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_job_leaves_everything_that_was_flushed"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{job}:{}", path(dir)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut acked, mut pivoted, mut n) = ([0; WRITERS as usize], false, 0);
    for line in lines {
        let Ok(line) = line else { break };
        // The first line begins with what the test harness has to say.
        let Some((_, said)) = line.split_once("ack ") else {
            continue;
        };
        let (who, number) = said.split_once(' ').unwrap();
        match who {
            "pivot" => pivoted = true,
            "ended" => n = n.max(after.saturating_sub(20)),
            w => acked[w.parse::<usize>().unwrap()] = number.parse().unwrap(),
        }
        n += 1;
        if n == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(n >= after, "{job}: the child ended by itself");
    (acked, pivoted)
}

/// What a disk lacks of what was acknowledged, if anything. An image that needs it is repaired.
fn missing(file: &Path, acked: &[u64; WRITERS as usize]) -> Option<String> {
    let ex = executor();
    let options = OpenOptions::new(Format::Qcow2).cache(Cache::Writeback);
    let image = open_with(file, &options, &PathGate::new()).unwrap();
    let bytes = ex.block_on(async {
        // The kernel lets go of a dead process's files when its I/O is over.
        for _ in 0..500 {
            match image.activate().await {
                Err(e) if matches!(e.kind(), ErrorKind::Locked { .. }) => {
                    images::exec::sleep(std::time::Duration::from_millis(20)).await;
                }
                other => {
                    other.unwrap();
                    break;
                }
            }
        }
        let all = image.read_bytes(0, SIZE as usize).await.unwrap();
        image.inactivate().await.unwrap();
        all
    });
    drop(image);
    let f = File::options().read(true).write(true).open(file).unwrap();
    let report = ex.block_on(ops::check(f, "x", Repair::No)).unwrap();
    assert_eq!(report.corruptions, 0, "{:?}", report.messages);
    if have_qemu() {
        let (status, text) = check(file);
        assert!(status == 0 || status == 3, "{text}");
    }
    let stripe = SIZE / WRITERS;
    for (w, &acked) in acked.iter().enumerate() {
        let sectors = stripe / 512;
        for number in acked.saturating_sub(sectors)..acked {
            let at = (w as u64 * stripe + number * 37 % sectors * 512) as usize;
            let got = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            // Later rounds may have written more.
            if got < number + 1 || (got - number - 1) % sectors != 0 {
                return Some(format!("writer {w}: {got} instead of {}", number + 1));
            }
        }
    }
    None
}
