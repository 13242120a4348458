//! `vm setmem` and `vm setmaxmem`

use super::vcpupin::Scope;
use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::model::amount_kib;

/// Change how much of its memory a domain has: its balloon takes the rest
///
/// The guest gives up its memory step by step, as far as it can do without it: vm dommemstat tells how far
/// it is.
#[derive(Debug, clap::Args)]
pub struct Setmem {
    #[command(flatten)]
    change: Change,
}

/// Change how much memory a domain has from its next start on
#[derive(Debug, clap::Args)]
pub struct Setmaxmem {
    #[command(flatten)]
    change: Change,
}

/// An amount of memory for a domain.
#[derive(Debug, clap::Args)]
struct Change {
    /// The domain: name, id or UUID
    domain: String,
    /// KiB, or a number and its unit, such as 2G
    #[arg(id = "size", value_name = "SIZE")]
    size: String,
    #[command(flatten)]
    scope: Scope,
}

impl Change {
    /// The amount in KiB.
    fn kib(&self) -> Result<u64> {
        let kib = amount_kib(&self.size).filter(|kib| *kib > 0);
        kib.ok_or_else(|| {
            let message = format!("invalid argument: '{}' is no amount of memory", self.size);
            Error::new(Kind::Usage, message).hint("a number of KiB, or with a unit: 2G, 512MiB")
        })
    }
}

impl Verb for Setmem {
    const NAME: &'static str = "setmem";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.change.domain)?;
        let kib = self.change.kib()?;
        context
            .manager()?
            .set_memory(&domain, kib, self.change.scope.affects())
    }
}

impl Verb for Setmaxmem {
    const NAME: &'static str = "setmaxmem";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.change.domain)?;
        let kib = self.change.kib()?;
        context
            .manager()?
            .set_max_memory(&domain, kib, self.change.scope.affects())
            .map_err(|error| error.context("Unable to change MaxMemorySize"))
    }
}
