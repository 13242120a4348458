//! `vm ttyconsole`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

/// Print the pty of a running domain's console
#[derive(Debug, clap::Args)]
pub struct Ttyconsole {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Ttyconsole {
    const NAME: &'static str = "ttyconsole";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context
            .manager()?
            .guest(&domain)?
            .ok_or_else(|| Error::new(Kind::State, "The domain is not running"))?;
        let pty = guest.record.pty.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("domain '{}' has no console", domain.name),
            )
            .hint("add <serial type='pty'/> to its <devices>: vm edit")
        })?;
        if context.ui.is_json() {
            return context.ui.json(&pty);
        }
        context.ui.line(pty)
    }
}
