//! The whole life of an image in every shape, we and QEMU's tools in turn: created by one, written
//! by both, snapshots taken, applied and deleted by both, resized, amended; after each step
//! `qemu-img check` finds nothing and both read the same.
mod common;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use common::*;
use images::exec::Executor;
use images::ops::{self, AmendOptions, CreateOptions, Preallocation, snapshot};
use images::{Compression, Format, Image, OpenOptions, PathGate};

/// A disk with a model of what is on it.
struct Disk {
    ex: Executor,
    dir: tempfile::TempDir,
    file: PathBuf,
    model: Model,
    cluster: u64,
    random: Random,
    what: String,
}

impl Disk {
    fn new(options: &CreateOptions, ours: bool, seed: u64) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.qcow2");
        // QEMU looks for a data file where it is started, so its name is absolute.
        let mut options = options.clone();
        if let Some(name) = &mut options.data_file {
            let data = dir.path().join(&name);
            File::create(&data).unwrap().set_len(options.size).unwrap();
            *name = path(&data).to_owned();
        }
        let options = &options;
        if ours {
            let f = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&file)
                .unwrap();
            ops::create(&f, options).unwrap();
        } else {
            let words = words(options);
            let size = options.size.to_string();
            let args = [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &words,
                path(&file),
                &size,
            ];
            must("qemu-img", &args);
        }
        let maker = if ours { "ours" } else { "QEMU's" };
        Disk {
            ex: executor(),
            dir,
            file,
            model: Model::new(vec![0; options.size as usize]),
            cluster: options.cluster_size,
            random: Random::new(seed),
            what: format!("{maker}, {}", words(options)),
        }
    }

    fn image(&self) -> Image {
        let options = OpenOptions::new(Format::Qcow2).cache(images::Cache::Writeback);
        let image = open_with(&self.file, &options, &PathGate::new()).unwrap();
        self.ex.block_on(image.activate()).unwrap();
        image
    }

    fn ours<T>(&self, f: impl AsyncFnOnce(&Image) -> T) -> T {
        let image = self.image();
        self.ex.block_on(async {
            let result = f(&image).await;
            image.inactivate().await.unwrap();
            result
        })
    }

    /// Nothing is wrong, and both read what was written.
    fn verify(&mut self, step: &str) {
        let what = format!("{}: {step}", self.what);
        let (status, text) = check(&self.file);
        assert_eq!(status, 0, "{what}: {text}");
        let theirs = qemu_reads(&self.file, self.dir.path());
        let len = theirs.len();
        let ours = self.ours(async |image| {
            image
                .read_bytes(0, image.virtual_size() as usize)
                .await
                .unwrap()
        });
        assert!(ours[..] == theirs[..], "{what}: the readers disagree");
        self.model.check(&theirs, &what);
        self.model.settle(&theirs);
        assert_eq!(len, self.model.0.len());
    }

    fn changes(&mut self, n: u64) -> Vec<Change> {
        let size = self.model.0.len() as u64;
        (0..n)
            .map(|i| change(&mut self.random, size, self.cluster, i))
            .collect()
    }

    fn we_write(&mut self) {
        let changes = self.changes(40);
        self.ours(async |image| {
            for &c in &changes {
                apply(image, c).await.unwrap();
            }
        });
        changes.into_iter().for_each(|c| self.model.apply(c));
        self.verify("we wrote");
    }

    fn qemu_writes(&mut self) {
        let changes = self.changes(15);
        let mut args: Vec<String> = vec!["-f".into(), "qcow2".into()];
        for c in changes {
            let command = match c {
                Change::Write { at, len, value } => format!("write -P {value} {at} {len}"),
                Change::Zero { at, len, unmap } => {
                    format!("write -z {} {at} {len}", if unmap { "-u" } else { "" })
                }
                Change::Discard { at, len } => format!("discard {at} {len}"),
                Change::Flush => "flush".into(),
            };
            args.extend(["-c".into(), command]);
            self.model.apply(c);
        }
        args.push(path(&self.file).into());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        must("qemu-io", &args);
        self.verify("QEMU wrote");
    }

    fn snapshots(&mut self) {
        let file = self.file.clone();
        let first = self.model.0.clone();
        self.ours(async |image| {
            snapshot::take(image, "ours", Duration::from_secs(1))
                .await
                .unwrap()
        });
        self.we_write();
        let second = self.model.0.clone();
        must("qemu-img", &["snapshot", "-c", "theirs", path(&file)]);
        self.qemu_writes();
        must("qemu-img", &["snapshot", "-a", "ours", path(&file)]);
        self.model.settle(&first);
        self.verify("QEMU applied ours");
        self.we_write();
        self.ours(async |image| snapshot::apply(image, "theirs").await.unwrap());
        self.model.settle(&second);
        self.verify("we applied theirs");
        must("qemu-img", &["snapshot", "-d", "ours", path(&file)]);
        self.verify("QEMU deleted ours");
        self.ours(async |image| snapshot::delete(image, "theirs").await.unwrap());
        self.verify("we deleted theirs");
    }

    fn resize(&mut self, how: Preallocation) {
        let old = self.model.0.len() as u64;
        for size in [old + 3 * self.cluster + 512, old - self.cluster / 512 * 512] {
            self.ours(async |image| ops::resize_with(image, size, how).await.unwrap());
            self.model.0.resize(size as usize, 0);
            self.model.1.resize(size as usize, false);
            self.verify("resized");
        }
        let size = (old + 512).to_string();
        must("qemu-img", &["resize", "-q", path(&self.file), &size]);
        self.model.0.resize(old as usize + 512, 0);
        self.model.1.resize(old as usize + 512, false);
        self.verify("QEMU resized");
        self.we_write();
    }
}

