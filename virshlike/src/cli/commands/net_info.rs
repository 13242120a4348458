//! `vm net-info`

use super::net_list::tell_faults;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use serde::Serialize;
use std::fmt::Write as _;
use uuid::Uuid;

#[derive(Debug, Serialize)]
struct Line {
    name: String,
    uuid: Uuid,
    active: bool,
    persistent: bool,
    autostart: bool,
    bridge: Option<String>,
    faults: Vec<&'static str>,
}

/// Print the facts of a network
#[derive(Debug, clap::Args)]
pub struct NetInfo {
    /// The network: name or UUID
    network: String,
}

impl Verb for NetInfo {
    const NAME: &'static str = "net-info";
    const GROUP: Group = Group::Network;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let networks = manager.networks();
        let found = networks.find(&self.network)?;
        let facts = networks.facts(&found);
        tell_faults(context, &facts);
        if context.ui.is_json() {
            return context.ui.json(&Line {
                name: facts.name,
                uuid: facts.uuid,
                active: facts.active,
                persistent: facts.persistent,
                autostart: facts.autostart,
                bridge: facts.bridge,
                faults: facts.faults.iter().map(|fault| fault.as_str()).collect(),
            });
        }
        let yes = |value: bool| if value { "yes" } else { "no" }.to_string();
        let mut lines = vec![
            ("Name:", facts.name),
            ("UUID:", facts.uuid.to_string()),
            ("Active:", yes(facts.active)),
            ("Persistent:", yes(facts.persistent)),
            ("Autostart:", yes(facts.autostart)),
        ];
        lines.extend(facts.bridge.map(|bridge| ("Bridge:", bridge)));
        let mut text = String::new();
        for (label, value) in lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:<15} {value}");
        }
        context.ui.data(&text)
    }
}
