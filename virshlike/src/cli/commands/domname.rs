//! `vm domname`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the name of a domain
#[derive(Debug, clap::Args)]
pub struct Domname {
    /// The domain: id or UUID
    domain: String,
}

impl Verb for Domname {
    const NAME: &'static str = "domname";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        if context.ui.is_json() {
            return context.ui.json(&domain.name);
        }
        context.ui.line(domain.name)
    }
}
