//! The programs of this workspace, as they were built with the tests.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `vmm` program. VM_TEST_VMM names another one.
///
/// # Errors
/// When it does not compile.
pub fn vmm() -> io::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    find(&BUILT, "VM_TEST_VMM", "vmm", "vmm")
}

/// The `vm` program. VM_TEST_VM names another one.
///
/// # Errors
/// When it does not compile.
pub fn vm() -> io::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    find(&BUILT, "VM_TEST_VM", "virshlike", "vm")
}

fn find(
    built: &OnceLock<Result<PathBuf, String>>,
    variable: &str,
    package: &str,
    name: &str,
) -> io::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    built
        .get_or_init(|| compile(package, name))
        .clone()
        .map_err(io::Error::other)
}

/// Builds a program with the profile of the running test. Testing one package alone does not build
/// the programs of the others, and a stale program would test what is no longer there.
fn compile(package: &str, name: &str) -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/PROFILE/deps/NAME-HASH
    let folder = test
        .ancestors()
        .nth(2)
        .ok_or("the test is not in a build folder")?;
    let profile = folder
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("debug");
    let profile = if profile == "debug" { "dev" } else { profile };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            package,
            "--bin",
            name,
        ])
        .args(["--profile", profile])
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(folder.join(name))
}
