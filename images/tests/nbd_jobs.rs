//! Jobs under the NBD server: clients on threads of their own write, zero and read back through it
//! while layers come, go and are copied beneath; what they wrote is there afterwards. And the same
//! with a server that is killed in the middle: what a client has flushed is there.
mod common;

use std::cell::Cell;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{Scope, ScopedJoinHandle};

use common::disk::{Disk, SIZE, all, chain, create, target};
use common::kill;
use common::nbd::{Client, Request};
use common::*;
use images::jobs::{self, BackupOptions, Control, MirrorOptions, Outcome, Phase, StreamOptions};
use images::nbd::{Export, Listener, ServeOptions, serve};
use images::ops::snapshot;
use images::{Format, Image, PathGate};

const CLIENTS: u64 = 3;
const STRIPE: u64 = SIZE / CLIENTS / 65536 * 65536;
/// Requests of a client at a time, each in a part of the stripe of its own.
const SLOTS: u64 = 8;

/// What clients are told, and tell.
#[derive(Default)]
struct Signs {
    stop: AtomicBool,
    pause: AtomicBool,
    paused: AtomicU64,
    rounds: AtomicU64,
}

/// Writes into its stripe until it is stopped, reads all of it back, and returns it.
fn client(socket: &Path, number: u64, signs: &Signs) -> Vec<u8> {
    let mut client = Client::new(socket);
    let (base, mut r) = (number * STRIPE, Random::new(number + 7));
    let whole = [Request::Read {
        at: base,
        len: STRIPE as u32,
    }];
    let mut model = client.send(&whole).unwrap().remove(0).1;
    while !signs.stop.load(SeqCst) {
        if signs.pause.load(SeqCst) {
            signs.paused.fetch_add(1, SeqCst);
            while signs.pause.load(SeqCst) {
                std::thread::yield_now();
            }
            signs.paused.fetch_sub(1, SeqCst);
        }
        let mut requests = Vec::new();
        for slot in 0..SLOTS {
            let len = (r.below(3) + 1) * r.pick(&[512, 4096, 16384]);
            let within = slot * (STRIPE / SLOTS) + r.below(STRIPE / SLOTS - len) / 512 * 512;
            let at = base + within;
            let range = within as usize..(within + len) as usize;
            match r.below(10) {
                0 => {
                    model[range].fill(0);
                    let len = len as u32;
                    requests.push(Request::Zero { at, len });
                }
                1 => requests.push(Request::Flush),
                2..=3 => requests.push(Request::Read {
                    at,
                    len: len as u32,
                }),
                _ => {
                    let bytes = vec![r.below(255) as u8 + 1; len as usize];
                    model[range].copy_from_slice(&bytes);
                    requests.push(Request::Write { at, bytes });
                }
            }
        }
        for (at, bytes) in client.send(&requests).unwrap() {
            let from = (at - base) as usize;
            assert!(model[from..from + bytes.len()] == bytes, "read at {at}");
        }
        signs.rounds.fetch_add(1, SeqCst);
    }
    let now = client.send(&whole).unwrap().remove(0).1;
    assert!(now == model, "client {number} at the end");
    model
}

/// A server on the disk's executor with its clients.
struct Served<'a> {
    disk: &'a Disk,
    signs: &'a Signs,
    stop: Rc<Cell<bool>>,
    ended: Rc<Cell<bool>>,
}

impl<'a> Served<'a> {
    fn start(disk: &'a Disk, signs: &'a Signs) -> Served<'a> {
        let (stop, ended): (Rc<Cell<bool>>, Rc<Cell<bool>>) = Default::default();
        let served = Served {
            disk,
            signs,
            stop: stop.clone(),
            ended: ended.clone(),
        };
        let listener = Listener::Unix(UnixListener::bind(disk.at("socket")).unwrap());
        let export = Export::new(disk.image.clone());
        disk.ex.spawn(async move {
            let options = ServeOptions {
                shared: 0,
                persistent: true,
            };
            let stopped = async {
                while !stop.get() {
                    images::exec::yield_now().await;
                }
            };
            serve(&listener, export, options, stopped).await.unwrap();
            ended.set(true);
        });
        served
    }

    /// Lets the clients do some of their work.
    async fn some(&self) {
        let from = self.signs.rounds.load(SeqCst);
        while self.signs.rounds.load(SeqCst) < from + 20 {
            images::exec::yield_now().await;
        }
    }

    /// What the disk has in a moment in which no client writes; they go on when `then` has begun.
    async fn quiet(&self) -> Vec<u8> {
        self.signs.pause.store(true, SeqCst);
        while self.signs.paused.load(SeqCst) < CLIENTS {
            images::exec::yield_now().await;
        }
        all(&self.disk.image).await
    }

    async fn end(&self, clients: Vec<ScopedJoinHandle<'_, Vec<u8>>>) -> Vec<Vec<u8>> {
        self.signs.stop.store(true, SeqCst);
        while clients.iter().any(|c| !c.is_finished()) {
            images::exec::yield_now().await;
        }
        self.stop.set(true);
        while !self.ended.get() {
            images::exec::yield_now().await;
        }
        clients.into_iter().map(|c| c.join().unwrap()).collect()
    }
}

