//! `vm guestvcpus`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use crate::manager::agent::facts::Vcpu;
use crate::manager::node::format_list;
use crate::model::cpu_list;
use serde_json::json;
use std::collections::BTreeSet;

/// Print or change which of its processors a guest uses, by its agent
#[derive(Debug, clap::Args)]
pub struct Guestvcpus {
    /// The domain: name, id or UUID
    domain: String,
    /// The processors that are changed, such as 1-3
    #[arg(long, value_name = "LIST")]
    cpulist: Option<String>,
    /// Use them
    #[arg(long, requires = "cpulist")]
    enable: bool,
    /// Do not use them
    #[arg(long, requires = "cpulist", conflicts_with = "enable")]
    disable: bool,
}

impl Verb for Guestvcpus {
    const NAME: &'static str = "guestvcpus";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        if let Some(list) = &self.cpulist {
            if !self.enable && !self.disable {
                let message =
                    "One of options --enable or --disable is required by option --cpulist";
                return Err(Error::new(Kind::Usage, message));
            }
            let numbers = cpu_list(list).ok_or_else(|| {
                Error::new(Kind::Usage, format!("'{list}' is no list of processors"))
                    .hint("such as 1-3,5")
            })?;
            let numbers: Vec<u32> = numbers.into_iter().collect();
            return manager.set_guest_vcpus(&domain, &numbers, self.enable);
        }
        let vcpus = manager.guest_vcpus(&domain)?;
        let list = |wanted: fn(&Vcpu) -> bool| {
            let numbers = vcpus.iter().filter(|vcpu| wanted(vcpu));
            let numbers: BTreeSet<u32> = numbers.map(|vcpu| vcpu.logical_id).collect();
            format_list(&numbers)
        };
        let rows = [
            ("vcpus", list(|_| true)),
            ("online", list(|vcpu| vcpu.online)),
            ("offlinable", list(|vcpu| vcpu.can_offline)),
        ];
        if context.ui.is_json() {
            let [all, online, offlinable] = rows.map(|(_, list)| list);
            return context
                .ui
                .json(&json!({ "vcpus": all, "online": online, "offlinable": offlinable }));
        }
        for (name, list) in rows {
            context.ui.line(format!("{name:<15}: {list}"))?;
        }
        Ok(())
    }
}
