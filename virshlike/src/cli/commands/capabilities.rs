//! `vm capabilities` and `vm domcapabilities`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::capabilities::Asked;

/// Print what this host has and which guests it runs, as XML
#[derive(Debug, clap::Args)]
pub struct Capabilities {}

/// Print what a domain can be made of here, as XML
#[derive(Debug, clap::Args)]
pub struct Domcapabilities {
    /// The type of domain: kvm
    #[arg(long)]
    virttype: Option<String>,
    /// A path; every domain runs the same program
    #[arg(long)]
    emulatorbin: Option<String>,
    /// The architecture: `x86_64`
    #[arg(long)]
    arch: Option<String>,
    /// The machine
    #[arg(long)]
    machine: Option<String>,
}

impl Verb for Capabilities {
    const NAME: &'static str = "capabilities";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        context.ui.data(&context.manager()?.capabilities())
    }
}

impl Verb for Domcapabilities {
    const NAME: &'static str = "domcapabilities";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let asked = Asked {
            virttype: self.virttype.as_deref(),
            emulator: self.emulatorbin.as_deref(),
            arch: self.arch.as_deref(),
            machine: self.machine.as_deref(),
        };
        context
            .ui
            .data(&context.manager()?.domain_capabilities(&asked)?)
    }
}
