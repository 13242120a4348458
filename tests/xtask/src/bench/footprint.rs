//! Memory of a VMM's process beside the guest's RAM: what is private to one idle guest, and what
//! the tenth guest adds when ten run (its proportional share).

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Common;
use super::peers::{self, Guest, Running, Vmm};
use super::stats::{Samples, table};

/// Guests in the crowd.
const CROWD: usize = 10;
/// After this long a guest is idle, and not just started.
const SETTLED: Duration = Duration::from_secs(2);

pub fn run(common: &Common) -> Result<()> {
    let mut vmms = peers::all(common, peers::microvm(common)?)?;
    vmms.push(peers::floor()?);
    let guest = peers::test_guest("test=idle")?;
    let rounds = common.rounds.clamp(1, 5);
    let fresh = || {
        vmms.iter()
            .map(|vmm| (vmm.name(), Samples::default()))
            .collect::<Vec<_>>()
    };
    let (mut alone, mut tenth) = (fresh(), fresh());
    for _ in 0..rounds {
        for (at, vmm) in vmms.iter().enumerate() {
            let (private, share) = once(vmm, &guest).with_context(|| vmm.name())?;
            alone[at].1.add(private);
            tenth[at].1.add(share);
        }
    }
    println!(
        "footprint: {rounds} rounds, idle test guest, {} MiB",
        guest.memory
    );
    table(
        "private memory of one guest, without its RAM",
        "KiB",
        &alone,
    );
    table("share of the tenth guest, without its RAM", "KiB", &tenth);
    Ok(())
}

/// KiB private to the first of ten guests while it is alone, and the tenth's share.
fn once(vmm: &Vmm, guest: &Guest) -> Result<(f64, f64)> {
    let mut crowd = Crowd(Vec::new());
    crowd.add(vmm, guest)?;
    let alone = crowd.usage(guest)?.private;
    for _ in 1..CROWD {
        crowd.add(vmm, guest)?;
    }
    Ok((alone, crowd.usage(guest)?.share))
}

/// Guests that go when this goes.
struct Crowd(Vec<Running>);

impl Crowd {
    fn add(&mut self, vmm: &Vmm, guest: &Guest) -> Result<()> {
        let mut running = vmm.start(guest, || ())?;
        let mut said = Vec::new();
        let mut byte = [0];
        let ready = loop {
            if said.ends_with(b"ready\n") {
                break true;
            }
            match running.serial.read(&mut byte) {
                Ok(1) => said.push(byte[0]),
                _ => break false,
            }
        };
        self.0.push(running);
        if !ready {
            bail!("the guest ended: {}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }

    /// Memory of the newest guest's process.
    fn usage(&self, guest: &Guest) -> Result<Usage> {
        sleep(SETTLED);
        let newest = self.0.last().context("no guest")?;
        let path = format!("/proc/{}/smaps", newest.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(Usage::parse(&text, guest.memory * 1024))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for running in &mut self.0 {
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}

/// KiB of a process.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    private: f64,
    share: f64,
}

impl Usage {
    /// Adds up smaps without the guest's RAM. RAM is one mapping of at least half its size, or
    /// several in a row that together have exactly its size: advice for a part of it splits a mapping.
    fn parse(smaps: &str, guest_kib: u64) -> Self {
        let mappings = mappings(smaps);
        let mut ram: BTreeSet<usize> = (0..mappings.len())
            .filter(|at| mappings[*at].kib() >= guest_kib / 2)
            .collect();
        for at in ram.clone() {
            let first = (0..=at).rev().find(|first| {
                let row = &mappings[*first..=at];
                row.windows(2).all(|pair| pair[0].end == pair[1].start)
                    && row.iter().map(Mapping::kib).sum::<u64>() == guest_kib
            });
            ram.extend(first.unwrap_or(at)..at);
        }
        let own = (0..mappings.len()).filter(|at| !ram.contains(at));
        own.fold(Self::default(), |sum, at| Self {
            private: sum.private + mappings[at].private,
            share: sum.share + mappings[at].share,
        })
    }
}

/// One mapping of a process.
#[derive(Debug)]
struct Mapping {
    start: u64,
    end: u64,
    private: f64,
    share: f64,
}

impl Mapping {
    fn kib(&self) -> u64 {
        (self.end - self.start) >> 10
    }

    /// The mapping whose first line this is.
    fn begin(line: &str) -> Option<Self> {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            private: 0.0,
            share: 0.0,
        })
    }
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::begin(line) {
            found.push(mapping);
            continue;
        }
        let mut words = line.split_whitespace();
        let value = words
            .clone()
            .nth(1)
            .and_then(|word| word.parse::<u32>().ok());
        let (Some(key), Some(kib), Some(last)) = (words.next(), value, found.last_mut()) else {
            continue;
        };
        match key {
            "Private_Clean:" | "Private_Dirty:" => last.private += f64::from(kib),
            "Pss:" => last.share += f64::from(kib),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::Usage;

    const OTHERS: &str = "\
        5500000-5564000 r-xp 00000000 00:00 1 /bin/x\nSize: 400 kB\nPss: 40 kB\n\
        Private_Clean: 8 kB\nPrivate_Dirty: 12 kB\n";
    const COUNTED: Usage = Usage {
        private: 20.0,
        share: 40.0,
    };

    #[test]
    fn guest_ram_is_left_out() {
        let ram = "7f00000000-7f08000000 rw-p 00000000 00:00 0\nSize: 131072 kB\nPss: 9000 kB\n\
                   Private_Dirty: 9000 kB\n";
        assert_eq!(Usage::parse(&format!("{ram}{OTHERS}"), 128 * 1024), COUNTED);
    }

    #[test]
    fn guest_ram_in_two_mappings_is_left_out() {
        let ram = "7f00000000-7f00200000 rw-p 00000000 00:00 0\nPrivate_Dirty: 164 kB\n\
                   7f00200000-7f08000000 rw-p 00000000 00:00 0\nPrivate_Dirty: 9000 kB\n";
        assert_eq!(Usage::parse(&format!("{ram}{OTHERS}"), 128 * 1024), COUNTED);
    }

    #[test]
    fn neighbours_of_guest_ram_are_counted() {
        let below = "7effffd000-7f00000000 rw-p 00000000 00:00 0\nPss: 40 kB\n\
                     Private_Dirty: 20 kB\n";
        let ram = "7f00000000-7f08000000 rw-p 00000000 00:00 0\nPrivate_Dirty: 9000 kB\n";
        assert_eq!(Usage::parse(&format!("{below}{ram}"), 128 * 1024), COUNTED);
    }
}
