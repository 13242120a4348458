//! `vm undefine`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Remove the definition of a domain; images and logs stay
///
/// A running domain goes on running and is gone when it ends.
#[derive(Debug, clap::Args)]
pub struct Undefine {
    /// The domain: name, id or UUID
    domain: String,
    /// Also a managed save; a domain has none here yet
    #[arg(long, hide = true)]
    managed_save: bool,
    /// Also what is known of snapshots; a domain has none here yet
    #[arg(long, hide = true)]
    snapshots_metadata: bool,
    /// Also firmware variables; a domain has none here yet
    #[arg(long, hide = true)]
    nvram: bool,
}

impl Verb for Undefine {
    const NAME: &'static str = "undefine";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context.manager()?.undefine(&domain).map_err(|error| {
            error.context(format!("Failed to undefine domain '{}'", domain.name))
        })?;
        context
            .ui
            .sentence(format!("Domain '{}' has been undefined", domain.name))
    }
}
