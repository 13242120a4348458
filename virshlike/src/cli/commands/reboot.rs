//! `vm reboot`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::time::Duration;

/// Reboot a domain: press its power button, and start its machine again when it is off
///
/// Returns at once: the guest decides. With --wait it returns when the machine starts again. The domain keeps its
/// id, its process and its devices.
#[derive(Debug, clap::Args)]
pub struct Reboot {
    /// The domain: name, id or UUID
    domain: String,
    /// Wait until it starts again, at most so many seconds; exit 1 if it has not
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

impl Verb for Reboot {
    const NAME: &'static str = "reboot";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .reboot(&domain, self.wait.map(Duration::from_secs))
            .map_err(|error| error.context(format!("Failed to reboot domain '{}'", domain.name)))?;
        context
            .ui
            .sentence(format!("Domain '{}' is being rebooted", domain.name))
    }
}
