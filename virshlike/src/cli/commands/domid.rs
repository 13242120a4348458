//! `vm domid`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print the id of a running domain, '-' for others
#[derive(Debug, clap::Args)]
pub struct Domid {
    /// The domain: name or UUID
    domain: String,
}

impl Verb for Domid {
    const NAME: &'static str = "domid";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let id = context
            .manager()?
            .guest(&domain)?
            .map(|guest| guest.record.id);
        if context.ui.is_json() {
            return context.ui.json(&id);
        }
        context.ui.line(id.map_or("-".into(), |id| id.to_string()))
    }
}
