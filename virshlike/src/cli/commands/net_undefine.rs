//! `vm net-undefine`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Remove a network's definition; an active one goes on until it is destroyed
#[derive(Debug, clap::Args)]
pub struct NetUndefine {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetUndefine {
    const NAME: &'static str = "net-undefine";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        networks
            .undefine(&found)
            .map_err(|error| error.context(format!("Failed to undefine network {}", found.name)))?;
        context
            .ui
            .sentence(format!("Network {} has been undefined", found.name))
    }
}
