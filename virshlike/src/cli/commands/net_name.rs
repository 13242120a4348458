//! `vm net-name`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the name of a network that is given by its UUID
#[derive(Debug, clap::Args)]
pub struct NetName {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetName {
    const NAME: &'static str = "net-name";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        if context.ui.is_json() {
            return context.ui.json(&found.name);
        }
        context.ui.line(found.name)
    }
}
