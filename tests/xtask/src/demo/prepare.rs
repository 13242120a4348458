//! What the demonstration needs before the first `vm` command: a look at the machine, a disk, a
//! definition.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::lab::{self, Lab, Place};

/// Where things are on the machine that the guest will run on.
pub struct Places {
    kernel: PathBuf,
    initrd: PathBuf,
    disk: PathBuf,
}

impl Places {
    pub fn native(lab: &Lab, folder: &Path) -> Self {
        Self {
            kernel: lab.file("kernel"),
            initrd: lab.file("guest.cpio"),
            disk: folder.join("debian.qcow2"),
        }
    }

    pub fn lab() -> Self {
        Self {
            kernel: "/lab/shared/kernel".into(),
            initrd: "/lab/shared/guest.cpio".into(),
            disk: "/demo/debian.qcow2".into(),
        }
    }
}

/// Says what this machine is, and whether the guest runs on it or in the lab.
pub fn report_host(place: Place) -> Result<bool> {
    let kvm = tests::have_kvm();
    let hardware = lab::hardware_virtualisation();
    println!("This machine:");
    println!(
        "  /dev/kvm     {}",
        if kvm {
            "can be opened"
        } else {
            "cannot be opened"
        }
    );
    match hardware {
        Some(name) => println!("  processor    {name}: runs guest kernels itself"),
        None => println!("  processor    no VT-x or AMD-V: a stock kernel would crawl, or not run"),
    }
    let native = match place {
        Place::Native => true,
        Place::Lab => false,
        Place::Auto => kvm && hardware.is_some(),
    };
    if native && !kvm {
        bail!(
            "/dev/kvm cannot be opened: load kvm_intel or kvm_amd, join group kvm, or --place lab"
        );
    }
    if native {
        println!("So the guest runs here.");
    } else {
        println!("So the guest runs in a lab host: a Debian with AMD-V that QEMU emulates.");
    }
    Ok(native)
}

/// A fresh copy of the small Debian disk.
pub fn disk(lab: &Lab, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let disk = folder.join("debian.qcow2");
    println!("Copying a small Debian disk to {}", disk.display());
    fs::copy(lab.file("guest.qcow2"), &disk).context("cannot copy the disk")?;
    Ok(())
}

/// Writes the definition where the person can look at it.
pub fn definition(folder: &Path, places: &Places) -> Result<()> {
    let path = folder.join("debian.xml");
    let text = include_str!("debian.xml")
        .replace("@KERNEL@", &escaped(&places.kernel))
        .replace("@INITRD@", &escaped(&places.initrd))
        .replace("@DISK@", &escaped(&places.disk));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("The definition, for you to look at: {}", path.display());
    Ok(())
}

fn escaped(path: &Path) -> String {
    path.display()
        .to_string()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
}
