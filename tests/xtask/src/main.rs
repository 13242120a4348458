//! The project's own tool: what a contributor and the CI type, as `cargo xtask VERB`.
//!
//! Each verb is one module. This crate drives other programs (cargo, the package manager, the lab's
//! emulator) and prints what it does; it holds no logic of the product and nothing here is linked
//! into `vm` or `vmm`.
#![deny(unsafe_code)]

mod bench;
mod check;
mod deb;
mod demo;
mod fuzz;
mod lab;
mod man;
mod packages;
mod project;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Checks, tests, benchmarks and the demonstration of vm"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Format, lints, house rules: who may depend on whom, file sizes, versions, unsafe code
    Check(check::Args),
    /// A Debian host with nested virtualisation, emulated: runs scripts that need a stock kernel
    Lab(lab::LabArgs),
    /// Every test, with all that it needs
    Test(suite::SuiteArgs),
    /// A fuzz body on changed inputs, for as long as you like
    Fuzz(fuzz::FuzzArgs),
    /// The main job on a stock Debian guest: vm define, vm start, vm console
    Demo(demo::DemoArgs),
    /// Benchmarks: we and a peer in one run, and the ratio
    Bench(bench::BenchArgs),
    /// Manual pages and completion scripts, from the declarations of the verbs
    Man(man::ManArgs),
    /// A Debian package: programs, units, manual pages, completions
    Deb(deb::DebArgs),
    /// The inner half of `bench boot`, run inside the lab
    #[command(hide = true)]
    BootRounds(bench::Common),
    /// The inner half of `demo`, run where the guest runs
    #[command(hide = true)]
    DemoAct(demo::ActArgs),
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Check(args) => check::run(&args),
        Verb::Lab(args) => lab::run(args),
        Verb::Bench(args) => bench::run(&args),
        Verb::BootRounds(common) => bench::measure_here(&common),
        Verb::Deb(args) => deb::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Test(args) => suite::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::DemoAct(args) => demo::act(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
