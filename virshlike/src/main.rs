//! The `vm` command.
#![deny(unsafe_code)]

fn main() -> std::process::ExitCode {
    virshlike::cli::main()
}
