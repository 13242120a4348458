//! What the source files themselves must hold: size, unsafe code, who names KVM, where versions are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, TargetKind};

use super::Finding;

/// Lines that a file may have, tests apart.
const MAX_LINES: usize = 600;

/// Where `#[allow(unsafe_code)]` may stand: a path, or the beginning of one.
const UNSAFE_HOMES: &[&str] = &[
    "vmm/src/kvm",
    "vmm/src/main.rs",
    "vmm/src/memory",
    "vmm/src/sandbox",
    "devices/src/virtio/chain",
    "devices/src/backend",
    "images/src/storage",
    "images/src/exec/ring",
    "virshlike/src/spawn",
    "tests/guest/",
    "tests/src/tap",
    "tests/xtask/src/bench/usage",
];

/// The one place that may name the KVM crate.
const KVM_HOME: &str = "vmm/src/kvm";

/// Checks every source file and manifest of the members.
pub fn findings(root: &Path, metadata: &Metadata) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = package.manifest_path.as_std_path();
        let text = read(manifest)?;
        findings.extend(versions_outside_root(&relative(root, manifest), &text));
        for target in &package.targets {
            let is_root = target.kind.iter().any(|kind| {
                matches!(
                    kind,
                    TargetKind::Lib | TargetKind::Bin | TargetKind::ProcMacro
                )
            });
            let path = target.src_path.as_std_path();
            if is_root && !read(path)?.contains("#![deny(unsafe_code)]") {
                findings.push(Finding::new(
                    relative(root, path),
                    "the crate root does not deny unsafe code",
                    "add #![deny(unsafe_code)] below its documentation",
                ));
            }
        }
    }
    let mut files = Vec::new();
    collect(root, &mut files)?;
    for file in files {
        findings.extend(file_findings(&relative(root, &file), &read(&file)?));
    }
    Ok(findings)
}

fn file_findings(place: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = code_lines(text);
    if !is_test_file(place) && lines > MAX_LINES {
        findings.push(Finding::new(
            place,
            format!("{lines} lines, {MAX_LINES} are allowed"),
            "split it by who owns what",
        ));
    }
    // The words are put together here so that this file does not find itself.
    let unsafe_mark = concat!("allow(", "unsafe_code)");
    let kvm_mark = concat!("kvm_", "ioctls");
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let here = format!("{place}:{}", number + 1);
        if code.contains(unsafe_mark) && !lives_in(place, code, UNSAFE_HOMES) {
            findings.push(Finding::new(
                here.clone(),
                "unsafe code is allowed outside its rooms",
                format!("keep it in {}", UNSAFE_HOMES.join(", ")),
            ));
        }
        if code.contains(kvm_mark) && !place.starts_with(KVM_HOME) {
            findings.push(Finding::new(
                here,
                format!("names {kvm_mark}"),
                format!("wrap what it needs in {KVM_HOME}"),
            ));
        }
    }
    findings
}

/// A room may be opened in its own file, or by its parent on the line of its `mod`, which the next
/// line of a finding cannot see: the attribute is therefore accepted in the parent's `lib.rs`,
/// `main.rs` and `mod.rs` only for crates that own a room.
fn lives_in(place: &str, code: &str, homes: &[&str]) -> bool {
    if homes.iter().any(|home| place.starts_with(home)) {
        return true;
    }
    let outer = code.trim_start().starts_with("#[");
    outer && homes.iter().any(|home| is_parent_file(place, home))
}

/// Whether `place` is the file that declares the module `home`.
fn is_parent_file(place: &str, home: &str) -> bool {
    let Some((folder, _)) = home.rsplit_once('/') else {
        return false;
    };
    [
        format!("{folder}/lib.rs"),
        format!("{folder}/mod.rs"),
        format!("{folder}.rs"),
    ]
    .iter()
    .any(|parent| parent == place)
}

/// Lines before an inline test module.
fn code_lines(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    tests.unwrap_or(lines.len())
}

fn is_test_file(place: &str) -> bool {
    // The first component is the crate's folder, which may be called tests itself.
    let mut inside = place.split('/').skip(1);
    inside.any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

/// Dependencies of a member that say a version instead of `workspace = true`.
fn versions_outside_root(place: &str, manifest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (number, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
            continue;
        }
        let plain = line.is_empty() || line.starts_with('#') || line.contains("workspace = true");
        if in_dependencies && !plain {
            findings.push(Finding::new(
                format!("{place}:{}", number + 1),
                format!("a dependency of its own version: {line}"),
                "put the version into the root Cargo.toml and say NAME.workspace = true",
            ));
        }
    }
    findings
}

/// All Rust files below `folder`, build output and hidden folders left out.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let code = "let x = 1;\n".repeat(MAX_LINES);
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(file_findings("vmm/src/a.rs", &tested), []);
        let long = format!("{code}\n");
        assert_eq!(file_findings("vmm/src/a.rs", &long).len(), 1);
        assert_eq!(file_findings("vmm/src/a/tests.rs", &long), []);
        assert_eq!(file_findings("tests/src/a.rs", &long).len(), 1);
        assert_eq!(file_findings("tests/tests/a.rs", &long), []);
    }

    #[test]
    fn unsafe_code_outside_its_rooms_is_found() {
        let text = concat!("#[allow(", "unsafe_code)]\nmod chain;\n");
        assert_eq!(file_findings("vmm/src/kvm/vcpu.rs", text), []);
        assert_eq!(file_findings("vmm/src/lib.rs", text), []);
        assert_eq!(file_findings("devices/src/virtio/mod.rs", text), []);
        assert_eq!(file_findings("devices/src/virtio.rs", text), []);
        assert_eq!(file_findings("vmm/src/control.rs", text).len(), 1);
        assert_eq!(file_findings("vmm/api/src/lib.rs", text).len(), 1);
    }

    #[test]
    fn the_kvm_crate_is_named_in_one_room_only() {
        let text = concat!("use kvm_", "ioctls::VmFd;\n");
        assert_eq!(file_findings("vmm/src/kvm/vm.rs", text), []);
        assert_eq!(file_findings("vmm/src/machine.rs", text).len(), 1);
        let comment = concat!("// as kvm_", "ioctls does\n");
        assert_eq!(file_findings("vmm/src/machine.rs", comment), []);
    }

    #[test]
    fn a_version_outside_the_root_manifest_is_found() {
        let manifest = "[package]\nversion = \"1\"\n[dependencies]\nlibc.workspace = true\n\
                        serde = { workspace = true, features = [\"rc\"] }\n\
                        [dev-dependencies]\nrand = \"0.9\"\n[lints]\nworkspace = true\n";
        let found = versions_outside_root("vmm/Cargo.toml", manifest);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "vmm/Cargo.toml:7");
    }
}
