//! `cargo xtask bench NAME`: we and a peer, turn by turn in one run, medians and their ratio.
//!
//! A number without its peer says little, since machines differ and are busy; the ratio of two
//! numbers from one run says more. Every VMM gets the same kernel and the same memory.
//!
//! | module | measures |
//! |---|---|
//! | `start` | exec to the first byte of the guest, and to the end of the process |
//! | `footprint` | memory of the process beside the guest's RAM |
//! | `blk` | transfers of a disk: per second, and what one costs |
//! | `net` | frames of a network card: per second, and what one costs |
//! | `image` | `vm image` beside QEMU's tools, verb by verb |
//! | `manager` | an administrator's commands, and how they grow with the number of domains |
//! | `boot` | exec to the first program of a stock kernel, inside the lab |
//! | `peers` | how the VMMs are started |
//! | `stats` | medians and the table |
//! | `talk` | a test guest that says when its work begins and ends |
//! | `usage` | what a program used |

mod blk;
mod boot;
mod footprint;
mod image;
mod manager;
mod net;
mod peers;
mod start;
mod stats;
mod talk;
mod usage;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

pub use boot::measure_here;

#[derive(clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    name: Name,
}

#[derive(Subcommand)]
enum Name {
    /// exec of the VMM to the first byte that the guest writes, and to the process being gone
    Start(Common),
    /// Private memory of the process without guest RAM, and the share of the tenth guest
    Footprint(Common),
    /// Transfers of a disk: 4 KiB random and 128 KiB sequential, one and 32 at a time, raw and qcow2
    Blk(blk::BlkArgs),
    /// Frames between a guest and a tap: 64 and 1500 bytes, out and in
    Net(net::NetArgs),
    /// Disk images: `vm image` beside qemu-img and qemu-nbd, verb by verb
    Image(image::ImageArgs),
    /// list, define, dominfo and dumpxml of a thousand domains, against virsh and libvirtd
    Manager(manager::ManagerArgs),
    /// In the lab: exec of the VMM to init of a stock Debian kernel with PCI, ACPI and one disk
    Boot(Common),
}

/// What every benchmark takes.
#[derive(clap::Args, Clone)]
pub struct Common {
    /// Rounds; each round measures everybody once
    #[arg(long, default_value_t = 21)]
    pub rounds: usize,
    /// One more VMM: NAME=COMMAND with {kernel}, {mem} (MiB), and for boot {initrd}, {disk} and
    /// {cmdline}; the guest's serial line has to be its standard output
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    pub peers: Vec<String>,
    /// Measure only us and the peers given, not QEMU
    #[arg(long)]
    pub no_qemu: bool,
    /// For boot: a peer's program to bring into the lab, found as /lab/run/files/NAME
    #[arg(long, value_name = "PATH")]
    pub with: Vec<std::path::PathBuf>,
    /// Install missing packages without asking
    #[arg(long)]
    pub yes: bool,
}

/// Runs a benchmark.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    match &args.name {
        Name::Start(common) => start::run(common)?,
        Name::Footprint(common) => footprint::run(common)?,
        Name::Blk(args) => blk::run(args)?,
        Name::Net(args) => net::run(args)?,
        Name::Image(args) => image::run(args)?,
        Name::Manager(args) => manager::run(args)?,
        Name::Boot(common) => return boot::run(common),
    }
    Ok(ExitCode::SUCCESS)
}
