//! `vm net-destroy`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// End an active network; its definition stays
///
/// Guests that are plugged in stay up without it, and are plugged in again when it is started.
#[derive(Debug, clap::Args)]
pub struct NetDestroy {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetDestroy {
    const NAME: &'static str = "net-destroy";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let guests = networks
            .destroy(&found)
            .map_err(|error| error.context(format!("Failed to destroy network {}", found.name)))?;
        if !guests.is_empty() {
            let names = guests.join("', '");
            context.ui.warn(format!(
                "domains were plugged into it and have no network now: '{names}'"
            ));
        }
        context
            .ui
            .sentence(format!("Network {} destroyed", found.name))
    }
}
