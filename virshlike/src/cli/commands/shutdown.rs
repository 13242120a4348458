//! `vm shutdown`

use crate::cli::mode::{Mode, first_that_works};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::agent::Farewell;
use std::time::Duration;

/// Ask a domain to shut down, by pressing its power button or over its guest agent
///
/// Returns when it was asked: the guest decides. With --wait it returns when the domain is off.
#[derive(Debug, clap::Args)]
pub struct Shutdown {
    /// The domain: name, id or UUID
    domain: String,
    /// Wait until it is off, at most so many seconds; exit 1 if it is not
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// How it is asked: acpi, agent, or both in the order that they are tried in
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
        let guest = first_that_works(&self.mode, |mode| match mode {
            Mode::Acpi => manager.shutdown(&domain),
            Mode::Agent => manager.ask_agent(&domain, Farewell::Powerdown),
        })
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
