//! `vm nodeinfo`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::manager::host;
use std::fmt::Write as _;

/// Print the facts of this host
#[derive(Debug, clap::Args)]
pub struct Nodeinfo {}

impl Verb for Nodeinfo {
    const NAME: &'static str = "nodeinfo";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let node = host::node();
        if context.ui.is_json() {
            return context.ui.json(&node);
        }
        let facts = [
            ("CPU model:", node.model.clone()),
            ("CPU(s):", node.cpus.to_string()),
            ("CPU frequency:", format!("{} MHz", node.mhz)),
            ("CPU socket(s):", node.sockets.to_string()),
            ("Core(s) per socket:", node.cores.to_string()),
            ("Thread(s) per core:", node.threads.to_string()),
            ("NUMA cell(s):", node.cells.to_string()),
            ("Memory size:", format!("{} KiB", node.memory_kib)),
        ];
        let mut text = String::new();
        for (label, value) in facts {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:<20} {value}");
        }
        context.ui.data(&text)
    }
}
