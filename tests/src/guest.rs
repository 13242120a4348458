//! The freestanding test guest, built on demand.
//!
//! It is a package of its own with its own linker script, so it is built by its own cargo run, into
//! a build folder of its own: a test may therefore build it while cargo runs that test.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The target whose standard `core` the guest is built with; the host's own.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the guest and returns the path of its ELF file. VM_TEST_GUEST names one that is built
/// already, where there is no cargo.
///
/// # Errors
/// When cargo cannot be run, or what it says when the guest does not compile.
pub fn build() -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os("VM_TEST_GUEST") {
        return Ok(path.into());
    }
    Ok(compiled()?.join("test-guest"))
}

/// Builds the floor, the least that a VMM can be, and returns its path.
///
/// # Errors
/// As [`build`].
pub fn build_floor() -> io::Result<PathBuf> {
    Ok(compiled()?.join("floor"))
}

fn compiled() -> io::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(compile).clone().map_err(io::Error::other)
}

fn compile() -> Result<PathBuf, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let target = build_folder();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&package)
        .args(["build", "--quiet", "--release", "--locked", "--target-dir"])
        .arg(&target);
    // Flags for the host's programs would replace those that the guest is linked with.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    let output = command
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(target.join(TARGET).join("release"))
}

fn build_folder() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("guest")
}
