//! `vm net-uuid`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the UUID of a network
#[derive(Debug, clap::Args)]
pub struct NetUuid {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetUuid {
    const NAME: &'static str = "net-uuid";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        if context.ui.is_json() {
            return context.ui.json(&found.uuid);
        }
        context.ui.line(found.uuid)
    }
}
