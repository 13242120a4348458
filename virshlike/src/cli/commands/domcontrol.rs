//! `vm domcontrol`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::runtime::guest::ANSWER;
use serde_json::json;

/// Print whether the process of a running domain answers
#[derive(Debug, clap::Args)]
pub struct Domcontrol {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domcontrol {
    const NAME: &'static str = "domcontrol";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let guest = context.manager()?.running(&domain)?;
        let status = guest.status(ANSWER).map_err(|error| {
            // Whoever asks in a script reads the first line.
            Error::new(Kind::Guest, "the control interface does not answer")
                .cause(error.to_string())
        })?;
        let word = match status.job {
            Some(_) => "occupied",
            None => "ok",
        };
        if context.ui.is_json() {
            return context.ui.json(&json!({ "state": word }));
        }
        context.ui.line(word)
    }
}
