//! `vm schedinfo`

use super::vcpupin::Scope;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::tuning::cpu_max;
use crate::runtime::limits::{CpuMax, Limit, Limits, PERIODS, QUOTAS, WEIGHT, WEIGHTS};
use std::ops::RangeInclusive;

/// Print or change how much CPU time a domain gets
///
/// cpu_shares is its weight beside others, 1 to 10000, where everybody has 100; global_quota the
/// microseconds of CPU time that its whole process gets in each global_period, -1 for any. They are
/// changed as NAME=NUMBER.
#[derive(Debug, clap::Args)]
pub struct Schedinfo {
    /// The domain: name, id or UUID
    domain: String,
    /// A number to change, such as cpu_shares=200; may be given several times
    #[arg(long, value_name = "NAME=NUMBER")]
    set: Vec<String>,
    /// The same
    #[arg(value_name = "NAME=NUMBER")]
    parameters: Vec<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Numbers of virsh's that this build has no limit for.
const NOT_BUILT: [&str; 6] = [
    "vcpu_period",
    "vcpu_quota",
    "emulator_period",
    "emulator_quota",
    "iothread_period",
    "iothread_quota",
];

/// What is to be changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    shares: Option<u64>,
    period: Option<u64>,
    /// None in it: any.
    quota: Option<Option<u64>>,
}

impl Wanted {
    fn parse<'a>(words: impl Iterator<Item = &'a String>) -> Result<Self> {
        let mut wanted = Self::default();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                let message = format!("Invalid syntax for --set, expecting name=value: '{word}'");
                return Err(Error::new(Kind::Usage, message));
            };
            match name {
                "cpu_shares" => wanted.shares = Some(number(name, value, &WEIGHTS)?),
                "global_period" => wanted.period = Some(number(name, value, &PERIODS)?),
                "global_quota" if value.parse::<i64>().is_ok_and(|number| number < 0) => {
                    wanted.quota = Some(None);
                }
                "global_quota" => wanted.quota = Some(Some(number(name, value, &QUOTAS)?)),
                name if NOT_BUILT.contains(&name) => {
                    let message = format!("{name} cannot be set: this is not built yet");
                    return Err(Error::new(Kind::Unsupported, message)
                        .cause("CPU time is limited for the whole process only")
                        .hint("vm schedinfo NAME --set global_quota=NUMBER"));
                }
                name => {
                    let message = format!("invalid scheduler option: {name}");
                    return Err(Error::new(Kind::Usage, message)
                        .hint("there are cpu_shares, global_period and global_quota"));
                }
            }
        }
        Ok(wanted)
    }

    fn limits(&self, now: &Limits) -> Vec<Limit> {
        let shares = self.shares.map(|shares| Limit::CpuWeight(Some(shares)));
        let time = self.period.is_some() || self.quota.is_some();
        let time = time.then(|| Limit::CpuMax(cpu_max(now, self.quota, self.period)));
        shares.into_iter().chain(time).collect()
    }
}

fn number(name: &str, value: &str, range: &RangeInclusive<u64>) -> Result<u64> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let message = format!("invalid argument: '{value}' is no value for {name}");
        let hint = format!("it takes {} to {}", range.start(), range.end());
        Error::new(Kind::Usage, message).hint(hint)
    })
}

impl Verb for Schedinfo {
    const NAME: &'static str = "schedinfo";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let wanted = Wanted::parse(self.set.iter().chain(&self.parameters))?;
        let affects = self.scope.affects();
        if wanted != Wanted::default() {
            manager.set_limits(&domain, Self::NAME, affects, |now| wanted.limits(now))?;
            if context.ui.quiet || affects.live && affects.config {
                return Ok(());
            }
        }
        let limits = manager.limits(&domain, self.scope.of_query()?)?;
        let max = limits.cpu_max.unwrap_or(CpuMax::ANY);
        let shares = limits.cpu_weight.unwrap_or(WEIGHT);
        // virsh's number for any.
        let quota = max.quota_us.and_then(|quota| i64::try_from(quota).ok());
        let quota = quota.unwrap_or(-1);
        if context.ui.is_json() {
            return context.ui.json(&serde_json::json!({
                "scheduler": "posix",
                "cpu_shares": shares,
                "global_period": max.period_us,
                "global_quota": quota,
            }));
        }
        context.ui.line(format!("{:<15}: posix", "Scheduler"))?;
        context.ui.line(format!("{:<15}: {shares}", "cpu_shares"))?;
        context
            .ui
            .line(format!("{:<15}: {}", "global_period", max.period_us))?;
        context.ui.line(format!("{:<15}: {quota}", "global_quota"))
    }
}
