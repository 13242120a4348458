//! One version of each rust-vmm crate: two of them would mean two kinds of guest memory or of
//! event descriptor that do not fit together.

use std::collections::BTreeMap;

use super::Finding;

/// Names, or beginnings of names, of which the lock file may hold one version only.
const ONCE: &[&str] = &[
    "kvm-",
    "vm-memory",
    "virtio-",
    "vmm-sys-util",
    "linux-loader",
    "acpi_tables",
    "seccompiler",
];

/// Reads Cargo.lock and reports crates that are there more than once.
pub fn findings(lock: &str) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = None;
    for line in lock.lines() {
        if let Some(value) = quoted(line, "name = ") {
            name = Some(value);
        } else if let Some(value) = quoted(line, "version = ")
            && let Some(name) = name.take()
        {
            versions.entry(name).or_default().push(value);
        }
    }
    let pinned = |name: &str| {
        ONCE.iter().any(|once| {
            if once.ends_with('-') {
                name.starts_with(once)
            } else {
                name == *once
            }
        })
    };
    versions
        .iter()
        .filter(|(name, versions)| pinned(name) && versions.len() > 1)
        .map(|(name, versions)| {
            Finding::new(
                "Cargo.lock",
                format!("{name} is there in versions {}", versions.join(" and ")),
                "pin the dependency that wants the other one (cargo tree -d)",
            )
        })
        .collect()
}

fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_versions_of_guest_memory_are_found() {
        let lock = "[[package]]\nname = \"vm-memory\"\nversion = \"0.17.0\"\n\n\
                    [[package]]\nname = \"vm-memory\"\nversion = \"0.18.0\"\n";
        let found = findings(lock);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("0.17.0 and 0.18.0"));
    }

    #[test]
    fn other_crates_may_come_twice() {
        let lock = "[[package]]\nname = \"hashbrown\"\nversion = \"0.15.0\"\n\n\
                    [[package]]\nname = \"hashbrown\"\nversion = \"0.16.0\"\n\n\
                    [[package]]\nname = \"vm-memory\"\nversion = \"0.18.0\"\n";
        assert_eq!(findings(lock), []);
    }
}
