//! `vm cpu-baseline` and `vm hypervisor-cpu-baseline`

use super::cpu_compare::read_file;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::capabilities::Asked;
use crate::manager::described::{self, Shown};
use std::path::PathBuf;

/// Print the CPU that the hosts of a file have in common
#[derive(Debug, clap::Args)]
pub struct CpuBaseline {
    /// A file with several `<cpu>`, such as the capabilities of several hosts one after the other
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show the features of the model, too
    #[arg(long)]
    features: bool,
    /// Leave out what keeps a guest from moving
    #[arg(long)]
    migratable: bool,
}

/// Print the CPU that guests of this host and of those in a file can be shown
#[derive(Debug, clap::Args)]
pub struct HypervisorCpuBaseline {
    /// A file with several `<cpu>`, such as the domain capabilities of several hosts; this host alone
    /// without one
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The type of domain: kvm
    #[arg(long)]
    virttype: Option<String>,
    /// A path; every domain runs the same program
    #[arg(long)]
    emulator: Option<String>,
    /// The architecture: `x86_64`
    #[arg(long)]
    arch: Option<String>,
    /// The machine
    #[arg(long)]
    machine: Option<String>,
    /// The model to describe the result with: not built
    #[arg(long)]
    model: Option<String>,
    /// Show the features of the model, too
    #[arg(long)]
    features: bool,
    /// Leave out what keeps a guest from moving
    #[arg(long)]
    migratable: bool,
}

impl Verb for CpuBaseline {
    const NAME: &'static str = "cpu-baseline";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let shown = Shown {
            features: self.features,
            migratable: self.migratable,
            fallback: "allow",
        };
        let found = described::baseline(&read_file(&self.file)?, None, shown)?;
        context.ui.data(&found.to_text())
    }
}

impl Verb for HypervisorCpuBaseline {
    const NAME: &'static str = "hypervisor-cpu-baseline";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        Asked {
            virttype: self.virttype.as_deref(),
            emulator: self.emulator.as_deref(),
            arch: self.arch.as_deref(),
            machine: self.machine.as_deref(),
        }
        .check()?;
        if let Some(model) = &self.model {
            let message = format!("a baseline in terms of the model '{model}' is not built");
            return Err(Error::new(Kind::Unsupported, message)
                .hint("without --model the nearest model is chosen"));
        }
        let cpus = match &self.file {
            Some(file) => read_file(file)?,
            None => Vec::new(),
        };
        let host = context.manager()?.host_cpu()?;
        let shown = Shown {
            features: self.features,
            migratable: self.migratable,
            fallback: "forbid",
        };
        let found = described::baseline(&cpus, Some(&host), shown)?;
        context.ui.data(&found.to_text())
    }
}
