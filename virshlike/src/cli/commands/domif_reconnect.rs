//! `vm domif-reconnect`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Start passt again for network interfaces whose passt has ended (`vm daemon` does it by itself)
#[derive(Debug, clap::Args)]
pub struct DomifReconnect {
    /// The domain: name, id or UUID
    domain: String,
    /// The interface: its MAC address; all without it
    interface: Option<String>,
}

impl Verb for DomifReconnect {
    const NAME: &'static str = "domif-reconnect";
    const GROUP: Group = Group::Domain;

    fn run(self, context: &Context) -> Result<()> {
        let domain = context.domain(&self.domain)?;
        let only = self.interface.as_deref();
        let reconnected = context.manager()?.reconnect_cards(&domain, only)?;
        if reconnected.is_empty() {
            let sentence = format!(
                "Every passt of domain '{}' serves, nothing to do",
                domain.name
            );
            return context.ui.sentence(sentence);
        }
        for card in reconnected {
            context
                .ui
                .sentence(format!("Interface {card} reconnected"))?;
        }
        Ok(())
    }
}
