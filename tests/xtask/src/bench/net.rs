//! Frames of a network card on one tap, out of the test guest and into it, in a network that is made for
//! the run. The guest polls its rings.
//!
//! Out: the guest sends as fast as the card takes frames; the kernel counts them at the tap and drops
//! them. In: a packet socket keeps frames in the tap's queue and never one too many, for a frame that is
//! dropped costs the sender as much as one that comes, and the guest counts what comes. Beside the rate: CPU time per frame of all threads but the vCPU's, and how often the guest rang
//! the doorbell, which is an exit each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::tap::{self, Sender};
use anyhow::{Context, Result, bail};

use super::Common;
use super::peers::{self, Guest, Vmm};
use super::stats::{Samples, table};
use super::talk::{Talk, number};

/// Frames that go in before counting begins.
const WARM: u64 = 2000;
/// Frames that are kept in the tap's queue, which holds 1000.
const WAITING: u64 = 900;
/// How long the sender leaves a full queue alone: the card empties a part of it meanwhile.
const PAUSE: Duration = Duration::from_micros(300);

#[derive(clap::Args)]
pub struct NetArgs {
    #[command(flatten)]
    common: Common,
    /// Frames of a cell, as a multiple of the usual number
    #[arg(long, default_value_t = 1)]
    times: u64,
}

/// One cell of the table.
struct Cell {
    out: bool,
    bytes: u64,
    count: u64,
}

impl Cell {
    fn all(times: u64) -> Vec<Self> {
        let cells = [(true, 64), (true, 1500), (false, 64), (false, 1500)];
        let cells = cells.map(|(out, bytes)| Self {
            out,
            bytes,
            count: 200_000 * times,
        });
        cells.into()
    }

    fn title(&self) -> String {
        let way = if self.out { "from" } else { "to" };
        format!("frames of {} bytes {way} the guest", self.bytes)
    }

    fn cmdline(&self) -> String {
        let test = if self.out { "net-tx" } else { "net-rx" };
        let Self { bytes, count, .. } = self;
        format!("test={test} bytes={bytes} count={count} warm={WARM}")
    }
}

/// What one run of a cell gave.
struct Measured {
    /// Thousands of frames per second.
    rate: f64,
    /// Microseconds of CPU time per frame, the vCPU's left out.
    cpu: f64,
    /// Doorbells per thousand frames.
    kicks: f64,
    /// Frames that were lost on the way in, per frame that came.
    lost: f64,
}

pub fn run(args: &NetArgs) -> Result<()> {
    let common = &args.common;
    let vmms = peers::all(common, peers::microvm_with_card(common)?)?;
    let guest = Guest {
        tap: Some(tap::NAME.into()),
        ..peers::test_guest("")?
    };
    tap::in_own_network(|| measure(args, &vmms, &guest))
        .context("cannot make a network with a tap for the run; it takes root")?
}

fn measure(args: &NetArgs, vmms: &[Vmm], guest: &Guest) -> Result<()> {
    let rounds = args.common.rounds.clamp(1, 9);
    println!("net: {rounds} rounds, one tap, no vhost");
    for cell in Cell::all(args.times) {
        let fresh = || -> Vec<_> {
            let row = |vmm: &Vmm| (vmm.name(), Samples::default());
            vmms.iter().map(row).collect()
        };
        let (mut rate, mut cpu, mut kicks, mut lost) = (fresh(), fresh(), fresh(), fresh());
        for _ in 0..rounds {
            for (at, vmm) in vmms.iter().enumerate() {
                let guest = Guest {
                    cmdline: cell.cmdline() + &vmm.ecam(),
                    ..guest.clone()
                };
                let measured = once(vmm, &guest, &cell).with_context(|| vmm.name())?;
                rate[at].1.add(measured.rate);
                cpu[at].1.add(measured.cpu);
                kicks[at].1.add(measured.kicks);
                lost[at].1.add(measured.lost);
            }
        }
        table(&cell.title(), "thousand per second", &rate);
        table("CPU beside the vCPU", "microseconds per frame", &cpu);
        table("doorbells", "per thousand frames", &kicks);
        if !cell.out {
            table("lost at a full queue", "per frame that came", &lost);
        }
    }
    Ok(())
}

fn once(vmm: &Vmm, guest: &Guest, cell: &Cell) -> Result<Measured> {
    let talk = Talk::start(vmm, guest)?;
    if cell.out {
        let before = tap::counters()?.received;
        let measured = timed(talk, cell)?;
        let came = tap::counters()?.received - before;
        if came != cell.count {
            bail!("{came} frames of {} came out of the tap", cell.count);
        }
        return Ok(measured);
    }
    let mut sender = Sender::new(usize::try_from(cell.bytes)?)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut talk = talk;
        talk.until("ready")?;
        let flood = scope.spawn(|| flood(&mut sender, &stop));
        let measured = timed(talk, cell);
        stop.store(true, Ordering::Relaxed);
        match flood.join() {
            Ok(sent) => sent.context("cannot send frames")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        measured
    })
}

/// The guest's work from `go` to `done`.
fn timed(mut talk: Talk, cell: &Cell) -> Result<Measured> {
    talk.until("go")?;
    let (started, before) = (Instant::now(), talk.cpu());
    let done = talk.until("done")?;
    let seconds = started.elapsed().as_secs_f64();
    let after = talk.cpu();
    talk.end()?;
    let count = cell.count as f64;
    Ok(Measured {
        rate: count / seconds / 1e3,
        cpu: (after - before) / count * 1e6,
        kicks: number(&done, "kicks") / count * 1e3,
        lost: number(&done, "lost") / count,
    })
}

/// Fills the tap's queue up, again and again until it is stopped: the kernel counts a frame when the card
/// reads it. Between, it leaves the processors to those that are measured.
fn flood(sender: &mut Sender, stop: &AtomicBool) -> Result<()> {
    let gone = |now: tap::Counters| now.sent + now.sent_dropped;
    let before = gone(tap::counters()?);
    while !stop.load(Ordering::Relaxed) {
        let waiting = (sender.sent() + before).saturating_sub(gone(tap::counters()?));
        let mut room = usize::try_from(WAITING.saturating_sub(waiting))?;
        while room > 0 && !stop.load(Ordering::Relaxed) {
            room -= sender.send(room)?;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
