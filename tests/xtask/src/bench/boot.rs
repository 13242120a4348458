//! exec of the VMM to the first program of a stock Debian kernel, with PCI, ACPI and one disk.
//!
//! Two halves: `run` starts a lab host with this very program in it, `measure_here` is what it does
//! there. Time is taken inside the lab host, so that emulation slows everybody alike.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Common;
use super::peers::{self, Guest, Vmm};
use super::stats::{Samples, table};
use crate::lab::{self, Options, Place, Run};
use crate::project;

const CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=k nokaslr";
/// The line that the initial RAM disk prints first.
const AT_INIT: &[u8] = b"GUEST-INIT";

/// Runs the measurement in the lab, or here where the processor can do it.
pub fn run(common: &Common) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let script = project::target().join("bench-boot.sh");
    let name = program
        .file_name()
        .context("this program has no name")?
        .to_string_lossy();
    std::fs::write(
        &script,
        format!("exec \"$LAB_FILES/{name}\" boot-rounds \"$@\"\n"),
    )
    .context("cannot write the script")?;
    let mut arguments = vec!["--rounds".into(), common.rounds.min(5).to_string()];
    for peer in &common.peers {
        arguments.extend(["--peer".into(), peer.clone()]);
    }
    if common.no_qemu {
        arguments.push("--no-qemu".into());
    }
    let options = Options {
        yes: common.yes,
        place: Place::Auto,
        time_limit: 1800,
        cpus: 1,
        memory: 2048,
        no_build: false,
        with: common.with.iter().cloned().chain([program]).collect(),
    };
    lab::run_script(&Run {
        options,
        hosts: 1,
        nfs: false,
        systemd: false,
        script,
        arguments,
    })
}

/// The measurement itself.
pub fn measure_here(common: &Common) -> Result<ExitCode> {
    let path = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.with_context(|| format!("{name} is not set: run this in the lab"))
    };
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let disk = folder.path().join("disk.raw");
    let file = std::fs::File::create(&disk).context("cannot make a disk")?;
    file.set_len(64 << 20).context("cannot make a disk")?;
    let guest = Guest {
        vmm: path("VM_TEST_VMM")?,
        kernel: path("LAB_KERNEL")?,
        initrd: Some(path("LAB_INITRD")?),
        disk: Some(disk),
        cmdline: CMDLINE.into(),
        memory: 128,
        ..Guest::default()
    };
    let qemu = if common.no_qemu {
        Vec::new()
    } else {
        peers::microvms_with_disk()
    };
    let vmms = peers::all(common, qemu)?;
    let mut rows: Vec<_> = vmms
        .iter()
        .map(|vmm| (vmm.name(), Samples::default()))
        .collect();
    for _ in 0..common.rounds {
        for (vmm, row) in vmms.iter().zip(&mut rows) {
            let seconds = once(vmm, &guest).with_context(|| vmm.name())?;
            println!("{}: {seconds:.2} s", row.0);
            row.1.add(seconds);
        }
    }
    println!(
        "boot: {} rounds, stock kernel, {} MiB, one disk",
        common.rounds, guest.memory
    );
    table("exec to init", "s", &rows);
    Ok(ExitCode::SUCCESS)
}

fn once(vmm: &Vmm, guest: &Guest) -> Result<f64> {
    let mut started = Instant::now();
    let mut running = vmm.start(guest, || started = Instant::now())?;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let found = loop {
        if said.windows(AT_INIT.len()).any(|window| window == AT_INIT) {
            break true;
        }
        match running.serial.read(&mut buffer) {
            Ok(count @ 1..) => said.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            _ => break false,
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    drop(running.child.kill());
    running.child.wait().context("cannot wait")?;
    if !found {
        bail!(
            "the kernel did not come to init: {}",
            String::from_utf8_lossy(&said)
        );
    }
    Ok(seconds)
}
