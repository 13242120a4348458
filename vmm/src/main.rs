//! The `vmm` program: one guest per process, told everything by a machine spec.
//!
//! It says what is wrong on standard error before the log is open, in the log afterwards, and in the
//! end record last. Its exit code is one of [`Code`], or what the test device says.
#![deny(unsafe_code)]

use std::process::ExitCode;
use vmm::arch::cpuid;
use vmm::measure;
use vmm::process::{self, Code};

const USAGE: &str = "usage: vmm --spec-fd N [--after-fd M]\n       vmm --measure-fd N\n       \
    vmm --cpuid-fd N\n       vmm --version\n\n\
    Runs the machine that the spec behind descriptor N describes; or measures the speed of guest \
    kernel code on the /dev/kvm behind it; or tells which CPU it can show guests. With --after-fd it \
    touches nothing before descriptor M, a pipe, is closed at its other end. Started by the manager; see docs/architecture.md.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--version"] => {
            println!("vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        ["--spec-fd", number] => match number.parse() {
            Ok(number) => leave(process::run(number, None)),
            Err(_) => wrong_usage(),
        },
        ["--spec-fd", number, "--after-fd", gate] => match (number.parse(), gate.parse()) {
            (Ok(number), Ok(gate)) => leave(process::run(number, Some(gate))),
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

fn report(measured: Result<String, String>) -> ExitCode {
    match measured {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("vmm: {message}");
            ExitCode::from(Code::Failed.number())
        }
    }
}

fn wrong_usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(Code::Usage.number())
}

/// Leaves at once: everything that must be written is written, and the kernel takes down memory,
/// threads and descriptors faster than we could.
#[allow(clippy::exit)]
fn leave(code: u8) -> ExitCode {
    std::process::exit(i32::from(code))
}
