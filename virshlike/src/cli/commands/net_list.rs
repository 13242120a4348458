//! `vm net-list`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::network::Facts;
use serde::Serialize;
use uuid::Uuid;

/// List networks: the active ones, or with --all every one
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub struct NetList {
    /// Every network
    #[arg(long)]
    all: bool,
    /// Only those that are not active
    #[arg(long)]
    inactive: bool,
    /// Only those with a definition
    #[arg(long)]
    persistent: bool,
    /// Only those without a definition
    #[arg(long)]
    transient: bool,
    /// Only those that start with the host
    #[arg(long)]
    autostart: bool,
    /// Only those that do not start with the host
    #[arg(long)]
    no_autostart: bool,
    /// Print UUIDs only
    #[arg(long, conflicts_with_all = ["name", "table"])]
    uuid: bool,
    /// Print names only
    #[arg(long, conflicts_with = "table")]
    name: bool,
    /// Print a table; that is what happens anyway
    #[arg(long)]
    table: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    uuid: Uuid,
    active: bool,
    autostart: bool,
    persistent: bool,
    bridge: Option<String>,
    faults: Vec<&'static str>,
}

impl Verb for NetList {
    const NAME: &'static str = "net-list";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let mut list = context.manager()?.networks().list()?;
        list.retain(|facts| self.wants(facts));
        for facts in &list {
            tell_faults(context, facts);
        }
        if context.ui.is_json() {
            let lines: Vec<Line> = list.into_iter().map(line).collect();
            return context.ui.json(&lines);
        }
        if self.name || self.uuid {
            return list.iter().try_for_each(|facts| match self.name {
                true => context.ui.line(&facts.name),
                false => context.ui.line(facts.uuid),
            });
        }
        let mut table = Table::new(&["Name", "State", "Autostart", "Persistent"]);
        let yes = |value: bool| if value { "yes" } else { "no" }.to_string();
        for facts in list {
            let state = if facts.active { "active" } else { "inactive" };
            table.row([
                facts.name,
                state.to_string(),
                yes(facts.autostart),
                yes(facts.persistent),
            ]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}

/// Says on standard error what of an active network is missing, and how it comes back.
pub fn tell_faults(context: &Context, facts: &Facts) {
    for fault in &facts.faults {
        context
            .ui
            .warn(format!("network '{}': {}", facts.name, fault.as_str()));
    }
    if !facts.faults.is_empty() {
        context
            .ui
            .hint(format!("put it back: vm net-start {}", facts.name));
    }
}

fn line(facts: Facts) -> Line {
    Line {
        name: facts.name,
        uuid: facts.uuid,
        active: facts.active,
        autostart: facts.autostart,
        persistent: facts.persistent,
        bridge: facts.bridge,
        faults: facts.faults.iter().map(|fault| fault.as_str()).collect(),
    }
}

impl NetList {
    fn wants(&self, facts: &Facts) -> bool {
        let activity = self.all || facts.active != self.inactive;
        let persistence = self.persistent == self.transient || facts.persistent == self.persistent;
        let autostart = self.autostart == self.no_autostart || facts.autostart == self.autostart;
        activity && persistence && autostart
    }
}
