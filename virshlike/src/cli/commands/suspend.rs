//! `vm suspend`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Hold the virtual CPUs of a running domain; memory and devices stay
#[derive(Debug, clap::Args)]
pub struct Suspend {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Suspend {
    const NAME: &'static str = "suspend";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context.manager()?.suspend(&domain).map_err(|error| {
            error.context(format!("Failed to suspend domain '{}'", domain.name))
        })?;
        context
            .ui
            .sentence(format!("Domain '{}' suspended", domain.name))
    }
}
