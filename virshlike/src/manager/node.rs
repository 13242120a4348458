//! The host's processors and memory, node by node, as the kernel tells of them in /proc and /sys: for
//! `capabilities`, `nodecpumap` and pins. A host without NUMA is one node with number 0. Must never
//! assume that a file is there.

use super::host;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// More numbers than any list of processors has.
const MOST: u32 = 65_536;

/// KiB of a page of x86-64.
const PAGE_KIB: u64 = 4;

/// Where the kernel's files are; another place in tests.
#[derive(Debug, Clone)]
pub struct Kernel {
    root: PathBuf,
}

impl Default for Kernel {
    fn default() -> Self {
        Self { root: "/".into() }
    }
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// Its memory.
    pub memory_kib: u64,
    /// Processors online in it.
    pub cpus: Vec<Cpu>,
    /// Distances to all nodes, itself included, in the order of their numbers (ACPI's SLIT).
    pub distances: Vec<u32>,
}

/// The free pages of a NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FreePages {
    /// Its number.
    pub cell: u32,
    /// Sizes of pages in KiB, ascending, and how many of that size are free. Those of the smallest size
    /// are all of the free memory that is not set aside for larger ones.
    pub pages: Vec<(u64, u64)>,
}

/// A processor that is online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// Its package.
    pub socket_id: u32,
    /// Its die in the package.
    pub die_id: u32,
    /// Its core in the die.
    pub core_id: u32,
    /// Processors of the same core, as a list such as `0,4`.
    pub siblings: String,
}

/// Which processors there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuMap {
    /// How many there are.
    pub present: usize,
    /// How many are online.
    pub online: usize,
    /// The online ones, as a list such as `0-3,6`.
    pub map: String,
}

