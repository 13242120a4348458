//! `vm net-autostart`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Start a network with the host from now on, or no longer
#[derive(Debug, clap::Args)]
pub struct NetAutostart {
    /// The network: name or UUID
    network: String,
    /// No longer start it with the host
    #[arg(long)]
    disable: bool,
}

impl Verb for NetAutostart {
    const NAME: &'static str = "net-autostart";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let word = if self.disable { "unmark" } else { "mark" };
        networks
            .set_autostart(&found, !self.disable)
            .map_err(|error| {
                error.context(format!(
                    "failed to {word} network {} as autostarted",
                    found.name
                ))
            })?;
        context
            .ui
            .sentence(format!("Network {} {word}ed as autostarted", found.name))
    }
}
