//! The `vmm` program: one guest per process, told everything by a machine spec.
//!
//! It says what is wrong on standard error before the log is open, in the log afterwards, and in the
//! end record last. Its exit code is one of [`Code`], or what the test device says.
//!
//! It starts without Rust's runtime, which reads the process's memory map and gives every thread a
//! second stack for one message about a first that is full: a tenth of a millisecond at every start. What
//! else that runtime does is done by [`sandbox::prepare_process`].
#![deny(unsafe_code)]
#![cfg_attr(target_env = "gnu", no_main)]

use std::panic::catch_unwind;
use vmm::arch::cpuid;
use vmm::process::{self, Code};
use vmm::{measure, sandbox};

const USAGE: &str = "usage: vmm --spec-fd N [--after-fd M]\n       vmm --measure-fd N\n       \
    vmm --cpuid-fd N\n       vmm --version\n\n\
    Runs the machine that the spec behind descriptor N describes; or measures the speed of guest \
    kernel code on the /dev/kvm behind it; or tells which CPU it can show guests. With --after-fd it \
    touches nothing before descriptor M, a pipe, is closed at its other end. Started by the manager; see docs/architecture.md.";

/// What the C library calls. It keeps the arguments where [`std::env::args`] finds them.
// SAFETY: no other symbol of the program has this name, and it has the type that the C library expects.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
#[unsafe(export_name = "main")]
extern "C" fn start(_count: i32, _arguments: *const *const u8) -> i32 {
    main();
    0
}

/// Ends the process at once: everything that must be written is written, and the kernel takes down memory,
/// threads and descriptors faster than we could.
#[allow(clippy::exit)]
fn main() {
    sandbox::prepare_process();
    // The panic has said what there is to say.
    let code = catch_unwind(run).unwrap_or(Code::Panicked.number());
    std::process::exit(i32::from(code))
}

fn run() -> u8 {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--version"] => {
            println!("vmm {}", env!("CARGO_PKG_VERSION"));
            Code::Ended.number()
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            Code::Ended.number()
        }
        ["--spec-fd", number] => match number.parse() {
            Ok(number) => process::run(number, None),
            Err(_) => wrong_usage(),
        },
        ["--spec-fd", number, "--after-fd", gate] => match (number.parse(), gate.parse()) {
            (Ok(number), Ok(gate)) => process::run(number, Some(gate)),
            _ => wrong_usage(),
        },
        ["--measure-fd", number] => match number.parse() {
            Ok(number) => report(measure::run(number)),
            Err(_) => wrong_usage(),
        },
        ["--cpuid-fd", number] => match number.parse() {
            Ok(number) => report(cpuid::report(number)),
            Err(_) => wrong_usage(),
        },
        _ => wrong_usage(),
    }
}

fn report(measured: Result<String, String>) -> u8 {
    match measured {
        Ok(answer) => {
            println!("{answer}");
            Code::Ended.number()
        }
        Err(message) => {
            eprintln!("vmm: {message}");
            Code::Failed.number()
        }
    }
}

fn wrong_usage() -> u8 {
    eprintln!("{USAGE}");
    Code::Usage.number()
}
