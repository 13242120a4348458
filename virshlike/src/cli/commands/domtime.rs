//! `vm domtime`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::agent::Clock;
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// Print or set a guest's clock, by its agent
#[derive(Debug, clap::Args)]
pub struct Domtime {
    /// The domain: name, id or UUID
    domain: String,
    /// Set it to this host's time
    #[arg(long, conflicts_with_all = ["sync", "time"])]
    now: bool,
    /// Print it as date and time of day, in UTC
    #[arg(long)]
    pretty: bool,
    /// Set it to what the machine's own clock says
    #[arg(long, conflicts_with = "time")]
    sync: bool,
    /// Set it to so many seconds since the beginning of 1970
    #[arg(long, value_name = "SECONDS", alias = "set")]
    time: Option<i64>,
}

impl Verb for Domtime {
    const NAME: &'static str = "domtime";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let clock = match (self.now, self.sync, self.time) {
            (true, ..) => Some(Clock::At(now())),
            (_, true, _) => Some(Clock::Machine),
            (.., Some(seconds)) => Some(Clock::At(nanoseconds(seconds)?)),
            _ => None,
        };
        if let Some(clock) = clock {
            return manager.set_guest_time(&domain, clock);
        }
        let time = manager.guest_time(&domain)?;
        let seconds = time.div_euclid(1_000_000_000);
        if context.ui.is_json() {
            return context
                .ui
                .json(&json!({ "time": seconds, "time_ns": time }));
        }
        if !self.pretty {
            return context.ui.line(format!("Time: {seconds}"));
        }
        let moment = jiff::Timestamp::from_second(seconds).map_err(|_| {
            Error::new(
                Kind::Guest,
                format!("the guest's clock is beyond all dates: {seconds}"),
            )
        })?;
        context
            .ui
            .line(format!("Time: {}", moment.strftime("%Y-%m-%d %H:%M:%S")))
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}

fn nanoseconds(seconds: i64) -> Result<i64> {
    seconds.checked_mul(1_000_000_000).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("Unable to set time to {seconds}: no clock of a guest reaches it"),
        )
    })
}
