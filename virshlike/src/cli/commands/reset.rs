//! `vm reset`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Reset a running domain at once, as the reset button does
#[derive(Debug, clap::Args)]
pub struct Reset {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Reset {
    const NAME: &'static str = "reset";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .reset(&domain)
            .map_err(|error| error.context(format!("Failed to reset domain '{}'", domain.name)))?;
        context
            .ui
            .sentence(format!("Domain '{}' was reset", domain.name))
    }
}
