//! A process that is killed in the middle of a job: this test starts itself again as a child that
//! runs a job among writers on real files, kills it at some moment, and looks at what is there.
mod common;

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use common::kill::{self, say};
use common::*;
use images::jobs::{self, MirrorOptions, StreamOptions, Target};
use images::ops::{self, Backing, CreateOptions, snapshot};
use images::{Cache, Format, Image, IoBuf, PathGate};

const SIZE: u64 = 8 << 20;
const WRITERS: u64 = 4;

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
            let (at, sector) = (kill::place(number, stripe), kill::sector(number));
            image
                .write_bytes(w * stripe + at, IoBuf::from(&sector[..]))
                .await
                .unwrap();
            number += 1;
        }
        image.flush().await.unwrap();
        say(&format!("{w} {number}"));
        images::exec::yield_now().await;
    }
}

/// The child: runs the job over and over for as long as it lives, or once and then only writes.
fn child(dir: &Path, job: &str) {
    let ex = executor();
    let image = kill::disk(&ex, dir);
    let stop = Rc::new(Cell::new(false));
    for w in 0..WRITERS {
        ex.spawn(write(image.clone(), w, stop.clone()));
    }
    let control = kill::steered(&ex, 32 << 20);
    ex.block_on(async {
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
        say("ended");
        loop {
            images::exec::yield_now().await;
        }
    });
}

#[test]
fn a_killed_job_leaves_everything_that_was_flushed() {
    if let Some((job, dir)) = kill::role() {
        return child(&dir, &job);
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
    let test = "a_killed_job_leaves_everything_that_was_flushed";
    let mut child = kill::start(test, job, dir);
    let (mut acked, mut pivoted, mut n) = ([0; WRITERS as usize], false, 0);
    for said in kill::heard(&mut child) {
        match said.split_once(' ') {
            Some((writer, number)) => {
                acked[writer.parse::<usize>().unwrap()] = number.parse().unwrap();
            }
            None if said == "pivot" => pivoted = true,
            None => n = n.max(after.saturating_sub(20)),
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

/// What a disk lacks of what was acknowledged, if anything.
fn missing(file: &Path, acked: &[u64; WRITERS as usize]) -> Option<String> {
    let bytes = kill::left(file);
    let stripes = bytes.chunks((SIZE / WRITERS) as usize).zip(acked);
    let mut found = stripes.enumerate().filter_map(|(writer, (stripe, acked))| {
        let lacks = kill::lacks(stripe, *acked)?;
        Some(format!("writer {writer}: {lacks}"))
    });
    found.next()
}
