//! `vm reboot`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use std::time::Duration;

/// Press a domain's power button and start it again when it is off
///
/// Returns when the guest runs again. It keeps its definition and gets a new id.
#[derive(Debug, clap::Args)]
pub struct Reboot {
    /// The domain: name, id or UUID
    domain: String,
    /// Seconds that the guest gets to shut down
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,
}

impl Verb for Reboot {
    const NAME: &'static str = "reboot";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .reboot(&domain, Duration::from_secs(self.wait))
            .map_err(|error| error.context(format!("Failed to reboot domain '{}'", domain.name)))?;
        context
            .ui
            .sentence(format!("Domain '{}' is being rebooted", domain.name))
    }
}
