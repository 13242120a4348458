//! `vm shutdown`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use std::time::Duration;

/// Ask a domain to shut down, by pressing its power button
///
/// Returns at once: the guest decides. With --wait it returns when the domain is off.
#[derive(Debug, clap::Args)]
pub struct Shutdown {
    /// The domain: name, id or UUID
    domain: String,
    /// Wait until it is off, at most so many seconds; exit 1 if it is not
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// How it is asked: acpi
    #[arg(
        long,
        value_name = "MODE",
        default_value = "acpi",
        hide_default_value = true
    )]
    mode: String,
}

impl Verb for Shutdown {
    const NAME: &'static str = "shutdown";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        let failed = || format!("Failed to shutdown domain '{}'", domain.name);
        if !self.mode.split(',').any(|mode| mode == "acpi") {
            return Err(Error::new(
                Kind::Unsupported,
                format!("shutdown by '{}' is not built yet", self.mode),
            )
            .hint("use --mode acpi")
            .context(failed()));
        }
        let guest = manager
            .shutdown(&domain)
            .map_err(|error| error.context(failed()))?;
        context
            .ui
            .sentence(format!("Domain '{}' is being shutdown", domain.name))?;
        match self.wait {
            Some(seconds) => manager.wait_off(&domain, &guest, Duration::from_secs(seconds)),
            None => Ok(()),
        }
    }
}
