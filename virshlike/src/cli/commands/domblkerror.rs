//! `vm domblkerror`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::runtime::guest::ANSWER;
use serde_json::json;
use vmm_api::state::{PauseReason, RunState};

/// Print whether a disk holds a running domain because it could not be read or written
///
/// Which disk and why stands in the domain's log: vm logs NAME.
#[derive(Debug, clap::Args)]
pub struct Domblkerror {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domblkerror {
    const NAME: &'static str = "domblkerror";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context.manager()?.running(&domain)?;
        let run = guest.status(ANSWER)?.run;
        let held =
            matches!(&run, RunState::Paused { reasons } if reasons.contains(&PauseReason::IoError));
        if context.ui.is_json() {
            return context.ui.json(&json!({ "held": held }));
        }
        if !held {
            return context.ui.sentence("No errors found");
        }
        context.ui.line("a disk could not be read or written")?;
        context.ui.hint(format!(
            "which one: vm logs {0}; when it is well again: vm resume {0}",
            domain.name
        ));
        Ok(())
    }
}
