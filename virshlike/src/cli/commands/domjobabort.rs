//! `vm domjobabort`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Stop the job that holds a running domain
#[derive(Debug, clap::Args)]
pub struct Domjobabort {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domjobabort {
    const NAME: &'static str = "domjobabort";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .abort_job(&domain)
            .map_err(|error| error.context(format!("Failed to abort the job of '{}'", domain.name)))
    }
}
