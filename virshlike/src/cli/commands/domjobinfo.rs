//! `vm domjobinfo`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::runtime::guest::ANSWER;
use serde_json::json;

/// Print what job holds a running domain
#[derive(Debug, clap::Args)]
pub struct Domjobinfo {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domjobinfo {
    const NAME: &'static str = "domjobinfo";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context.manager()?.running(&domain)?;
        let job = guest.status(ANSWER)?.job;
        if context.ui.is_json() {
            return context.ui.json(&json!({ "job": job }));
        }
        // virsh's words: None, or Unbounded for one whose end cannot be told.
        let kind = if job.is_some() { "Unbounded" } else { "None" };
        context.ui.line(format!("{:<17} {kind:<12}", "Job type:"))?;
        match job {
            Some(job) => context
                .ui
                .line(format!("{:<17} {}", "Operation:", job.as_str())),
            None => Ok(()),
        }
    }
}
