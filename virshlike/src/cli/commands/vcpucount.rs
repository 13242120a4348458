//! `vm vcpucount`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::runtime::guest::ANSWER;

/// Print how many virtual CPUs a domain has and can have
#[derive(Debug, clap::Args)]
pub struct Vcpucount {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Vcpucount {
    const NAME: &'static str = "vcpucount";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
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
