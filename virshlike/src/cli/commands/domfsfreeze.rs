//! `vm domfsfreeze` and `vm domfsthaw`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Hold a guest's writes to its file systems, by its agent, until 'vm domfsthaw'
#[derive(Debug, clap::Args)]
pub struct Domfsfreeze {
    /// The domain: name, id or UUID
    domain: String,
    /// Only the file systems that the guest has mounted here
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Vec<String>,
}

impl Verb for Domfsfreeze {
    const NAME: &'static str = "domfsfreeze";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let count = context
            .manager()?
            .freeze(&domain, &self.mountpoint)
            .map_err(|error| error.context("Unable to freeze filesystems"))?;
        context.ui.sentence(format!("Froze {count} filesystem(s)"))
    }
}

/// Let a guest write to its file systems again
#[derive(Debug, clap::Args)]
pub struct Domfsthaw {
    /// The domain: name, id or UUID
    domain: String,
    /// As virsh takes it: all are thawed anyway
    #[arg(value_name = "MOUNTPOINT", hide = true)]
    mountpoint: Vec<String>,
}

impl Verb for Domfsthaw {
    const NAME: &'static str = "domfsthaw";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        if !self.mountpoint.is_empty() {
            context
                .ui
                .warn("all file systems are thawed, not only those that are named");
        }
        let count = context
            .manager()?
            .thaw(&domain)
            .map_err(|error| error.context("Unable to thaw filesystems"))?;
        context.ui.sentence(format!("Thawed {count} filesystem(s)"))
    }
}