fn clients<'scope>(
    scope: &'scope Scope<'scope, '_>,
    socket: &'scope Path,
    signs: &'scope Signs,
) -> Vec<ScopedJoinHandle<'scope, Vec<u8>>> {
    (0..CLIENTS)
        .map(|n| scope.spawn(move || client(socket, n, signs)))
        .collect()
}

/// A job that is to take over does so as soon as it is ready.
fn takes_over(disk: &Disk) -> Rc<Control> {
    let control = Rc::new(Control::new());
    let steering = control.clone();
    disk.ex.spawn(async move {
        while steering.phase() != Phase::Ready {
            images::exec::yield_now().await;
        }
        steering.complete();
    });
    control
}

/// Every job, one after the other, on the disk that is served.
async fn every_job(served: &Served<'_>) {
    let (disk, image) = (served.disk, &served.disk.image);
    let gate = PathGate::new();
    create(&disk.at("new"), 65536, Some(("top.qcow2", Format::Qcow2)));
    served.some().await;
    jobs::overlay(image, target(&disk.at("new"), Format::Qcow2))
        .await
        .unwrap();
    served.some().await;
    snapshot::take(image, "s", std::time::Duration::ZERO)
        .await
        .unwrap();
    served.some().await;
    let done = jobs::delete_snapshot(image, "s", &Control::new()).await;
    assert_eq!(done.unwrap(), Outcome::Done);
    backup(served).await;
    let base = target(&disk.at("mid.qcow2"), Format::Qcow2);
    let done = jobs::commit(image, 2, base, &takes_over(disk)).await;
    assert_eq!(done.unwrap(), Outcome::Done);
    served.some().await;
    create(&disk.at("copy"), 4096, Some(("base.raw", Format::Raw)));
    let copy = target(&disk.at("copy"), Format::Qcow2);
    let how = MirrorOptions::Top;
    let done = jobs::mirror(image, copy, &gate, how, &takes_over(disk)).await;
    assert_eq!(done.unwrap(), Outcome::Done);
    served.some().await;
    let done = jobs::stream(image, &StreamOptions::default(), &Control::new()).await;
    assert_eq!(done.unwrap(), Outcome::Done);
    served.some().await;
    jobs::grow(image, SIZE * 2).await.unwrap();
    served.some().await;
}

/// What a backup has is the disk of the moment in which it began, whatever clients write meanwhile.
async fn backup(served: &Served<'_>) {
    let disk = served.disk;
    create(&disk.at("backup"), 65536, None);
    let image = open_with(&disk.at("backup"), &qcow2(), &PathGate::new()).unwrap();
    let to = Arc::new(image);
    to.activate().await.unwrap();
    let then = served.quiet().await;
    let control = Rc::new(Control::new());
    control.set_speed(16 << 20);
    let ended = Rc::new(Cell::new(false));
    let job = {
        let (from, to) = (disk.image.clone(), to.clone());
        let (control, ended) = (control.clone(), ended.clone());
        async move {
            let options = BackupOptions::default();
            let done = jobs::backup(&from, &to, &options, &control).await;
            assert_eq!(done.unwrap(), Outcome::Done);
            ended.set(true);
        }
    };
    disk.ex.spawn(job);
    while control.progress().1 == 0 {
        images::exec::yield_now().await;
    }
    served.signs.pause.store(false, SeqCst);
    served.some().await;
    while !ended.get() {
        images::exec::yield_now().await;
    }
    assert!(all(&to).await == then, "the backup");
    to.inactivate().await.unwrap();
}

#[test]
fn jobs_under_a_served_disk_lose_nothing_of_its_clients() {
    let disk = chain(65536, 300);
    let (signs, socket) = (Signs::default(), disk.at("socket"));
    let served = Served::start(&disk, &signs);
    let models = std::thread::scope(|scope| {
        let clients = clients(scope, &socket, &signs);
        disk.ex.block_on(async {
            every_job(&served).await;
            served.end(clients).await
        })
    });
    assert_eq!(disk.image.layer_names(), [path(&disk.at("copy"))]);
    let now = disk.ex.block_on(all(&disk.image));
    for (n, model) in models.iter().enumerate() {
        let from = n * STRIPE as usize;
        assert!(now[from..from + model.len()] == **model, "client {n}");
    }
    *disk.model.borrow_mut() = Model::new(now);
    disk.close("copy", "qcow2");
}

