//! Initial RAM disks: a static busybox, some kernel modules in the order in which they load, and an
//! init script. Written in the kernel's "newc" archive format (Documentation/driver-api/early-userspace).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const HOST_INIT: &str = include_str!("host-initrd.sh");
const GUEST_INIT: &str = include_str!("guest-initrd.sh");

/// What the lab host needs to reach its root disk and its terminal.
const HOST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console"];
/// What a guest may find in any machine that we build.
const GUEST_MODULES: &[&str] = &[
    // Where the root's file system is not built in: what its checksums need is in no list.
    "crc32c_generic",
    "crc32c-intel",
    "ext4",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_balloon",
    "virtio_console",
    "virtio-rng",
    "virtio_mem",
    "autofs4",
    // The ACPI power button, and the input events by which logind hears of it.
    "button",
    "evdev",
    "pvpanic-mmio",
];

/// What a guest needs for its screen and what is typed and pointed with. The cloud kernels have no graphics.
const SCREEN_MODULES: &[&str] = &["virtio-gpu", "virtio_input"];

/// Which modules an initial RAM disk has, by the file that says their order.
type Wanted = &'static [(&'static str, &'static [&'static str])];
const HOST: Wanted = &[("order", HOST_MODULES)];
/// The init script loads those of the screen where a machine has one: the others save the time.
const GUEST: Wanted = &[("order", GUEST_MODULES), ("order-screen", SCREEN_MODULES)];

/// How the modules of newer kernels are packed.
const PACKED: &str = ".xz";

/// Everything that decides what the RAM disks hold.
pub fn ingredients() -> impl std::hash::Hash {
    (HOST_INIT, GUEST_INIT, HOST, GUEST)
}

/// Writes `host.cpio` and `guest.cpio` to `folder`, for the kernel of the lab host's root.
pub fn build(root: &Path, folder: &Path) -> Result<()> {
    let modules = Modules::read(root)?;
    write(root, &modules, (HOST_INIT, HOST), &folder.join("host.cpio"))?;
    write(
        root,
        &modules,
        (GUEST_INIT, GUEST),
        &folder.join("guest.cpio"),
    )
}

/// Writes a guest's RAM disk for the kernel whose modules are in `tree`, with programs of `root`.
pub fn build_guest(root: &Path, tree: &Path, target: &Path) -> Result<()> {
    write(root, &Modules::read(tree)?, (GUEST_INIT, GUEST), target)
}

fn write(
    root: &Path,
    modules: &Modules,
    (init, wanted): (&str, Wanted),
    target: &Path,
) -> Result<()> {
    let places = ["usr/bin/busybox", "bin/busybox"].map(|place| root.join(place));
    let busybox = places
        .iter()
        .find(|place| place.is_file())
        .context("the lab host has no busybox")?;
    let mut archive = Archive::default();
    for folder in ["bin", "modules", "proc", "sys", "dev", "tmp", "root"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", &read(busybox)?);
    let mut packed = BTreeSet::new();
    for (name, wanted) in wanted {
        let mut order = String::new();
        for path in modules.load_order(wanted) {
            let file = path.rsplit('/').next().unwrap_or(&path);
            let short = file.trim_end_matches(PACKED);
            // What an earlier list has is loaded by then.
            if packed.insert(short.to_string()) {
                let content = modules.module(&path, busybox)?;
                archive.file(&format!("modules/{short}"), &content);
                order.push_str(short);
                order.push('\n');
            }
        }
        archive.file(&format!("modules/{name}"), order.as_bytes());
    }
    archive.file("init", init.as_bytes());
    fs::write(target, archive.finish())
        .with_context(|| format!("cannot write {}", target.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The modules of the only kernel in a root folder, with what each of them needs.
struct Modules {
    folder: std::path::PathBuf,
    needs: BTreeMap<String, Vec<String>>,
}

impl Modules {
    fn read(root: &Path) -> Result<Self> {
        let all = root.join("usr/lib/modules");
        let mut versions = fs::read_dir(&all).context("the lab host has no kernel modules")?;
        let folder = versions
            .next()
            .context("the lab host has no kernel modules")??
            .path();
        let text = read(&folder.join("modules.dep"))?;
        Ok(Self {
            needs: dependencies(&String::from_utf8_lossy(&text)),
            folder,
        })
    }

    /// A module as the kernel loads it.
    fn module(&self, path: &str, busybox: &Path) -> Result<Vec<u8>> {
        let file = self.folder.join(path);
        if !path.ends_with(PACKED) {
            return read(&file);
        }
        let output = Command::new(busybox).arg("xzcat").arg(&file).output();
        let output = output.context("cannot run the lab host's busybox")?;
        if !output.status.success() {
            bail!("cannot unpack {}", file.display());
        }
        Ok(output.stdout)
    }

    /// Paths of the wanted modules, each after everything that it needs. Modules that this kernel
    /// has built in, or does not have, are left out.
    fn load_order(&self, wanted: &[&str]) -> Vec<String> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            let Some((path, needs)) = self.needs.iter().find(|(path, _)| is_module(path, name))
            else {
                continue;
            };
            // The file names the nearest last.
            for path in needs.iter().rev().chain([path]) {
                if seen.insert(path.clone()) {
                    order.push(path.clone());
                }
            }
        }
        order
    }
}

fn is_module(path: &str, name: &str) -> bool {
    path.rsplit('/')
        .next()
        .and_then(|file| file.trim_end_matches(PACKED).strip_suffix(".ko"))
        == Some(name)
}

/// Parses `modules.dep`: `module: needed needed ...`, one per line.
fn dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            (
                path.into(),
                needs.split_whitespace().map(Into::into).collect(),
            )
        })
        .collect()
}

/// An archive that grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, uid, gid, links, time, size, device (2), device node (2), name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let text = "kernel/a/virtio_net.ko: kernel/b/net_failover.ko kernel/c/failover.ko\n\
                    kernel/b/net_failover.ko: kernel/c/failover.ko\nkernel/c/failover.ko:\n";
        let modules = Modules {
            folder: "/".into(),
            needs: dependencies(text),
        };
        let order = modules.load_order(&["virtio_net", "not_there", "failover"]);
        let expected = [
            "kernel/c/failover.ko",
            "kernel/b/net_failover.ko",
            "kernel/a/virtio_net.ko",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn packed_modules_are_found_by_their_names() {
        assert!(is_module("kernel/a/virtio_net.ko.xz", "virtio_net"));
        assert!(is_module("kernel/a/virtio_net.ko", "virtio_net"));
        assert!(!is_module("kernel/a/virtio_net.xz", "virtio_net"));
    }

    #[test]
    fn every_part_of_an_archive_is_aligned() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.file("bin/x", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, six)| *six == b"070701");
        assert_eq!(starts.map(|(at, _)| at % 4).collect::<Vec<_>>(), [0, 0, 0]);
    }
}
