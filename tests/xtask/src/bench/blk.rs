//! Transfers of a disk by the test guest, which polls: 4 KiB at random places and 128 KiB in sequence,
//! one and 32 at a time, on a raw image and on a qcow2 image with everything allocated, past the page
//! cache.
//!
//! Beside the rate: CPU time per transfer of all threads but the vCPU's, which only polls, and how
//! often the guest rang the doorbell, which is an exit each.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use super::Common;
use super::peers::{self, Guest, Vmm};
use super::stats::{Samples, table};
use super::talk::{Talk, number};
use crate::lab::Lab;
use crate::project;

#[derive(clap::Args)]
pub struct BlkArgs {
    #[command(flatten)]
    common: Common,
    /// Write instead of read
    #[arg(long)]
    write: bool,
    /// MiB of the images
    #[arg(long, default_value_t = 512)]
    size: u64,
    /// Transfers of a cell, as a multiple of the usual number
    #[arg(long, default_value_t = 1)]
    times: u64,
}

/// One cell of the table.
struct Cell {
    qcow2: bool,
    bytes: u64,
    random: bool,
    depth: u64,
    count: u64,
}

impl Cell {
    fn all(times: u64) -> Vec<Self> {
        let kinds = [(4096, true, 1, 10_000), (4096, true, 32, 100_000)];
        let kinds = kinds
            .into_iter()
            .chain([(131_072, false, 1, 8000), (131_072, false, 32, 40_000)]);
        let kinds: Vec<_> = kinds.collect();
        let cells = [false, true].into_iter().flat_map(|qcow2| {
            kinds
                .iter()
                .map(move |&(bytes, random, depth, count)| Self {
                    qcow2,
                    bytes,
                    random,
                    depth,
                    count: count * times,
                })
        });
        cells.collect()
    }

    fn title(&self) -> String {
        format!(
            "{} KiB {}, depth {}, {}",
            self.bytes / 1024,
            if self.random { "random" } else { "sequential" },
            self.depth,
            if self.qcow2 { "qcow2" } else { "raw" }
        )
    }
}

/// What one run of a cell gave.
struct Measured {
    /// Thousands of transfers per second.
    rate: f64,
    /// Microseconds of CPU time per transfer, the vCPU's left out.
    cpu: f64,
    /// Doorbells per transfer.
    kicks: f64,
}

pub fn run(args: &BlkArgs) -> Result<()> {
    let common = &args.common;
    let images = Images::make(args.size, common.yes)?;
    let vmms = peers::all(common, peers::microvm_with_fast_disk(common)?)?;
    let guest = peers::test_guest("")?;
    let rounds = common.rounds.clamp(1, 9);
    let what = if args.write { "writes" } else { "reads" };
    println!("blk: {rounds} rounds, {what}, {} MiB images", args.size);
    for cell in Cell::all(args.times) {
        let fresh = || -> Vec<_> {
            let row = |vmm: &Vmm| (vmm.name(), Samples::default());
            vmms.iter().map(row).collect()
        };
        let (mut rate, mut cpu, mut kicks) = (fresh(), fresh(), fresh());
        for _ in 0..rounds {
            for (at, vmm) in vmms.iter().enumerate() {
                let guest = guest_of(&guest, &cell, &images, args.write, vmm);
                let measured = once(vmm, &guest, &cell).with_context(|| vmm.name())?;
                rate[at].1.add(measured.rate);
                cpu[at].1.add(measured.cpu);
                kicks[at].1.add(measured.kicks);
            }
        }
        table(&cell.title(), "thousand per second", &rate);
        table("CPU beside the vCPU", "microseconds per transfer", &cpu);
        table("doorbells", "per transfer", &kicks);
    }
    Ok(())
}

fn guest_of(guest: &Guest, cell: &Cell, images: &Images, write: bool, vmm: &Vmm) -> Guest {
    let ecam = vmm.ecam();
    Guest {
        disk: Some(images.of(cell.qcow2)),
        qcow2: cell.qcow2,
        cmdline: format!(
            "test=blkbench bytes={} random={} depth={} count={} write={}{ecam}",
            cell.bytes,
            u8::from(cell.random),
            cell.depth,
            cell.count,
            u8::from(write)
        ),
        ..guest.clone()
    }
}

fn once(vmm: &Vmm, guest: &Guest, cell: &Cell) -> Result<Measured> {
    let mut run = Talk::start(vmm, guest)?;
    run.until("go")?;
    let (started, before) = (Instant::now(), run.cpu());
    let done = run.until("done")?;
    let seconds = started.elapsed().as_secs_f64();
    let after = run.cpu();
    run.end()?;
    let kicks = number(&done, "kicks");
    let count = cell.count as f64;
    Ok(Measured {
        rate: count / seconds / 1e3,
        cpu: (after - before) / count * 1e6,
        kicks: kicks / count,
    })
}

/// The images, with every byte allocated.
struct Images {
    folder: PathBuf,
}

impl Images {
    fn make(mib: u64, yes: bool) -> Result<Self> {
        let folder = project::target().join("bench");
        fs::create_dir_all(&folder).context("cannot make a folder for the images")?;
        let images = Self { folder };
        let raw = images.of(false);
        let sized = fs::metadata(&raw).is_ok_and(|found| found.len() == mib << 20);
        if !sized || !images.of(true).exists() {
            fill(&raw, mib)?;
            let lab = Lab::prepare(yes)?;
            let mut convert = lab.tools().command("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
            project::run(convert.arg(&raw).arg(images.of(true)))?;
        }
        Ok(images)
    }

    fn of(&self, qcow2: bool) -> PathBuf {
        let name = if qcow2 { "disk.qcow2" } else { "disk.raw" };
        self.folder.join(name)
    }
}

/// Bytes that nobody takes for zeroes.
fn fill(path: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(path).context("cannot make an image")?;
    for piece in 0..mib {
        let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8 | 1).collect();
        file.write_all(&bytes)
            .with_context(|| format!("cannot write MiB {piece} of an image"))?;
    }
    file.sync_all().context("cannot write an image")
}
