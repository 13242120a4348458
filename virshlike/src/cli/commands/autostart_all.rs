//! `vm autostart-all`

use crate::cli::report::Report;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::fleet::Raised;
use std::time::Duration;

/// Start every domain that is marked as autostarted and does not run; what the host's boot runs
///
/// Networks that are marked so come before them.
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
        manager.sweep_cores();
        let networks = self.networks(context)?;
        let mut report = Report::new(context);
        manager.autostart_all(
            Duration::from_secs(self.delay),
            |name, raised| match raised {
                Raised::Started(warnings) => {
                    for warning in warnings {
                        context.ui.warn(format!("domain '{name}': {warning}"));
                    }
                    report.well(name, "started", None, format!("Domain '{name}' started"))
                }
                Raised::Running => {
                    let text = format!("Domain '{name}' is running already");
                    report.well(name, "running", None, text)
                }
                Raised::Failed(error) => {
                    let what = format!("Failed to start domain '{name}'");
                    report.failed(name, None, error.clone().context(what));
                    Ok(())
                }
            },
        )?;
        let ended = report.end(
            "No domain starts with the host",
            Kind::Host,
            "could not be started",
        );
        match networks {
            0 => ended,
            count => ended.and(Err(Error::new(
                Kind::Host,
                format!("{count} networks could not be started"),
            ))),
        }
    }
}

impl AutostartAll {
    /// Starts the networks; how many could not be.
    fn networks(&self, context: &Context) -> Result<usize> {
        let mut failed = 0;
        let networks = context.manager()?.networks();
        networks.autostart_all(|name, raised| {
            match raised {
                Ok(raised) => {
                    for warning in &raised.warnings {
                        context.ui.warn(warning);
                    }
                    context.ui.sentence(format!("Network {name} started"))?;
                }
                Err(error) => {
                    failed += 1;
                    let what = format!("Failed to start network {name}");
                    context.ui.error(&error.context(what));
                }
            }
            Ok(())
        })?;
        Ok(failed)
    }
}
