//! Every fuzz body by name, with inputs to begin with.
//!
//! A body is a plain function from bytes that panics when it finds something, and returns whether the bytes
//! got to the heart of what it is about. `tests/bounded.rs` runs each
//! for a bounded number of rounds on every CI run; the program `fuzz` is a seeded mutation loop for longer
//! runs on stable Rust; `fuzz_targets/` wraps the same bodies for cargo-fuzz, which follows coverage.
//!
//! Inputs: `seeds` of each target are made here, `corpus/TARGET/` holds more of them as files (each body
//! has some: `tests/kept.rs`), and `regressions/TARGET/` every input that once found something. All of them
//! are always run first.
#![deny(unsafe_code)]

pub mod mutate;
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

/// A body and what it begins with.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line and in folders.
    pub name: &'static str,
    /// Whose input it is.
    pub about: &'static str,
    /// The body; whether the input got to the heart of the matter.
    pub body: fn(&[u8]) -> bool,
    /// Inputs that reach something, the first of them the heart of the matter.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Rounds of a bounded run: some seconds in a debug build.
    pub rounds: u32,
}

/// All bodies.
pub const TARGETS: &[Target] = &[
    target(
        "chains",
        "virtio descriptor chains",
        devices::fuzz::chains,
        || seeds::scripts(devices::fuzz::seeds::chains()),
        2000,
    ),
    target(
        "transport",
        "virtio-pci registers, rings, MSI-X",
        devices::fuzz::transport,
        || seeds::scripts(devices::fuzz::seeds::transport()),
        400,
    ),
    target(
        "block-request",
        "disk requests",
        devices::fuzz::block_request,
        || seeds::scripts(devices::fuzz::seeds::block_request()),
        3000,
    ),
    target(
        "block",
        "a disk with its worker",
        devices::fuzz::block,
        || seeds::scripts(devices::fuzz::seeds::block()),
        150,
    ),
    target(
        "net",
        "a network card with its worker",
        devices::fuzz::net,
        || seeds::scripts(devices::fuzz::seeds::net()),
        150,
    ),
    target(
        "net-stream",
        "a network card's driver and its peer on a stream",
        devices::fuzz::net_stream,
        || seeds::scripts(devices::fuzz::seeds::net_stream()),
        150,
    ),
    target(
        "net-control",
        "a network card's control queue",
        devices::fuzz::net_control,
        || seeds::scripts(devices::fuzz::seeds::net_control()),
        3000,
    ),
    target(
        "rng",
        "an entropy source with its worker",
        devices::fuzz::rng,
        || seeds::scripts(devices::fuzz::seeds::rng()),
        150,
    ),
    target(
        "virtio-console",
        "a console device's driver and a client of its port",
        devices::fuzz::virtio_console,
        || seeds::scripts(devices::fuzz::seeds::virtio_console()),
        150,
    ),
    target(
        "gpu",
        "a graphics card with its worker",
        devices::fuzz::gpu,
        || seeds::scripts(devices::fuzz::seeds::gpu()),
        150,
    ),
    target(
        "input",
        "an input device, its worker and its user",
        devices::fuzz::input,
        || seeds::scripts(devices::fuzz::seeds::input()),
        150,
    ),
    target(
        "balloon",
        "a memory balloon with its worker",
        devices::fuzz::balloon,
        || seeds::scripts(devices::fuzz::seeds::balloon()),
        150,
    ),
    target(
        "pci",
        "configuration space, bridges, BARs",
        devices::fuzz::pci,
        || seeds::scripts(devices::fuzz::seeds::pci()),
        200,
    ),
    target(
        "ports",
        "legacy ports and interrupt controllers",
        devices::fuzz::ports,
        || seeds::scripts(devices::fuzz::seeds::ports()),
        200,
    ),
    target(
        "saved-state",
        "sections of saved state",
        devices::fuzz::saved_state,
        || seeds::scripts(devices::fuzz::seeds::saved_state()),
        200,
    ),
    target(
        "console",
        "the first line of a console connection",
        devices::fuzz::console,
        seeds::console,
        1000,
    ),
    target(
        "control",
        "frames of a control connection",
        vmm::fuzz::control,
        seeds::control,
        400,
    ),
    target("vnc", "a VNC client", vmm::fuzz::vnc, seeds::vnc, 400),
    target(
        "vnc-web",
        "a VNC client that is a web page",
        vmm::fuzz::vnc_web,
        seeds::vnc_web,
        400,
    ),
    target(
        "messages",
        "messages of the control protocol, end records",
        vmm_api::fuzz::messages,
        seeds::messages,
        2000,
    ),
    target(
        "spec",
        "machine specs",
        vmm_api::fuzz::spec,
        seeds::specs,
        2000,
    ),
    target(
        "snapshot",
        "files with saved state",
        vmm::fuzz::snapshot,
        seeds::snapshots,
        400,
    ),
    target(
        "domain-xml",
        "domain definitions",
        virshlike::fuzz::domain_xml,
        seeds::domains,
        200,
    ),
    target(
        "network-xml",
        "network definitions",
        virshlike::fuzz::network_xml_text,
        seeds::networks,
        300,
    ),
    target(
        "xpath",
        "expressions of dumpxml --xpath",
        virshlike::fuzz::xpath,
        seeds::expressions,
        1000,
    ),
    target(
        "qcow2-read",
        "qcow2 images, read",
        images::fuzz::open_and_read,
        seeds::images,
        100,
    ),
    target(
        "qcow2-write",
        "qcow2 images, written and checked",
        images::fuzz::open_write_check,
        seeds::scripted_images,
        50,
    ),
    target(
        "vmdk",
        "vmdk disks, read",
        images::fuzz::vmdk,
        seeds::vmdk,
        200,
    ),
    target(
        "nbd",
        "a client of an NBD server",
        images::fuzz::nbd_client,
        seeds::nbd,
        300,
    ),
    target(
        "qcow2-bitmaps",
        "directories and tables of persistent bitmaps",
        images::fuzz::bitmaps,
        seeds::bitmaps,
        100,
    ),
];

const fn target(
    name: &'static str,
    about: &'static str,
    body: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<Vec<u8>>,
    rounds: u32,
) -> Target {
    Target {
        name,
        about,
        body,
        seeds,
        rounds,
    }
}

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs the body of this name.
///
/// # Panics
/// When there is none, and when the body finds something.
pub fn run(name: &str, bytes: &[u8]) {
    match find(name) {
        Some(target) => {
            (target.body)(bytes);
        }
        None => panic!("no body is called {name}"),
    }
}

impl Target {
    /// Where inputs of a kind (`corpus`, `regressions`) are kept.
    pub fn folder(&self, kind: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(kind)
            .join(self.name)
    }

    /// Inputs in files, by name.
    pub fn kept(&self, kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.folder(kind)).into_iter().flatten();
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
            .into_iter()
            .filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes)))
            .collect()
    }

    /// Everything to begin with: kept findings, kept inputs, made ones.
    pub fn inputs(&self) -> Vec<Vec<u8>> {
        let kept = [self.kept("regressions"), self.kept("corpus")];
        let kept = kept.into_iter().flatten().map(|(_, bytes)| bytes);
        kept.chain((self.seeds)()).collect()
    }
}