/// The child: serves the disk, and runs a job again and again or once.
fn child(dir: &Path, job: &str) {
    let ex = executor();
    let image = kill::disk(&ex, dir);
    let listener = Listener::Unix(UnixListener::bind(dir.join("socket")).unwrap());
    let export = Export::new(image.clone());
    ex.spawn(async move {
        let options = ServeOptions {
            shared: 0,
            persistent: true,
        };
        serve(&listener, export, options, std::future::pending())
            .await
            .unwrap();
    });
    let control = kill::steered(&ex, 16 << 20);
    ex.block_on(run(&image, dir, job, &control));
}

async fn run(image: &Arc<Image>, dir: &Path, job: &str, control: &Control) {
    let at = |name: &str| target(&dir.join(name), Format::Qcow2);
    match job {
        "mirror" => {
            let (gate, how) = (PathGate::new(), MirrorOptions::Full);
            jobs::mirror(image, at("copy.qcow2"), &gate, how, control)
                .await
                .unwrap();
        }
        "commit" => {
            jobs::commit(image, 1, at("base.qcow2"), control)
                .await
                .unwrap();
        }
        "stream" => {
            let options = StreamOptions::default();
            jobs::stream(image, &options, control).await.unwrap();
        }
        "overlay" => jobs::overlay(image, at("over.qcow2")).await.unwrap(),
        _ => {
            for n in 0.. {
                let name = format!("s{n}");
                snapshot::take(image, &name, std::time::Duration::ZERO)
                    .await
                    .unwrap();
                jobs::delete_snapshot(image, &name, control).await.unwrap();
                // Clients get a turn between two times in which all of them wait.
                images::exec::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    }
    std::future::pending::<()>().await;
}

#[test]
fn a_killed_server_leaves_what_its_client_has_flushed() {
    if let Some((job, dir)) = kill::role() {
        return child(&dir, &job);
    }
    let mut r = Random::new(u64::from(std::process::id()));
    for (job, file) in [
        ("mirror", "copy.qcow2"),
        ("commit", "base.qcow2"),
        ("overlay", "over.qcow2"),
        ("stream", "top.qcow2"),
        ("snapshot", "top.qcow2"),
    ] {
        for _ in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            create(&at("base.qcow2"), 65536, None);
            let (base, top) = (("base.qcow2", Format::Qcow2), ("top.qcow2", Format::Qcow2));
            create(&at("top.qcow2"), 65536, Some(base));
            create(&at("copy.qcow2"), 65536, None);
            create(&at("over.qcow2"), 65536, Some(top));
            let (flushed, pivoted) = kill(dir.path(), job, r.below(60) + 3);
            // Both are the disk while the owner's note and the exchange are under way.
            let files: &[&str] = match (job, pivoted) {
                ("mirror" | "commit", false) => &["top.qcow2"],
                _ => &[file, "top.qcow2"],
            };
            let lacks = |file: &&str| kill::lacks(&kill::left(&at(file)), flushed);
            let found: Vec<_> = files.iter().map(lacks).collect();
            assert!(found.iter().any(Option::is_none), "{job}: {found:?}");
        }
    }
}

/// Writes growing numbers until the server, which is killed after some flushes, is gone: how many
/// were flushed, and whether the owner had noted the new disk.
fn kill(dir: &Path, job: &str, after: u64) -> (u64, bool) {
    let test = "a_killed_server_leaves_what_its_client_has_flushed";
    let mut child = kill::start(test, job, dir);
    let mut said = kill::heard(&mut child);
    let (mut flushed, mut flushes) = (0u64, 0u64);
    let mut client = Client::new(&dir.join("socket"));
    loop {
        let mut requests = Vec::new();
        for number in flushed..flushed + 16 {
            let (at, bytes) = (kill::place(number, SIZE), kill::sector(number));
            requests.push(Request::Write { at, bytes });
        }
        if client.send(&requests).is_none() || client.send(&[Request::Flush]).is_none() {
            break;
        }
        (flushed, flushes) = (flushed + 16, flushes + 1);
        if flushes == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(flushes >= after, "{job}: the server ended by itself");
    (flushed, said.any(|word| word == "pivot"))
}
