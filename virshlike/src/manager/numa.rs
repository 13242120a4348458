//! The host's NUMA nodes: which there are, and where a guest's memory comes from.

use super::machine::Place;
use super::node::format_list;
use crate::error::{Error, Kind, Result};
use crate::model::{NumaMode, NumaTune, cpu_list};
use crate::spawn::MemoryPolicy;
use std::collections::BTreeSet;
use std::fs;

/// Nodes that have memory (Linux, ABI/stable/sysfs-devices-node).
const WITH_MEMORY: &str = "/sys/devices/system/node/has_memory";

/// What the kernel is told.
pub(super) fn policy(tune: &NumaTune) -> MemoryPolicy {
    let nodes = tune.nodes.iter().copied();
    match tune.mode {
        NumaMode::Strict => MemoryPolicy::bind(nodes),
        NumaMode::Interleave => MemoryPolicy::interleave(nodes),
        NumaMode::Preferred => MemoryPolicy::preferred(nodes.min().unwrap_or(0)),
    }
}

/// Refuses nodes that this host has not, or that have no memory.
///
/// # Errors
/// The first of them, by number.
pub(super) fn check(tune: Option<&NumaTune>, place: &Place<'_>) -> Result<()> {
    let Some(tune) = tune else { return Ok(()) };
    let host = nodes(fs::read_to_string(WITH_MEMORY).ok().as_deref());
    match tune.nodes.difference(&host).next() {
        None => Ok(()),
        Some(node) => Err(Error::new(
            Kind::Host,
            "cannot take the guest's memory from the nodes of <numatune>",
        )
        .cause(place.line(tune.at, format!("this host has no memory in node {node}")))
        .hint(format!("nodes with memory: {}", format_list(&host)))),
    }
}

/// The nodes of such a list; a kernel without one has node 0.
fn nodes(list: Option<&str>) -> BTreeSet<u32> {
    list.and_then(|text| cpu_list(text.trim()))
        .unwrap_or_else(|| BTreeSet::from([0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_from_the_kernels_list() {
        assert_eq!(nodes(Some("0-1,4\n")), BTreeSet::from([0, 1, 4]));
        for nothing in [None, Some("\n")] {
            assert_eq!(nodes(nothing), BTreeSet::from([0]));
        }
    }
}
