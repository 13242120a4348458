//! `vm dommemstat`

use super::vcpupin::Scope;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use serde_json::{Map, Value};

/// Print the memory of a running domain: what its guest has and says of it, and what its process holds
///
/// Amounts are in KiB. What the guest says is asked for when it is older than two seconds; with a period it
/// comes by itself.
#[derive(Debug, clap::Args)]
pub struct Dommemstat {
    /// The domain: name, id or UUID
    domain: String,
    /// Ask the guest every so many seconds, 0 for only when somebody wants to know; prints nothing
    #[arg(long, value_name = "SECONDS")]
    period: Option<u32>,
    #[command(flatten)]
    scope: Scope,
}

impl Verb for Dommemstat {
    const NAME: &'static str = "dommemstat";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let manager = context.manager()?;
        if let Some(seconds) = self.period {
            return manager.set_stats_period(&domain, seconds, self.scope.affects());
        }
        let figures = manager.memory_stats(&domain)?;
        if context.ui.is_json() {
            return context
                .ui
                .json(&figures.into_iter().collect::<Map<String, Value>>());
        }
        for (name, value) in figures {
            context.ui.line(format!("{name} {value}"))?;
        }
        Ok(())
    }
}
