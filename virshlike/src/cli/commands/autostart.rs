//! `vm autostart`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Start a domain with the host from now on, or no longer
#[derive(Debug, clap::Args)]
pub struct Autostart {
    /// The domain: name, id or UUID
    domain: String,
    /// No longer start it with the host
    #[arg(long)]
    disable: bool,
}

impl Verb for Autostart {
    const NAME: &'static str = "autostart";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let word = if self.disable { "unmark" } else { "mark" };
        context
            .manager()?
            .set_autostart(&domain, !self.disable)
            .map_err(|error| {
                error.context(format!(
                    "Failed to {word} domain '{}' as autostarted",
                    domain.name
                ))
            })?;
        context
            .ui
            .sentence(format!("Domain '{}' {word}ed as autostarted", domain.name))
    }
}
