//! `vm reboot`

use crate::cli::mode::{Mode, first_that_works};
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::agent::Farewell;
use std::time::Duration;

/// Reboot a domain by its power button, and start its machine again when it is off; or over its guest agent
///
/// Returns at once: the guest decides. With --wait it returns when the machine starts again. The domain keeps its
/// id, its process and its devices.
#[derive(Debug, clap::Args)]
pub struct Reboot {
    /// The domain: name, id or UUID
    domain: String,
    /// By acpi: wait until it starts again, at most so many seconds; exit 1 if it has not
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

impl Verb for Reboot {
    const NAME: &'static str = "reboot";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        first_that_works(&self.mode, |mode| match mode {
            Mode::Acpi => manager.reboot(&domain, self.wait.map(Duration::from_secs)),
            Mode::Agent => manager.ask_agent(&domain, Farewell::Reboot).map(|_| ()),
        })
        .map_err(|error| error.context(format!("Failed to reboot domain '{}'", domain.name)))?;
        context
            .ui
            .sentence(format!("Domain '{}' is being rebooted", domain.name))
    }
}
