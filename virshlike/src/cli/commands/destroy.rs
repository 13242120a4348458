//! `vm destroy`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// End a running domain at once, as pulling the plug does; its definition stays
///
/// Returns when the guest's process is gone and its images are free.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// The domain: name, id or UUID
    domain: String,
    /// Let the disks be flushed first; that is always done
    #[arg(long, hide = true)]
    graceful: bool,
}

impl Verb for Destroy {
    const NAME: &'static str = "destroy";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        context.manager()?.destroy(&domain).map_err(|error| {
            error.context(format!("Failed to destroy domain '{}'", domain.name))
        })?;
        context
            .ui
            .sentence(format!("Domain '{}' destroyed", domain.name))
    }
}
