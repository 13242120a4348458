//! A process that is killed in the middle of a job: a test starts itself again as a child, kills it at
//! some moment, and looks at what is there.
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use images::exec::Executor;
use images::jobs::{Control, Phase};
use images::ops::{self, Repair};
use images::{ErrorKind, Image, PathGate};

/// Says to the child which job it runs, and where.
const CHILD: &str = "IMAGES_KILL_CHILD";
/// Before everything that a child says: the test harness speaks on the same line.
const MARK: &str = "said ";
const SECTOR: u64 = 512;

/// The job and the folder, if this process is the child.
pub fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var(CHILD).ok()?;
    let (job, dir) = role.split_once(':').unwrap();
    Some((job.into(), dir.into()))
}

/// Starts the child: this test again, with a role.
pub fn start(test: &str, job: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{job}:{}", path(dir)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child says, to its end.
pub fn heard(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .map_while(Result::ok)
        .filter_map(|line| Some(line.split_once(MARK)?.1.to_owned()))
}

/// The child tells its parent.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{line}").unwrap();
    out.flush().unwrap();
}

/// The child's disk, active.
pub fn disk(ex: &Executor, dir: &Path) -> Arc<Image> {
    let image = open_with(&dir.join("top.qcow2"), &qcow2(), &PathGate::new()).unwrap();
    ex.block_on(image.activate()).unwrap();
    Arc::new(image)
}

/// A job at such a speed that takes over as soon as it is ready. Its owner notes the new disk before.
pub fn steered(ex: &Executor, speed: u64) -> Rc<Control> {
    let control = Rc::new(Control::new());
    // Some milliseconds, so that the parent meets every part of it.
    control.set_speed(speed);
    let steering = control.clone();
    ex.spawn(async move {
        while steering.phase() != Phase::Ready {
            images::exec::yield_now().await;
        }
        say("pivot");
        steering.complete();
    });
    control
}

/// What the disk has that a killed process has left. An image that needs it is repaired; it is sound then.
pub fn left(file: &Path) -> Vec<u8> {
    let ex = executor();
    let image = open_with(file, &qcow2(), &PathGate::new()).unwrap();
    let bytes = ex.block_on(async {
        // The kernel lets go of a dead process's files when its I/O is over.
        for _ in 0..500 {
            match image.activate().await {
                Err(e) if matches!(e.kind(), ErrorKind::Locked { .. }) => {
                    images::exec::sleep(Duration::from_millis(20)).await;
                }
                other => {
                    other.unwrap();
                    break;
                }
            }
        }
        let size = image.virtual_size() as usize;
        let all = image.read_bytes(0, size).await.unwrap().to_vec();
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
    bytes
}

/// Where in a range of so many bytes the sector with this number is: spread, so that clusters are
/// allocated and copied on write all the time.
pub fn place(number: u64, bytes: u64) -> u64 {
    number * 37 % (bytes / SECTOR) * SECTOR
}

/// A sector with its number, which counts from 1 in it.
pub fn sector(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; SECTOR as usize];
    bytes[..8].copy_from_slice(&(number + 1).to_le_bytes());
    bytes
}

/// What a range lacks of its first `flushed` sectors, if anything.
pub fn lacks(range: &[u8], flushed: u64) -> Option<String> {
    let sectors = range.len() as u64 / SECTOR;
    (flushed.saturating_sub(sectors)..flushed).find_map(|number| {
        let at = place(number, range.len() as u64) as usize;
        let got = u64::from_le_bytes(range[at..at + 8].try_into().unwrap());
        // Later ones may have come through, in the same place.
        let later = got > number && (got - number - 1).is_multiple_of(sectors);
        (!later).then(|| format!("{got} instead of {}", number + 1))
    })
}
