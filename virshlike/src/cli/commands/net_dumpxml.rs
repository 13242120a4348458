//! `vm net-dumpxml`

use crate::cli::xpath::Part;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print a network's definition: the active one's, else the one on disk
#[derive(Debug, clap::Args)]
pub struct NetDumpxml {
    /// The network: name or UUID
    network: String,
    /// The definition on disk, which the next start uses
    #[arg(long)]
    inactive: bool,
    #[command(flatten)]
    part: Part,
}

impl Verb for NetDumpxml {
    const NAME: &'static str = "net-dumpxml";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let text = networks.dump(&found, self.inactive)?;
        self.part.print(context, &text)
    }
}
