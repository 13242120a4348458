//! `vm shutdown-all`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::fleet::Ended;
use serde::Serialize;
use std::time::Duration;

/// Power down every running domain, all at once; what the host's shutdown runs
///
/// Guests that still run when the time is over are destroyed. Exit 1 when that was needed, or when
/// one could not be ended.
#[derive(Debug, clap::Args)]
pub struct ShutdownAll {
    /// How long guests have to power themselves off
    #[arg(
        long,
        value_name = "SECONDS",
        env = "VM_SHUTDOWN_TIMEOUT",
        hide_env_values = true,
        default_value_t = 120
    )]
    timeout: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    domain: String,
    outcome: &'static str,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

impl Verb for ShutdownAll {
    const NAME: &'static str = "shutdown-all";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let mut lines = Vec::new();
        let mut unwilling = 0;
        let names: Vec<_> = manager.guests()?;
        for guest in &names {
            let name = &guest.record.name;
            context
                .ui
                .sentence(format!("Domain '{name}' is being shutdown"))?;
        }
        manager.shutdown_all(Duration::from_secs(self.timeout), |farewell| {
            let (name, seconds) = (&farewell.name, farewell.took.as_secs_f64());
            let (outcome, error) = match &farewell.how {
                Ended::ByItself => {
                    let text = format!("Domain '{name}' is shut off ({seconds:.1} s)");
                    context.ui.sentence(text)?;
                    ("shut off", None)
                }
                Ended::Destroyed => {
                    unwilling += 1;
                    context.ui.warn(format!(
                        "domain '{name}' did not power down within {} s and was destroyed",
                        self.timeout
                    ));
                    ("destroyed", None)
                }
                Ended::Failed(error) => {
                    unwilling += 1;
                    let error = error
                        .clone()
                        .context(format!("Failed to end domain '{name}'"));
                    if !context.ui.is_json() {
                        context.ui.error(&error);
                    }
                    ("failed", Some(error))
                }
            };
            lines.push(Line {
                domain: name.clone(),
                outcome,
                seconds,
                error,
            });
            Ok(())
        })?;
        if context.ui.is_json() {
            context.ui.json(&lines)?;
        } else if lines.is_empty() {
            context.ui.sentence("No domain is running")?;
        }
        if unwilling == 0 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Guest,
            format!("{unwilling} of {} domains did not power down", lines.len()),
        ))
    }
}
