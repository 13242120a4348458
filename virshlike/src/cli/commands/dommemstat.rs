//! `vm dommemstat`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::usage::resident;
use crate::runtime::guest::ANSWER;
use serde_json::json;

/// Print the memory of a running domain in KiB: what its guest has, and what its process holds
#[derive(Debug, clap::Args)]
pub struct Dommemstat {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Dommemstat {
    const NAME: &'static str = "dommemstat";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context.manager()?.running(&domain)?;
        let actual = guest.status(ANSWER)?.memory / 1024;
        let rss = resident(&guest).map(|bytes| bytes / 1024);
        if context.ui.is_json() {
            return context.ui.json(&json!({ "actual": actual, "rss": rss }));
        }
        context.ui.line(format!("actual {actual}"))?;
        match rss {
            Some(rss) => context.ui.line(format!("rss {rss}")),
            None => Ok(()),
        }
    }
}