impl Kernel {
    fn read(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u32> {
        self.read(path).trim().parse().ok()
    }

    /// The NUMA nodes in the order of their numbers; one with everything where the kernel has none.
    pub fn cells(&self) -> Vec<Cell> {
        let numbers = parse_list(&self.read("sys/devices/system/node/online"));
        let cells: Vec<Cell> = numbers.iter().map(|id| self.cell(*id)).collect();
        if !cells.is_empty() {
            return cells;
        }
        vec![Cell {
            id: 0,
            memory_kib: memory_total(&self.read("proc/meminfo")),
            cpus: self.online().iter().map(|id| self.cpu(*id)).collect(),
            distances: vec![10],
        }]
    }

    /// The free pages of each node.
    pub fn free_pages(&self) -> Vec<FreePages> {
        let nodes = parse_list(&self.read("sys/devices/system/node/online"));
        if nodes.is_empty() {
            return vec![self.free_pages_in(0, "proc/meminfo", "sys/kernel/mm/hugepages")];
        }
        let node = |id: u32| {
            let folder = format!("sys/devices/system/node/node{id}");
            self.free_pages_in(
                id,
                &format!("{folder}/meminfo"),
                &format!("{folder}/hugepages"),
            )
        };
        nodes.into_iter().map(node).collect()
    }

    fn free_pages_in(&self, cell: u32, memory: &str, huge: &str) -> FreePages {
        let text = self.read(memory);
        let free = text.lines().find_map(|line| {
            let (_, rest) = line.split_once("MemFree:")?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        });
        let mut pages = vec![(PAGE_KIB, free.unwrap_or(0) / PAGE_KIB)];
        let sizes = fs::read_dir(self.root.join(huge)).into_iter().flatten();
        for entry in sizes.flatten() {
            let name = entry.file_name();
            let size = name.to_str().and_then(|name| {
                let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
                size.parse::<u64>().ok()
            });
            let count = self.read(entry.path().join("free_hugepages"));
            pages.extend(size.zip(count.trim().parse().ok()));
        }
        pages.sort_unstable();
        FreePages { cell, pages }
    }

    fn cell(&self, id: u32) -> Cell {
        let base = PathBuf::from(format!("sys/devices/system/node/node{id}"));
        let online = self.online();
        let cpus = parse_list(&self.read(base.join("cpulist")));
        let distances = self.read(base.join("distance"));
        Cell {
            id,
            memory_kib: memory_total(&self.read(base.join("meminfo"))),
            cpus: cpus
                .intersection(&online)
                .map(|cpu| self.cpu(*cpu))
                .collect(),
            distances: distances
                .split_whitespace()
                .filter_map(|distance| distance.parse().ok())
                .collect(),
        }
    }

    fn cpu(&self, id: u32) -> Cpu {
        let base = PathBuf::from(format!("sys/devices/system/cpu/cpu{id}/topology"));
        let number = |name: &str| self.number(base.join(name)).unwrap_or(0);
        let siblings = self.read(base.join("thread_siblings_list"));
        Cpu {
            id,
            socket_id: number("physical_package_id"),
            die_id: number("die_id"),
            core_id: number("core_id"),
            siblings: match siblings.trim() {
                "" => id.to_string(),
                list => list.to_string(),
            },
        }
    }

    fn online(&self) -> BTreeSet<u32> {
        let online = parse_list(&self.read("sys/devices/system/cpu/online"));
        if !online.is_empty() {
            return online;
        }
        let stat = self.read("proc/stat");
        let numbers = stat.lines().filter_map(|line| {
            let (number, _) = line.strip_prefix("cpu")?.split_once(' ')?;
            number.parse().ok()
        });
        numbers.collect()
    }

    /// Processors that there are, and those that are online.
    pub fn cpu_map(&self) -> CpuMap {
        let online = self.online();
        let present = parse_list(&self.read("sys/devices/system/cpu/present"));
        CpuMap {
            present: present.len().max(online.len()),
            online: online.len(),
            map: format_list(&online),
        }
    }
}

/// A node's meminfo has its own words before each field: `Node 0 MemTotal: 1 kB`.
fn memory_total(text: &str) -> u64 {
    let value = text.lines().find_map(|line| {
        let (label, value) = line.split_once(':')?;
        label.ends_with("MemTotal").then_some(value)
    });
    value
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The members of a kernel's list such as `0-3,6`.
pub fn parse_list(text: &str) -> BTreeSet<u32> {
    let mut members = BTreeSet::new();
    for part in text.trim().split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (Ok(low), Ok(high)) = (low.trim().parse::<u32>(), high.trim().parse::<u32>()) else {
            continue;
        };
        members.extend(low..=high.min(MOST));
    }
    members
}

/// The shortest list of these numbers.
pub fn format_list(members: &BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for member in members {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*member) => *last = *member,
            _ => runs.push((*member, *member)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    runs.join(",")
}

/// Huge pages of the host's default size in KiB, 0 when there are none.
pub fn huge_page_kib() -> u64 {
    host::memory().huge_size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(files: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        let kernel = Kernel {
            root: dir.path().to_path_buf(),
        };
        (dir, kernel)
    }

    const STAT: &str = "cpu  10 1 20 300 4 5 6 0 0 0\ncpu0 1 0 2 30 0 0 0 0 0 0\ncpu2 9 1 18 270 4 5 6 0\nintr 5\n";

    #[test]
    fn lists_are_read_and_written() {
        let members = parse_list("0-3,6,8-9\n");
        assert_eq!(members.len(), 7);
        assert_eq!(format_list(&members), "0-3,6,8-9");
        assert!(parse_list("\n").is_empty());
        assert_eq!(format_list(&BTreeSet::new()), "");
        assert!(parse_list("0-4294967295").len() <= 65_537);
    }

    #[test]
    fn two_nodes_keep_their_own() {
        let (_dir, kernel) = kernel(&[
            ("sys/devices/system/node/online", "0-1\n"),
            (
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal:  100 kB\nNode 0 MemFree:  40 kB\n",
            ),
            ("sys/devices/system/node/node0/cpulist", "0-1\n"),
            ("sys/devices/system/node/node0/distance", "10 20\n"),
            (
                "sys/devices/system/node/node1/meminfo",
                "Node 1 MemTotal:  200 kB\nNode 1 MemFree:  50 kB\n",
            ),
            ("sys/devices/system/node/node1/cpulist", "2-3\n"),
            ("sys/devices/system/cpu/online", "0,2-3\n"),
            ("sys/devices/system/cpu/present", "0-3\n"),
            (
                "sys/devices/system/cpu/cpu2/topology/physical_package_id",
                "1\n",
            ),
            (
                "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
                "2-3\n",
            ),
        ]);
        let cells = kernel.cells();
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[0].memory_kib, 100);
        assert_eq!(cells[0].distances, [10, 20]);
        assert_eq!(cells[0].cpus.len(), 1, "the offline one is not there");
        assert_eq!(cells[1].cpus[0].socket_id, 1);
        assert_eq!(cells[1].cpus[0].siblings, "2-3");
        let map = kernel.cpu_map();
        assert_eq!((map.present, map.online, map.map.as_str()), (4, 3, "0,2-3"));
    }

    #[test]
    fn free_pages_of_each_size_are_counted_node_by_node() {
        let node = "sys/devices/system/node/node1";
        let (_dir, two) = kernel(&[
            ("sys/devices/system/node/online", "0-1\n"),
            (
                &format!("{node}/meminfo"),
                "Node 1 MemTotal: 900 kB\nNode 1 MemFree:  400 kB\n",
            ),
            (
                &format!("{node}/hugepages/hugepages-2048kB/free_hugepages"),
                "7\n",
            ),
            (
                &format!("{node}/hugepages/hugepages-1048576kB/free_hugepages"),
                "0\n",
            ),
            (&format!("{node}/hugepages/other"), "9\n"),
        ]);
        let page = PAGE_KIB;
        let found = two.free_pages();
        assert_eq!(found[0].pages, [(page, 0)]);
        assert_eq!(
            found[1].pages,
            [(page, 400 / page), (2048, 7), (1_048_576, 0)]
        );
        let (_dir, one) = kernel(&[("proc/meminfo", "MemFree: 40 kB\n")]);
        assert_eq!(one.free_pages()[0].pages, [(page, 40 / page)]);
    }

    #[test]
    fn a_host_without_nodes_is_one() {
        let (_dir, kernel) = kernel(&[
            ("proc/stat", STAT),
            (
                "proc/meminfo",
                "MemTotal: 9 kB\nMemFree: 3 kB\nBuffers: 1 kB\nCached: 2 kB\n",
            ),
        ]);
        let cells = kernel.cells();
        assert_eq!(
            (cells.len(), cells[0].memory_kib, cells[0].cpus.len()),
            (1, 9, 2)
        );
    }
}
