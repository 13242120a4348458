//! `vm domstate`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print what a domain is doing
#[derive(Debug, clap::Args)]
pub struct Domstate {
    /// The domain: name, id or UUID
    domain: String,
    /// Also print why
    #[arg(long)]
    reason: bool,
}

impl Verb for Domstate {
    const NAME: &'static str = "domstate";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let condition = context.manager()?.condition(&domain)?;
        if context.ui.is_json() {
            return context.ui.json(&condition);
        }
        let state = condition.state.as_str();
        if !self.reason {
            return context.ui.line(state);
        }
        context.ui.line(format!("{state} ({})", condition.reason))?;
        if !condition.detail.is_empty() {
            context.ui.hint(&condition.detail);
        }
        Ok(())
    }
}
