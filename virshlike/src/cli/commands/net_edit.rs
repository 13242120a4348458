//! `vm net-edit`: as `vm edit` does it.

use super::edit::{Target, edit_loop};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Change a network's definition with $VISUAL or $EDITOR
///
/// An active network takes the change up when it is started the next time.
#[derive(Debug, clap::Args)]
pub struct NetEdit {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetEdit {
    const NAME: &'static str = "net-edit";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let networks = context.manager()?.networks();
        let found = networks.find(&self.network)?;
        let target = Target {
            kind: "network",
            shown: format!("Network {}", found.name),
            name: &found.name,
        };
        edit_loop(
            context,
            &target,
            &networks.text(&found)?,
            |old, new, file| {
                networks
                    .replace(&found, old, new, file)
                    .map(|defined| defined.warnings)
            },
        )
    }
}
