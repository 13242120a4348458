//! `vm shutdown-all`

use crate::cli::report::Report;
use crate::cli::{Context, Group, Verb};
use crate::error::{Kind, Result};
use crate::manager::fleet::Ended;
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

impl Verb for ShutdownAll {
    const NAME: &'static str = "shutdown-all";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let mut report = Report::new(context);
        let names: Vec<_> = manager.guests()?;
        for guest in &names {
            let name = &guest.record.name;
            context
                .ui
                .sentence(format!("Domain '{name}' is being shutdown"))?;
        }
        manager.shutdown_all(Duration::from_secs(self.timeout), |farewell| {
            let (name, took) = (&farewell.name, farewell.took);
            match &farewell.how {
                Ended::ByItself => {
                    let seconds = took.as_secs_f64();
                    let text = format!("Domain '{name}' is shut off ({seconds:.1} s)");
                    return report.well(name, "shut off", Some(took), text);
                }
                Ended::Destroyed => {
                    let limit = self.timeout;
                    let text = format!(
                        "domain '{name}' did not power down within {limit} s and was destroyed"
                    );
                    report.badly(name, "destroyed", Some(took), text);
                }
                Ended::Failed(error) => {
                    let what = format!("Failed to end domain '{name}'");
                    report.failed(name, Some(took), error.clone().context(what));
                }
            }
            Ok(())
        })?;
        report.end("No domain is running", Kind::Guest, "did not power down")
    }
}
