//! Several queues on one image, each with a thread of its own: our qcow2 beside our raw.
//!
//! Figures are thousands of requests per second. *Scaling* is how many times those of one queue.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Samples, median, rate, shell, usage};

const QUEUES: [u32; 3] = [1, 2, 4];
/// Images: (name, format, file).
const IMAGES: [(&str, &str, &str); 2] = [("raw", "raw", "b.raw"), ("qcow2", "qcow2", "b.full")];
/// What is sent: (name, requests, the words for it).
const WORK: [(&str, u64, &str); 3] = [
    (
        "cached 4k reads, depth 1",
        400_000,
        "-d 1 -s 4k -S 1028k -t writeback -i io_uring",
    ),
    (
        "4k scattered reads, depth 16 each",
        40_000,
        "-d 16 -s 4k -S 1028k -t none -i io_uring",
    ),
    (
        "4k scattered writes, depth 16 each",
        40_000,
        "-w -d 16 -s 4k -S 1028k -t none -i io_uring",
    ),
];

/// Whether a cell with this in its name is among what is measured here.
pub fn is_wanted(only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|text| text == "queues")
}

/// Measures all, turn by turn, and prints a table. `words` is our tool, `fewer` divides the requests.
pub fn run(words: &[String], folder: &Path, rounds: usize, disk: u64, fewer: u64) -> Result<()> {
    for (_, format, file) in IMAGES {
        if !folder.join(file).exists() {
            let how = format!("-f {format} -o preallocation=full {file} {disk}M");
            shell(folder, &format!("qemu-img create -q {how}"))?;
        }
    }
    println!(
        "\n| queues on one image | raw, 1 | 2 | 4 | scaling | qcow2, 1 | 2 | 4 | scaling | qcow2 to raw, 1 | 2 | 4 |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for (name, count, how) in WORK {
        let count = count / fewer;
        let mut found: BTreeMap<(&str, u32), Samples> = BTreeMap::new();
        shell(folder, "cat b.raw b.full > /dev/null; sync")?;
        for _ in 0..rounds {
            for queues in QUEUES {
                for (image, format, file) in IMAGES {
                    let said =
                        format!("bench --queues {queues} -c {count} {how} -f {format} {file}");
                    let mut command = Command::new(words.first().context("a tool")?);
                    command
                        .args(words.get(1..).unwrap_or_default())
                        .args(said.split(' '))
                        .current_dir(folder);
                    let usage = usage::measure(&mut command)?;
                    let samples = found.entry((image, queues)).or_default();
                    samples.add(rate(count, &usage.output)?);
                }
            }
        }
        print(name, &found);
    }
    Ok(())
}

fn print(name: &str, found: &BTreeMap<(&str, u32), Samples>) {
    let of = |image: &'static str, queues| found.get(&(image, queues)).map_or(f64::NAN, median);
    let rates = |image| QUEUES.map(|queues| of(image, queues));
    let row = |rates: [f64; 3]| {
        let scaling = rates[2] / rates[0];
        let [one, two, four] = rates;
        format!("{one:.1} | {two:.1} | {four:.1} | {scaling:.2}")
    };
    let ratios = QUEUES.map(|queues| format!("{:.2}", of("qcow2", queues) / of("raw", queues)));
    println!(
        "| {name} | {} | {} | {} |",
        row(rates("raw")),
        row(rates("qcow2")),
        ratios.join(" | ")
    );
}
