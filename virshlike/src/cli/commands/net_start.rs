//! `vm net-start`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Start a network: its bridge, its firewall rules, its DHCP and DNS
///
/// Of an active network what somebody took away is put back: a bridge, rules, the server.
#[derive(Debug, clap::Args)]
pub struct NetStart {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetStart {
    const NAME: &'static str = "net-start";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let raised = networks
            .start(&found)
            .map_err(|error| error.context(format!("Failed to start network {}", found.name)))?;
        for warning in &raised.warnings {
            context.ui.warn(warning);
        }
        let word = match raised.repaired {
            true => "repaired",
            false => "started",
        };
        context
            .ui
            .sentence(format!("Network {} {word}", raised.name))
    }
}
