//! exec of the VMM to the first byte that the guest writes, and to the process being gone; beside
//! QEMU and the peers the floor, a VMM that does nothing else.
//!
//! The guest turns on no queue: it says hello and ends the machine.

use std::io::Read;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Common;
use super::peers::{self, Guest, Vmm};
use super::stats::{Samples, table};

pub fn run(common: &Common) -> Result<()> {
    let mut vmms = peers::all(common, peers::microvm(common)?)?;
    vmms.push(peers::floor()?);
    let guest = peers::test_guest("test=hello")?;
    let fresh = || {
        vmms.iter()
            .map(|vmm| (vmm.name(), Samples::default()))
            .collect::<Vec<_>>()
    };
    let (mut first, mut gone) = (fresh(), fresh());
    // One round for the page cache, which does not count.
    for round in 0..=common.rounds {
        for (at, vmm) in vmms.iter().enumerate() {
            let (byte, end) = once(vmm, &guest).with_context(|| vmm.name())?;
            if round > 0 {
                first[at].1.add(byte);
                gone[at].1.add(end);
            }
        }
    }
    println!(
        "start: {} rounds, test guest, {} MiB",
        common.rounds, guest.memory
    );
    table("exec to first byte", "ms", &first);
    table("exec to process gone", "ms", &gone);
    Ok(())
}

/// Milliseconds to the first byte and to the end.
fn once(vmm: &Vmm, guest: &Guest) -> Result<(f64, f64)> {
    let mut started = Instant::now();
    let mut running = vmm.start(guest, || started = Instant::now())?;
    let mut byte = [0];
    let count = running
        .serial
        .read(&mut byte)
        .context("cannot read the serial line")?;
    let first = started.elapsed();
    if count == 0 {
        let status = running.child.wait().context("cannot wait")?;
        bail!("ended ({status}) before the guest said a word");
    }
    let mut rest = Vec::new();
    running
        .serial
        .read_to_end(&mut rest)
        .context("cannot read the serial line")?;
    running.child.wait().context("cannot wait")?;
    let gone = started.elapsed();
    if !String::from_utf8_lossy(&rest).contains("PASS") {
        bail!("the guest did not pass: {}", String::from_utf8_lossy(&rest));
    }
    Ok((first.as_secs_f64() * 1e3, gone.as_secs_f64() * 1e3))
}
