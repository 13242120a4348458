//! Memory of a VMM's process beside the guest's RAM: what is private to one idle guest, and what
//! the tenth guest adds when ten run (its proportional share).

use std::fs;
use std::io::Read;

use anyhow::{Context, Result, bail};

use super::Common;
use super::peers::{self, Guest, Running, Vmm};
use super::stats::{Samples, table};

/// Guests in the crowd.
const CROWD: usize = 10;

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
    /// Adds up smaps. Mappings of half of the guest's RAM and more are the RAM itself.
    fn parse(smaps: &str, guest_kib: u64) -> Self {
        let mut usage = Self::default();
        let mut counts = true;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(kib) = value.parse::<u32>() else {
                continue;
            };
            match key {
                "Size:" => counts = u64::from(kib) < guest_kib / 2,
                "Private_Clean:" | "Private_Dirty:" if counts => usage.private += f64::from(kib),
                "Pss:" if counts => usage.share += f64::from(kib),
                _ => {}
            }
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "7f0-7f1 rw-p 00000000 00:00 0\nSize: 131072 kB\nPss: 9000 kB\n\
                     Private_Dirty: 9000 kB\n5500-5600 r-xp 00000000 00:00 1 /bin/x\n\
                     Size: 400 kB\nPss: 40 kB\nPrivate_Clean: 8 kB\nPrivate_Dirty: 12 kB\n";
        assert_eq!(
            Usage::parse(smaps, 128 * 1024),
            Usage {
                private: 20.0,
                share: 40.0
            }
        );
    }
}
