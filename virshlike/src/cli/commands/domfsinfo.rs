//! `vm domfsinfo`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// List the file systems that a guest has mounted, by its agent
#[derive(Debug, clap::Args)]
pub struct Domfsinfo {
    /// The domain: name, id or UUID
    domain: String,
}

impl Verb for Domfsinfo {
    const NAME: &'static str = "domfsinfo";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let systems = manager.guest_file_systems(&domain)?;
        if context.ui.is_json() {
            return context.ui.json(&systems);
        }
        if systems.is_empty() {
            return context.ui.line("No filesystems are mounted in the domain");
        }
        let mut table = Table::new(&["Mountpoint", "Name", "Type", "Target"]);
        for system in systems {
            let targets = system.disks.into_iter().filter_map(|disk| disk.target);
            table.row([
                system.mountpoint,
                system.name,
                system.kind,
                targets.collect::<Vec<_>>().join(","),
            ]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}