/// The options as qemu-img takes them.
fn words(o: &CreateOptions) -> String {
    let mut words = format!("cluster_size={}", o.cluster_size);
    let mut add = |text: String| words.push_str(&text);
    if o.version == 2 {
        add(",compat=0.10".into());
        return words;
    }
    add(format!(",refcount_bits={}", o.refcount_bits));
    if o.extended_l2 {
        add(",extended_l2=on".into());
    }
    if o.lazy_refcounts {
        add(",lazy_refcounts=on".into());
    }
    if o.compression == Compression::Zstd {
        add(",compression_type=zstd".into());
    }
    if let Some(name) = &o.data_file {
        add(format!(",data_file={name}"));
        if o.data_file_raw {
            add(",data_file_raw=on".into());
        }
    }
    match o.preallocation {
        Preallocation::Off => {}
        Preallocation::Metadata => add(",preallocation=metadata".into()),
        Preallocation::Falloc => add(",preallocation=falloc".into()),
        Preallocation::Full => add(",preallocation=full".into()),
    }
    words
}

/// Every cluster size and every refcount width, with the other options spread over them; with
/// `IMAGES_MATRIX_ALL` also each of them in version 2 or with zstd.
fn shapes() -> Vec<CreateOptions> {
    let mut all = Vec::new();
    for (n, bits) in (9..=21).enumerate() {
        let cluster_size = 1u64 << bits;
        let size = (cluster_size * 20).clamp(256 << 10, 6 << 20) + 512 * n as u64;
        let plain = CreateOptions {
            cluster_size,
            refcount_bits: 1 << (n % 7),
            ..CreateOptions::new(Format::Qcow2, size)
        };
        let modes = [
            Preallocation::Off,
            Preallocation::Metadata,
            Preallocation::Falloc,
            Preallocation::Full,
        ];
        all.push(CreateOptions {
            extended_l2: bits >= 14 && n % 2 == 0,
            lazy_refcounts: n % 3 == 0,
            preallocation: modes[n % 4],
            ..plain.clone()
        });
        // CI has these elsewhere.
        if std::env::var_os("IMAGES_MATRIX_ALL").is_none() {
            continue;
        }
        if n % 3 == 1 {
            all.push(CreateOptions {
                version: 2,
                refcount_bits: 16,
                ..plain.clone()
            });
        }
        if n % 4 == 3 {
            all.push(CreateOptions {
                compression: Compression::Zstd,
                refcount_bits: 16,
                ..plain
            });
        }
    }
    all
}

fn live(options: &CreateOptions, ours: bool, seed: u64) {
    let mut disk = Disk::new(options, ours, seed);
    disk.verify("new");
    disk.we_write();
    disk.qemu_writes();
    if options.refcount_bits > 1 {
        disk.snapshots();
    }
    let how = if options.version == 2 {
        Preallocation::Off
    } else {
        options.preallocation
    };
    disk.resize(how);
}

#[test]
fn images_of_every_shape_live_in_both_engines() {
    if !have_qemu() {
        return;
    }
    for (n, options) in shapes().iter().enumerate() {
        live(options, n % 2 == 0, n as u64 + 1);
    }
}

