//! `vm nodecpumap`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::node::{Kernel, parse_list};
use std::fmt::Write as _;

/// Print which processors this host has, and which of them are online
#[derive(Debug, clap::Args)]
pub struct Nodecpumap {
    /// Show the online ones as a list
    #[arg(long)]
    pretty: bool,
}

impl Verb for Nodecpumap {
    const NAME: &'static str = "nodecpumap";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let map = Kernel::default().cpu_map();
        if context.ui.is_json() {
            return context.ui.json(&map);
        }
        let online = parse_list(&map.map);
        let drawn: String = (0u32..)
            .take(map.present)
            .map(|cpu| if online.contains(&cpu) { 'y' } else { '-' })
            .collect();
        let shown = if self.pretty { map.map } else { drawn };
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<15} {}", "CPUs present:", map.present);
        let _ = writeln!(text, "{:<15} {}", "CPUs online:", map.online);
        let _ = writeln!(text, "{:<15} {shown}", "CPU map:");
        context.ui.data(&text)
    }
}
