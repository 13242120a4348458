//! A disk of three layers whose writers have a model of it: what jobs are tested on.
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use images::exec::Executor;
use images::jobs::Target;
use images::ops::{self, Backing, CreateOptions, Repair};
use images::{Cache, Format, Image, OpenOptions, PathGate};

pub const SIZE: u64 = 4 << 20;

pub fn create(file: &Path, cluster: u64, backing: Option<(&str, Format)>) {
    let f = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(file)
        .unwrap();
    let options = CreateOptions {
        cluster_size: cluster,
        backing: backing.map(|(name, format)| Backing {
            name: name.into(),
            format,
        }),
        ..CreateOptions::new(Format::Qcow2, SIZE)
    };
    ops::create(&f, &options).unwrap();
}

pub fn target(file: &Path, format: Format) -> Target {
    let f = File::options().read(true).write(true).open(file).unwrap();
    Target::file(f, path(file), format, Cache::Writeback).unwrap()
}

fn content(seed: u64) -> Vec<u8> {
    let mut r = Random::new(seed);
    let mut bytes = vec![0; SIZE as usize];
    for piece in bytes.chunks_mut(40_000) {
        if r.below(3) > 0 {
            piece.fill(r.below(255) as u8);
        }
    }
    bytes
}

/// A chain of three: raw, qcow2, qcow2; with something of its own in each.
pub struct Disk {
    pub ex: Executor,
    pub dir: tempfile::TempDir,
    pub image: Arc<Image>,
    pub model: Rc<RefCell<Model>>,
}

pub fn chain(cluster: u64, seed: u64) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("base.raw"), content(seed)).unwrap();
    create(&at("mid.qcow2"), cluster, Some(("base.raw", Format::Raw)));
    create(
        &at("top.qcow2"),
        cluster,
        Some(("mid.qcow2", Format::Qcow2)),
    );
    let ex = executor();
    for (name, n) in [("mid.qcow2", 1), ("top.qcow2", 2)] {
        let image = open_with(&at(name), &qcow2(), &PathGate::new()).unwrap();
        let mut r = Random::new(seed + n);
        ex.block_on(async {
            image.activate().await.unwrap();
            for i in 0..25 {
                apply(&image, change(&mut r, SIZE, cluster, i))
                    .await
                    .unwrap();
            }
            image.inactivate().await.unwrap();
        });
    }
    let image = Arc::new(open_with(&at("top.qcow2"), &qcow2(), &PathGate::new()).unwrap());
    let now = ex.block_on(async {
        image.activate().await.unwrap();
        all(&image).await
    });
    let model = Rc::new(RefCell::new(Model::new(now)));
    Disk {
        ex,
        dir,
        image,
        model,
    }
}

pub async fn all(image: &Image) -> Vec<u8> {
    let len = image.virtual_size() as usize;
    image.read_bytes(0, len).await.unwrap().to_vec()
}

/// Writers, each with a stripe of the disk of its own, until they are stopped.
pub struct Writers {
    stop: Rc<Cell<bool>>,
    running: Rc<Cell<u32>>,
    writes: Rc<Cell<u64>>,
}

impl Disk {
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn writers(&self, seed: u64) -> Writers {
        let writers = Writers {
            stop: Rc::default(),
            running: Rc::default(),
            writes: Rc::default(),
        };
        for w in 0..8u64 {
            let (stop, running) = (writers.stop.clone(), writers.running.clone());
            let (image, model) = (self.image.clone(), self.model.clone());
            let writes = writers.writes.clone();
            running.set(running.get() + 1);
            self.ex.spawn(async move {
                let mut r = Random::new(seed * 100 + w);
                let stripe = SIZE / 8;
                while !stop.get() {
                    let unit = r.pick(&[512, 512, 4096, 65536]);
                    let len = (r.below(3) + 1) * unit;
                    let at = w * stripe + r.below(stripe - len) / 512 * 512;
                    let value = r.below(255) as u8 + 1;
                    let change = match r.below(12) {
                        0 => Change::Zero {
                            at,
                            len,
                            unmap: true,
                        },
                        1 => Change::Zero {
                            at,
                            len,
                            unmap: false,
                        },
                        2 => Change::Discard { at, len },
                        3 => Change::Flush,
                        _ => Change::Write { at, len, value },
                    };
                    apply(&image, change).await.unwrap();
                    model.borrow_mut().apply(change);
                    writes.set(writes.get() + 1);
                    if let Change::Write { at, len, value } = change {
                        let got = image.read_bytes(at, len as usize).await.unwrap();
                        assert!(got.iter().all(|&b| b == value), "read back at {at}");
                    }
                    images::exec::yield_now().await;
                }
                running.set(running.get() - 1);
            });
        }
        writers
    }

    /// Runs a job among writers, with some of their work before and after.
    pub fn among<T>(&self, seed: u64, job: impl AsyncFnOnce(&Arc<Image>) -> T) -> T {
        let writers = self.writers(seed);
        let result = self.ex.block_on(async {
            writers.some().await;
            let result = job(&self.image).await;
            writers.some().await;
            writers.stop.set(true);
            while writers.running.get() > 0 {
                images::exec::yield_now().await;
            }
            result
        });
        let now = self.ex.block_on(all(&self.image));
        self.model.borrow().check(&now, "the disk");
        self.model.borrow_mut().settle(&now);
        result
    }

    /// Closes the image; both engines read the model from this file, and nothing is wrong with it.
    pub fn close(&self, file: &str, format: &str) {
        self.ex.block_on(self.image.inactivate()).unwrap();
        self.file_is(file, format, "after the job");
    }

    pub fn file_is(&self, file: &str, format: &str, what: &str) {
        let file = self.at(file);
        if format == "qcow2" {
            let f = File::options().read(true).write(true).open(&file).unwrap();
            let report = self.ex.block_on(ops::check(f, "x", Repair::No)).unwrap();
            assert!(report.is_clean(), "{what}: {:?}", report.messages);
        }
        let kind = Format::from_name(format).unwrap();
        let options = OpenOptions::new(kind)
            .cache(Cache::Writeback)
            .read_only(true);
        let image = open_with(&file, &options, &PathGate::new()).unwrap();
        let got = self.ex.block_on(async {
            image.activate().await.unwrap();
            all(&image).await
        });
        self.model.borrow().check(&got, what);
        if !have_qemu() {
            return;
        }
        if format == "qcow2" {
            let (status, text) = check(&file);
            assert_eq!(status, 0, "{what}: {text}");
        }
        let raw = self.at("qemu.raw");
        must(
            "qemu-img",
            &[
                "convert",
                "-f",
                format,
                "-O",
                "raw",
                path(&file),
                path(&raw),
            ],
        );
        let theirs = std::fs::read(&raw).unwrap();
        self.model
            .borrow()
            .check(&theirs, &format!("{what}, as QEMU reads it"));
    }
}

impl Writers {
    async fn some(&self) {
        let from = self.writes.get();
        while self.writes.get() < from + 60 {
            images::exec::yield_now().await;
        }
    }
}
