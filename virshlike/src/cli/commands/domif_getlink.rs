//! `vm domif-getlink`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};
use serde_json::json;

/// Print whether the cable of a network interface is in
#[derive(Debug, clap::Args)]
pub struct DomifGetlink {
    /// The domain: name, id or UUID
    domain: String,
    /// The interface: its tap, such as vnet0, or its MAC address
    interface: String,
    /// What the definition on disk says
    #[arg(long)]
    config: bool,
}

impl Verb for DomifGetlink {
    const NAME: &'static str = "domif-getlink";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let guest = match self.config {
            true => None,
            false => manager.guest(&domain)?,
        };
        let (_, model) = manager.current_definition(&domain, guest.as_ref())?;
        let taps = guest.map(|guest| guest.record.taps).unwrap_or_default();
        let word = self.interface.to_ascii_lowercase();
        let card = model.interfaces.iter().find(|card| {
            let tap = taps.get(&card.alias).or(card.target.as_ref());
            card.mac.is_some_and(|mac| mac.to_string() == word)
                || tap.is_some_and(|tap| *tap == self.interface)
        });
        let card = card.ok_or_else(|| {
            let what = format!(
                "domain '{}' has no interface '{}'",
                domain.name, self.interface
            );
            Error::new(Kind::NotFound, what).hint(format!("vm domiflist {}", domain.name))
        })?;
        let state = if card.link_up { "up" } else { "down" };
        if context.ui.is_json() {
            return context
                .ui
                .json(&json!({ "interface": self.interface, "link": state }));
        }
        context.ui.line(format!("{} {state}", self.interface))
    }
}
