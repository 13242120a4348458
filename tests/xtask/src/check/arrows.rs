//! Who may depend on whom: the arrows between the crates point down only.
//!
//! ```text
//!            virshlike                tests (anything public)
//!             |     \
//!             v      v
//!          images   vmm-api <-- devices <-- vmm
//!             ^                    |          |
//!             +--------------------+----------+
//! ```
//!
//! The rules are a table; the graph is plain data, so the table is tested without cargo.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata};

use super::Finding;

/// What each of our crates may use of ours, in any kind of dependency.
const ARROWS: &[(&str, &[&str])] = &[
    ("images", &[]),
    ("vmm-api", &[]),
    ("devices", &["images", "vmm-api"]),
    ("vmm", &["devices", "images", "vmm-api"]),
    ("virshlike", &["images", "vmm-api"]),
];

/// Crates that only one of ours may name in its dependencies.
const RESERVED: &[(&str, &str)] = &[("tokio", "virshlike"), ("kvm-ioctls", "vmm")];

/// Members that test the others and may use anything public.
const FREE: &[&str] = &["fuzz", "tests", "xtask"];

/// One member of the workspace and what it names.
#[derive(Debug, Default)]
pub struct Member {
    /// Its manifest, from the root of the workspace.
    pub manifest: String,
    /// Names of its direct dependencies of every kind.
    pub direct: BTreeSet<String>,
    /// Names of everything that is linked into it.
    pub linked: BTreeSet<String>,
}

/// The members by name.
#[derive(Debug, Default)]
pub struct Graph(pub BTreeMap<String, Member>);

impl Graph {
    /// Reads the members and what they link from cargo's answer.
    pub fn from_metadata(metadata: &Metadata) -> Self {
        let mut members = BTreeMap::new();
        for package in metadata.workspace_packages() {
            let manifest = package
                .manifest_path
                .strip_prefix(&metadata.workspace_root)
                .unwrap_or(&package.manifest_path);
            let direct = package
                .dependencies
                .iter()
                .map(|d| d.name.clone())
                .collect();
            let member = Member {
                manifest: manifest.to_string(),
                direct,
                linked: linked(metadata, &package.id),
            };
            members.insert(package.name.to_string(), member);
        }
        Self(members)
    }
}

/// Every package that is reached over normal dependencies from `start`.
fn linked(metadata: &Metadata, start: &cargo_metadata::PackageId) -> BTreeSet<String> {
    let Some(resolve) = &metadata.resolve else {
        return BTreeSet::new();
    };
    let mut seen = BTreeSet::new();
    let mut queue = vec![start.clone()];
    while let Some(id) = queue.pop() {
        let Some(node) = resolve.nodes.iter().find(|node| node.id == id) else {
            continue;
        };
        for dep in &node.deps {
            let normal = dep
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(dep.pkg.clone()) {
                queue.push(dep.pkg.clone());
            }
        }
    }
    seen.iter()
        .map(|id| metadata[id].name.to_string())
        .collect()
}

/// Every arrow that points the wrong way.
pub fn findings(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, member) in &graph.0 {
        if FREE.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            findings.push(Finding::new(
                &member.manifest,
                format!("crate {name} has no place in the house"),
                "draw its arrows in tests/xtask/src/check/arrows.rs and docs/architecture.md",
            ));
            continue;
        };
        for used in member
            .direct
            .iter()
            .filter(|used| graph.0.contains_key(*used))
        {
            if !allowed.contains(&used.as_str()) && used != name {
                findings.push(Finding::new(
                    &member.manifest,
                    format!("{name} depends on {used}"),
                    format!("move what it needs into one of {allowed:?} or hand it in as data"),
                ));
            }
        }
        for (reserved, owner) in RESERVED {
            if name != owner && member.linked.contains(*reserved) && !links_owner(member, owner) {
                findings.push(Finding::new(
                    &member.manifest,
                    format!("{name} links {reserved}"),
                    format!("only {owner} may use it"),
                ));
            }
        }
    }
    findings
}

/// A member that links the owner links the reserved crate through it, which is the owner's affair.
fn links_owner(member: &Member, owner: &str) -> bool {
    member.linked.contains(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(members: &[(&str, &[&str], &[&str])]) -> Graph {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let member = |direct: &[&str], linked: &[&str]| Member {
            manifest: "x/Cargo.toml".into(),
            direct: names(direct),
            linked: names(linked),
        };
        Graph(
            members
                .iter()
                .map(|(n, d, l)| (n.to_string(), member(d, l)))
                .collect(),
        )
    }

    #[test]
    fn the_house_as_drawn_passes() {
        let house = graph(&[
            ("images", &["libc"], &["libc"]),
            ("vmm-api", &["serde"], &["serde"]),
            ("devices", &["images", "vmm-api"], &["images", "vmm-api"]),
            (
                "vmm",
                &["devices", "kvm-ioctls"],
                &["devices", "kvm-ioctls"],
            ),
            ("virshlike", &["images", "tokio"], &["images", "tokio"]),
            (
                "tests",
                &["vmm", "virshlike"],
                &["vmm", "virshlike", "kvm-ioctls", "tokio"],
            ),
        ]);
        assert_eq!(findings(&house), []);
    }

    #[test]
    fn an_arrow_upwards_is_found() {
        let house = graph(&[
            ("virshlike", &["vmm"], &["vmm"]),
            ("vmm", &[], &[]),
            ("images", &["vmm-api"], &["vmm-api"]),
            ("vmm-api", &[], &[]),
        ]);
        let found: Vec<_> = findings(&house).into_iter().map(|f| f.what).collect();
        assert_eq!(
            found,
            ["images depends on vmm-api", "virshlike depends on vmm"]
        );
    }

    #[test]
    fn a_reserved_crate_is_found_also_when_it_comes_through_another() {
        let house = graph(&[("images", &["helper"], &["helper", "tokio"])]);
        assert_eq!(findings(&house)[0].what, "images links tokio");
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let house = graph(&[("newcomer", &[], &[])]);
        assert!(findings(&house)[0].what.contains("newcomer"));
    }
}
