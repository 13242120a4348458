//! `vm domiflist`

use crate::cli::table::Table;
use crate::cli::{Context, Group, Verb};
use crate::error::Result;
use crate::model::InterfaceSource;
use serde::Serialize;

/// List the network interfaces of a domain
#[derive(Debug, clap::Args)]
pub struct Domiflist {
    /// The domain: name, id or UUID
    domain: String,
    /// Those of the definition on disk
    #[arg(long)]
    inactive: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    interface: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    model: String,
    mac: Option<String>,
}

impl Verb for Domiflist {
    const NAME: &'static str = "domiflist";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = if self.inactive {
            None
        } else {
            manager.guest(&domain)?
        };
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let taps = guest.map(|guest| guest.record.taps).unwrap_or_default();
        let lines: Vec<Line> = model
            .interfaces
            .into_iter()
            .map(|interface| {
                let (kind, source) = match interface.source {
                    InterfaceSource::Network(name) => ("network".to_string(), Some(name)),
                    InterfaceSource::Bridge(name) => ("bridge".to_string(), Some(name)),
                    InterfaceSource::Ethernet => ("ethernet".to_string(), None),
                    InterfaceSource::User(_) => ("user".to_string(), None),
                    InterfaceSource::Other(kind) => (kind, None),
                };
                Line {
                    interface: taps.get(&interface.alias).cloned().or(interface.target),
                    kind,
                    source,
                    model: interface.model,
                    mac: interface.mac.map(|mac| mac.to_string()),
                }
            })
            .collect();
        if context.ui.is_json() {
            return context.ui.json(&lines);
        }
        let mut table = Table::new(&["Interface", "Type", "Source", "Model", "MAC"]);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        for line in lines {
            table.row([
                or_dash(line.interface),
                line.kind,
                or_dash(line.source),
                line.model,
                or_dash(line.mac),
            ]);
        }
        context.ui.data(&table.render(context.ui.quiet))
    }
}