#[test]
fn images_with_data_files_live_in_both_engines() {
    if !have_qemu() {
        return;
    }
    for (n, (raw, ours)) in [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .enumerate()
    {
        let options = CreateOptions {
            data_file: Some("data.raw".into()),
            data_file_raw: raw,
            cluster_size: 4096,
            ..CreateOptions::new(Format::Qcow2, 1 << 20)
        };
        let mut disk = Disk::new(&options, ours, 70 + n as u64);
        let same = |disk: &Disk| {
            let data = std::fs::read(disk.dir.path().join("data.raw")).unwrap();
            assert!(!raw || data == disk.model.0, "{}: the raw file", disk.what);
        };
        disk.verify("new");
        disk.we_write();
        same(&disk);
        disk.qemu_writes();
        same(&disk);
        disk.resize(Preallocation::Off);
        same(&disk);
    }
}

#[test]
fn an_image_is_amended_there_and_back() {
    if !have_qemu() {
        return;
    }
    for backed in [false, true] {
        let options = CreateOptions::new(Format::Qcow2, 2 << 20);
        let mut disk = Disk::new(&options, true, 5);
        if backed {
            let base = disk.dir.path().join("base.raw");
            std::fs::write(&base, vec![9; 2 << 20]).unwrap();
            must(
                "qemu-img",
                &[
                    "rebase",
                    "-u",
                    "-F",
                    "raw",
                    "-b",
                    path(&base),
                    path(&disk.file),
                ],
            );
            disk.model.0.fill(9);
        }
        disk.we_write();
        let amend = |disk: &mut Disk, how: AmendOptions, step: &str| {
            let f = File::options()
                .read(true)
                .write(true)
                .open(&disk.file)
                .unwrap();
            let gate = PathGate::new();
            let done = ops::amend(f, path(&disk.file), &how, &gate);
            disk.ex.block_on(done).unwrap();
            disk.verify(step);
            let info = must("qemu-img", &["info", path(&disk.file)]);
            info.replace(' ', "")
        };
        let version = |v: u32| AmendOptions {
            version: Some(v),
            ..AmendOptions::default()
        };
        let lazy = |on: bool| AmendOptions {
            lazy_refcounts: Some(on),
            ..AmendOptions::default()
        };
        assert!(amend(&mut disk, version(2), "to 0.10").contains("compat:0.10"));
        disk.we_write();
        disk.qemu_writes();
        assert!(amend(&mut disk, version(3), "to 1.1").contains("compat:1.1"));
        disk.qemu_writes();
        assert!(amend(&mut disk, lazy(true), "lazy").contains("lazyrefcounts:true"));
        disk.we_write();
        assert!(amend(&mut disk, lazy(false), "not lazy").contains("lazyrefcounts:false"));
        let f = File::options()
            .read(true)
            .write(true)
            .open(&disk.file)
            .unwrap();
        let bad = AmendOptions {
            version: Some(2),
            lazy_refcounts: Some(true),
            ..AmendOptions::default()
        };
        let gate = PathGate::new();
        let done = ops::amend(f, "x", &bad, &gate);
        assert!(disk.ex.block_on(done).is_err());
        disk.verify("refused");
    }
}

#[test]
fn lazy_refcounts_are_dirty_while_they_are_postponed() {
    if !have_qemu() {
        return;
    }
    let options = CreateOptions {
        lazy_refcounts: true,
        ..CreateOptions::new(Format::Qcow2, 4 << 20)
    };
    let disk = Disk::new(&options, true, 1);
    let dirty = || {
        let f = File::open(&disk.file).unwrap();
        ops::info(f, "x", Format::Qcow2).unwrap().dirty_flag
    };
    let image = disk.image();
    assert!(!dirty());
    disk.ex.block_on(async {
        let buf = images::IoBuf::from(&vec![7; 200_000][..]);
        image.write_bytes(65536, buf).await.unwrap();
    });
    assert!(dirty(), "the bit comes before the first allocation");
    disk.ex.block_on(image.flush()).unwrap();
    // As after a crash: the mapping is there, the counts are not.
    let copy = disk.dir.path().join("crashed.qcow2");
    std::fs::copy(&disk.file, &copy).unwrap();
    assert_eq!(check(&copy).0, 2, "counts are postponed");
    disk.ex.block_on(image.inactivate()).unwrap();
    assert!(!dirty());
    assert_eq!(check(&disk.file).0, 0);
    let crashed = open(&copy, &qcow2()).unwrap();
    disk.ex.block_on(async {
        crashed.activate().await.unwrap();
        let got = crashed.read_bytes(65536, 200_000).await.unwrap();
        assert!(got.iter().all(|&b| b == 7));
        crashed.inactivate().await.unwrap();
    });
    assert_eq!(check(&copy).0, 0);
}
