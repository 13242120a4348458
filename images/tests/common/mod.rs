//! What the image tests share: QEMU's tools as oracle, a model of a disk, a random workload.
#![allow(dead_code)]
pub mod disk;
pub mod kill;
pub mod nbd;
pub mod replay;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use images::exec::{Engine, Executor};
use images::{Cache, Format, Gate, Image, IoBuf, OpenOptions, PathGate};

/// True if QEMU's tools are there; says so if not.
pub fn have_qemu() -> bool {
    let have = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !have {
        println!("skipped: qemu-img and qemu-io are not installed");
    }
    have
}

pub fn run(tool: &str, args: &[&str]) -> Output {
    Command::new(tool).args(args).output().unwrap()
}

/// Runs a tool that must succeed; its output.
pub fn must(tool: &str, args: &[&str]) -> String {
    let out = run(tool, args);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{tool} {args:?}: {text}");
    text
}

pub fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// Opens an image for reading or writing with buffered I/O (tests have small images).
pub fn open(file: &Path, options: &OpenOptions) -> images::error::Result<Image> {
    open_with(file, options, &PathGate::new().assume_format(Format::Raw))
}

pub fn open_with(
    file: &Path,
    options: &OpenOptions,
    gate: &dyn Gate,
) -> images::error::Result<Image> {
    let f = File::options()
        .read(true)
        .write(!options.read_only)
        .open(file)
        .unwrap();
    Image::open(f, path(file), options, gate)
}

pub fn qcow2() -> OpenOptions {
    OpenOptions::new(Format::Qcow2).cache(Cache::Writeback)
}

pub fn executor() -> Executor {
    Executor::new(Engine::Auto).unwrap()
}

/// A small random number generator, so that a failure can be repeated from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// One change of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Write { at: u64, len: u64, value: u8 },
    Zero { at: u64, len: u64, unmap: bool },
    Discard { at: u64, len: u64 },
    Flush,
}

/// A change of a disk of `size` bytes; sizes and places are chosen around `cluster`.
pub fn change(r: &mut Random, size: u64, cluster: u64, i: u64) -> Change {
    let unit = r.pick(&[1, 512, 512, 4096, cluster]);
    let longest = r.pick(&[1, 2, 3, 9]) * cluster.max(4096);
    let len = (r.below(longest / unit + 1) + 1) * unit;
    let len = len.min(size);
    // Half of the changes meet in a small part of the disk.
    let span = if r.below(2) == 0 {
        size
    } else {
        (size / 8).max(len)
    };
    let at = r.below(span - len + 1) / unit * unit;
    let len = if r.below(20) == 0 { size - at } else { len }.min(64 * cluster.max(4096));
    match r.below(20) {
        0..=12 => Change::Write {
            at,
            len,
            value: (i % 255) as u8 + 1,
        },
        13..=15 => Change::Zero {
            at,
            len,
            unmap: r.below(2) == 0,
        },
        16..=17 => Change::Discard { at, len },
        _ => Change::Flush,
    }
}

/// Applies a change to an image.
pub async fn apply(image: &Image, change: Change) -> images::error::Result<()> {
    match change {
        Change::Write { at, len, value } => {
            image
                .write_bytes(at, IoBuf::from(&vec![value; len as usize][..]))
                .await
        }
        Change::Zero { at, len, unmap } => image.write_zeroes(at, len, unmap).await,
        Change::Discard { at, len } => image.discard(at, len).await,
        Change::Flush => image.flush().await,
    }
}

/// What a disk should contain. None: discarded, so that old data and zeroes are both right.
pub struct Model(pub Vec<u8>, pub Vec<bool>);

impl Model {
    pub fn new(bytes: Vec<u8>) -> Model {
        let n = bytes.len();
        Model(bytes, vec![false; n])
    }

    pub fn apply(&mut self, change: Change) {
        let (at, len, value, discarded) = match change {
            Change::Write { at, len, value } => (at, len, value, false),
            Change::Zero { at, len, .. } => (at, len, 0, false),
            Change::Discard { at, len } => {
                self.1[at as usize..(at + len) as usize].fill(true);
                return;
            }
            Change::Flush => return,
        };
        let range = at as usize..(at + len) as usize;
        self.0[range.clone()].fill(value);
        self.1[range].fill(discarded);
    }

    /// Compares; a discarded byte may also be zero.
    pub fn check(&self, bytes: &[u8], what: &str) {
        assert_eq!(bytes.len(), self.0.len(), "{what}: length");
        let unit = 4096;
        let same = bytes.chunks(unit).zip(self.0.chunks(unit));
        let Some(first) = same.into_iter().position(|(a, b)| a != b) else {
            return;
        };
        for (i, ((&got, &want), &discarded)) in bytes
            .iter()
            .zip(&self.0)
            .zip(&self.1)
            .enumerate()
            .skip(first * unit)
        {
            assert!(
                got == want || (discarded && got == 0),
                "{what}: byte {i} is {got}, not {want}"
            );
        }
    }

    /// Takes what discarded bytes read as from now on.
    pub fn settle(&mut self, bytes: &[u8]) {
        self.0.copy_from_slice(bytes);
        self.1.fill(false);
    }
}

/// `qemu-img check`: (exit status, output).
pub fn check(file: &Path) -> (i32, String) {
    let out = run("qemu-img", &["check", "-f", "qcow2", path(file)]);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    (out.status.code().unwrap_or(-1), text)
}

/// The content of an image as qemu-img reads it.
pub fn qemu_reads(file: &Path, scratch: &Path) -> Vec<u8> {
    let raw = scratch.join("qemu.raw");
    must(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            path(file),
            path(&raw),
        ],
    );
    std::fs::read(raw).unwrap()
}
