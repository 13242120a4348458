//! `vm autostart-all`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::fleet::Raised;
use serde::Serialize;
use std::time::Duration;

/// Start every domain that is marked as autostarted and does not run; what the host's boot runs
///
/// They start one after the other: those with an order in their definition first, the others by
/// name. Exit 1 when one could not be started; the others are started all the same.
#[derive(Debug, clap::Args)]
pub struct AutostartAll {
    /// Seconds to wait after each start; a delay in a definition goes before it
    #[arg(
        long,
        value_name = "SECONDS",
        env = "VM_START_DELAY",
        hide_env_values = true,
        default_value_t = 0
    )]
    delay: u64,
    /// Only print which would be started, in their order
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    domain: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

impl Verb for AutostartAll {
    const NAME: &'static str = "autostart-all";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        if self.dry_run {
            let names = manager.autostarted()?;
            let names: Vec<_> = names.into_iter().map(|found| found.domain.name).collect();
            if context.ui.is_json() {
                return context.ui.json(&names);
            }
            return names.iter().try_for_each(|name| context.ui.line(name));
        }
        let mut lines = Vec::new();
        let mut failed = 0;
        manager.autostart_all(Duration::from_secs(self.delay), |name, raised| {
            let (outcome, error) = match raised {
                Raised::Started(warnings) => {
                    for warning in warnings {
                        context.ui.warn(format!("domain '{name}': {warning}"));
                    }
                    context.ui.sentence(format!("Domain '{name}' started"))?;
                    ("started", None)
                }
                Raised::Running => {
                    let text = format!("Domain '{name}' is running already");
                    context.ui.sentence(text)?;
                    ("running", None)
                }
                Raised::Failed(error) => {
                    failed += 1;
                    let what = format!("Failed to start domain '{name}'");
                    let error = error.clone().context(what);
                    if !context.ui.is_json() {
                        context.ui.error(&error);
                    }
                    ("failed", Some(error))
                }
            };
            lines.push(Line {
                domain: name.to_string(),
                outcome,
                error,
            });
            Ok(())
        })?;
        if context.ui.is_json() {
            context.ui.json(&lines)?;
        } else if lines.is_empty() {
            context.ui.sentence("No domain starts with the host")?;
        }
        if failed == 0 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Host,
            format!("{failed} of {} domains could not be started", lines.len()),
        ))
    }
}
