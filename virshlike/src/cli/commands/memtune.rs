//! `vm memtune` and `vm blkiotune`

use super::vcpupin::Scope;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::model::amount_kib;
use crate::runtime::limits::{Limit, WEIGHT, WEIGHTS};

/// Print or change how much memory of the host a domain may take
///
/// All of its process counts, the guest's RAM among it. Beyond the hard limit the kernel ends the guest,
/// beyond the soft one it takes memory back. Numbers are KiB where no unit is given; -1 ends a limit.
#[derive(Debug, clap::Args)]
pub struct Memtune {
    /// The domain: name, id or UUID
    domain: String,
    /// The most memory that it may take
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    hard_limit: Option<String>,
    /// From here on memory is taken back
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    soft_limit: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Print or change the weight of a domain's disk requests beside others
#[derive(Debug, clap::Args)]
pub struct Blkiotune {
    /// The domain: name, id or UUID
    domain: String,
    /// 1 to 10000; everybody has 100
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u64>,
    #[command(flatten)]
    scope: Scope,
}

/// Bytes; none for no limit.
fn bytes(text: &str) -> Result<Option<u64>> {
    if text == "-1" {
        return Ok(None);
    }
    // A guest that may have no memory at all would be ended at once.
    let bytes = amount_kib(text)
        .filter(|kib| *kib > 0)
        .and_then(|kib| kib.checked_mul(1024));
    bytes.map(Some).ok_or_else(|| {
        let message = format!("invalid argument: '{text}' is no amount of memory");
        Error::new(Kind::Usage, message)
            .hint("a number of KiB, or with a unit: 2G; -1 for no limit")
    })
}

impl Verb for Memtune {
    const NAME: &'static str = "memtune";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let hard = self.hard_limit.as_deref().map(bytes).transpose()?;
        let soft = self.soft_limit.as_deref().map(bytes).transpose()?;
        let wanted: Vec<Limit> = [hard.map(Limit::MemoryMax), soft.map(Limit::MemoryHigh)]
            .into_iter()
            .flatten()
            .collect();
        if !wanted.is_empty() {
            let affects = self.scope.affects();
            let changed = manager.set_limits(&domain, Self::NAME, affects, |_| wanted.clone());
            return changed.map_err(|error| error.context("Unable to change memory parameters"));
        }
        let limits = manager.limits(&domain, self.scope.of_query()?)?;
        let kib = |bytes: Option<u64>| bytes.map(|bytes| bytes / 1024);
        let rows = [
            ("hard_limit", kib(limits.memory_max)),
            ("soft_limit", kib(limits.memory_high)),
        ];
        if context.ui.is_json() {
            let pairs = rows.map(|(name, kib)| (format!("{name}_kib"), kib.into()));
            let object: serde_json::Map<_, _> = pairs.into_iter().collect();
            return context.ui.json(&object);
        }
        rows.into_iter().try_for_each(|(name, kib)| {
            let value = kib.map_or("unlimited".to_string(), |kib| kib.to_string());
            context.ui.line(format!("{name:<15}: {value}"))
        })
    }
}

impl Verb for Blkiotune {
    const NAME: &'static str = "blkiotune";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if let Some(weight) = self.weight {
            if !WEIGHTS.contains(&weight) {
                let message = format!("invalid argument: {weight} is no weight");
                let hint = format!("it takes {} to {}", WEIGHTS.start(), WEIGHTS.end());
                return Err(Error::new(Kind::Usage, message).hint(hint));
            }
            let change = |_: &_| vec![Limit::IoWeight(Some(weight))];
            let changed = manager.set_limits(&domain, Self::NAME, self.scope.affects(), change);
            return changed.map_err(|error| error.context("Unable to change blkio parameters"));
        }
        let limits = manager.limits(&domain, self.scope.of_query()?)?;
        let weight = limits.io_weight.unwrap_or(WEIGHT);
        if context.ui.is_json() {
            return context.ui.json(&serde_json::json!({ "weight": weight }));
        }
        context.ui.line(format!("{:<15}: {weight}", "weight"))
    }
}
