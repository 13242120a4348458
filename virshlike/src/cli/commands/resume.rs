//! `vm resume`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Let a suspended domain run on; parked disk requests are tried again
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Resume {
    const NAME: &'static str = "resume";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context
            .manager()?
            .resume(&domain)
            .map_err(|error| error.context(format!("Failed to resume domain '{}'", domain.name)))?;
        context
            .ui
            .sentence(format!("Domain '{}' resumed", domain.name))
    }
}
