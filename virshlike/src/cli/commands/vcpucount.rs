//! `vm vcpucount`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Result};
use crate::runtime::guest::ANSWER;

/// Print how many virtual CPUs a domain has and can have
///
/// With any option it is one number.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct Vcpucount {
    /// The domain: name, id or UUID
    domain: String,
    /// Only how many it can have
    #[arg(long, conflicts_with = "active")]
    maximum: bool,
    /// Only how many it has
    #[arg(long)]
    active: bool,
    /// Only of the running domain
    #[arg(long, conflicts_with = "config")]
    live: bool,
    /// Only of the definition on disk
    #[arg(long)]
    config: bool,
    /// Only of the running domain, or of the definition of one that is not running
    #[arg(long, conflicts_with_all = ["live", "config", "guest"])]
    current: bool,
    /// Only how many the guest uses, by its agent
    #[arg(long, conflicts_with_all = ["maximum", "live", "config"])]
    guest: bool,
}

impl Verb for Vcpucount {
    const NAME: &'static str = "vcpucount";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if self.guest {
            let used = manager.guest_vcpus(&domain)?;
            let online = used.iter().filter(|vcpu| vcpu.online).count();
            return match context.ui.is_json() {
                true => context.ui.json(&online),
                false => context.ui.line(online),
            };
        }
        let mut rows: Vec<(&str, &str, u32)> = Vec::new();
        if domain.persistent {
            let (_, model) = manager.current_definition(&domain, None)?;
            rows.push(("maximum", "config", model.vcpus.max));
            rows.push(("current", "config", model.vcpus.current));
        }
        if let Some(guest) = manager.guest(&domain)? {
            let (_, model) = manager.current_definition(&domain, Some(&guest))?;
            rows.push(("maximum", "live", model.vcpus.max));
            rows.push(("current", "live", guest.status(ANSWER)?.vcpus));
        }
        if self.maximum || self.active || self.live || self.config || self.current {
            return self.one(context, &rows);
        }
        // virsh shows both maxima before both counts.
        rows.sort_by_key(|(what, _, _)| *what != "maximum");
        if context.ui.is_json() {
            let value: serde_json::Map<String, serde_json::Value> = rows
                .into_iter()
                .map(|(what, which, count)| (format!("{what}_{which}"), count.into()))
                .collect();
            return context.ui.json(&value);
        }
        for (what, which, count) in rows {
            context
                .ui
                .line(format!("{what:<12} {which:<12} {count:>3}"))?;
        }
        Ok(())
    }
}

impl Vcpucount {
    /// The one number that the options name.
    fn one(&self, context: &Context, rows: &[(&str, &str, u32)]) -> Result<()> {
        let runs = rows.iter().any(|(_, which, _)| *which == "live");
        let which = match self.live || (runs && !self.config) {
            true => "live",
            false => "config",
        };
        let what = if self.maximum { "maximum" } else { "current" };
        let found = rows.iter().find(|row| row.0 == what && row.1 == which);
        let Some((_, _, count)) = found else {
            return Err(Error::invalid_operation(match which {
                "live" => "domain is not running",
                _ => "transient domains do not have any persistent config",
            }));
        };
        match context.ui.is_json() {
            true => context.ui.json(count),
            false => context.ui.line(count),
        }
    }
}
