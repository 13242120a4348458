//! How the `vmm` program is linked, which is a good part of the time that its start takes.
//!
//! *Static*, where this host has the C library's archive. A dynamic one has to be found, mapped and bound
//! at every start, before the first line of ours runs: a fifth of the way to the guest's first
//! byte. Nothing here needs what only a dynamic C library has (names of users or hosts, locales,
//! plug-ins). The program stays position-independent, so its place in memory is as random as before.
//!
//! *Packed relocations*, where the C library can read them: every start reads through all of them, and
//! packed they are 60 KiB less to read and to map.
//!
//! Cargo has no flag for one program of a workspace alone, and rustc names the dynamic C library last.
//! So the linker is shown a folder where those names are scripts that lead to the archives.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// First glibc that knows packed relocations.
const PACKED: (u32, u32) = (2, 36);
/// What rustc names, and the archives of this compiler that have it all. What they need of one another
/// is in each group.
const LIBRARIES: [(&str, &[&str]); 3] = [
    ("libgcc_s.so", &["libgcc_eh.a", "libgcc.a", "libc.a"]),
    ("libc.so", &["libc.a", "libgcc_eh.a", "libgcc.a"]),
    ("libm.so", &["libm.a"]),
];
/// Functions that Rust's library uses where the C library has them. An archive gives what is asked for
/// and nothing that may be missing, so that a crate's own call of one of these would go nowhere.
const ASKED_FOR: [&str; 6] = [
    "copy_file_range",
    "getrandom",
    "gettid",
    "preadv2",
    "pwritev2",
    "statx",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let for_this_host = variable("HOST") == variable("TARGET");
    let linux = variable("CARGO_CFG_TARGET_OS") == "linux";
    let Some(version) = glibc().filter(|_| for_this_host && linux) else {
        return;
    };
    if version >= PACKED {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    // With `crt-static` rustc does all of this itself.
    let by_rustc = variable("CARGO_CFG_TARGET_FEATURE").contains("crt-static");
    if let Some(folder) = archives().filter(|_| !by_rustc) {
        println!("cargo::rustc-link-arg-bins=-static-pie");
        println!("cargo::rustc-link-arg-bins=-L{}", folder.display());
        for name in ASKED_FOR {
            println!("cargo::rustc-link-arg-bins=-Wl,--undefined={name}");
        }
    }
}

/// Version of this host's glibc; `None` with another C library.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A folder with a script for each library; `None` when something is missing.
fn archives() -> Option<PathBuf> {
    // What a static program starts with.
    file_of("rcrt1.o")?;
    let folder = PathBuf::from(std::env::var_os("OUT_DIR")?).join("static");
    fs::create_dir_all(&folder).ok()?;
    for (name, members) in LIBRARIES {
        let paths = members.iter().map(|member| file_of(member));
        let paths = paths.collect::<Option<Vec<_>>>()?.join(" ");
        fs::write(folder.join(name), format!("GROUP({paths})\n")).ok()?;
    }
    Some(folder)
}

/// Where the compiler that links has this file of its own; `None` when it has none.
fn file_of(name: &str) -> Option<String> {
    let linker = std::env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let output = Command::new(linker)
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?.trim().to_string();
    // It repeats the name of what it does not have. A script would end a path at white space.
    let usable = path.starts_with('/') && !path.contains(char::is_whitespace);
    usable.then_some(path)
}
