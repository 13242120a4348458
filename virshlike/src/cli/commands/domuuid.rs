//! `vm domuuid`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the UUID of a domain
#[derive(Debug, clap::Args)]
pub struct Domuuid {
    /// The domain: name or id
    domain: String,
}

impl Verb for Domuuid {
    const NAME: &'static str = "domuuid";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        if context.ui.is_json() {
            return context.ui.json(&domain.uuid);
        }
        context.ui.line(domain.uuid)
    }
}
