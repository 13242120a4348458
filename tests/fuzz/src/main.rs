//! A seeded mutation loop over the fuzz bodies, for stable Rust. It follows no coverage, as cargo-fuzz does.
//!
//! What it finds is left in `target/fuzz-findings/TARGET/`; move it to `tests/fuzz/regressions/TARGET/` with the
//! fix.
#![deny(unsafe_code)]

use clap::Parser;
use fuzz::mutate::{Random, mutate};
use fuzz::{TARGETS, Target};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A body that takes longer than this hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Panics of any thread: some bodies have workers.
static PANICS: AtomicU32 = AtomicU32::new(0);

/// Changes inputs by chance and runs a fuzz body on them
#[derive(Parser)]
struct Args {
    /// The body; without one, each in turn
    target: Option<String>,
    /// How long, for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let targets: Vec<&Target> = match &args.target {
        None => TARGETS.iter().collect(),
        Some(name) => match fuzz::find(name) {
            Some(target) => vec![target],
            None => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                eprintln!(
                    "error: no body is called {name}\nhint: there are {}",
                    names.join(", ")
                );
                return ExitCode::FAILURE;
            }
        },
    };
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    let mut all_well = true;
    for target in targets {
        all_well &= explore(target, &args);
    }
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one body for its time; whether it found nothing.
fn explore(target: &'static Target, args: &Args) -> bool {
    let inputs = target.inputs();
    let mut random = Random::new(args.seed);
    let current: Arc<Mutex<Vec<u8>>> = Arc::default();
    let round = Arc::new(AtomicU64::new(0));
    watch(target, &current, &round);
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut waiting = inputs.iter();
    let mut deep = 0;
    while Instant::now() < until {
        let input = waiting
            .next()
            .cloned()
            .unwrap_or_else(|| mutate(&mut random, &inputs));
        current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&input);
        let result = std::panic::catch_unwind(|| (target.body)(&input));
        deep += u64::from(matches!(result, Ok(true)));
        round.fetch_add(1, Ordering::SeqCst);
        if result.is_err() || PANICS.load(Ordering::SeqCst) > 0 {
            let path = keep(target, &input);
            println!(
                "{}: found something after {} rounds: {path:?}",
                target.name,
                round.load(Ordering::SeqCst)
            );
            PANICS.store(0, Ordering::SeqCst);
            round.store(u64::MAX, Ordering::SeqCst);
            return false;
        }
    }
    let rounds = round.swap(u64::MAX, Ordering::SeqCst);
    println!(
        "{}: {rounds} rounds in {} s, {deep} of them deep, nothing found ({})",
        target.name, args.seconds, target.about
    );
    true
}

/// Ends the process when a round does not end, and keeps its input.
fn watch(target: &'static Target, current: &Arc<Mutex<Vec<u8>>>, round: &Arc<AtomicU64>) {
    let (current, round) = (Arc::clone(current), Arc::clone(round));
    std::thread::spawn(move || {
        let mut last = 0;
        loop {
            std::thread::sleep(HANGS);
            let now = round.load(Ordering::SeqCst);
            if now == u64::MAX {
                return;
            }
            if now == last {
                let input = current
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                println!("{}: hangs: {:?}", target.name, keep(target, &input));
                std::process::abort();
            }
            last = now;
        }
    });
}

fn keep(target: &Target, input: &[u8]) -> PathBuf {
    let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let folder = PathBuf::from("target/fuzz-findings").join(target.name);
    let path = folder.join(format!("{sum:016x}"));
    if fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, input))
        .is_err()
    {
        eprintln!("cannot write {}", path.display());
    }
    path
}
