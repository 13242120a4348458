//! `vm domhostname`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

/// Print what a guest calls itself
///
/// Its agent knows, and so does a network of ours to which it said so when it asked for an address.
#[derive(Debug, clap::Args)]
pub struct Domhostname {
    /// The domain: name, id or UUID
    domain: String,
    /// Who is asked: agent, lease, or any of the two, the agent first
    #[arg(
        long,
        value_name = "SOURCE",
        default_value = "agent",
        hide_default_value = true
    )]
    source: String,
}

impl Verb for Domhostname {
    const NAME: &'static str = "domhostname";
    const GROUP: Group = Group::Monitoring;

    fn run(self, context: &Context) -> Result<()> {
        let manager = context.manager()?;
        let domain = context.domain(&self.domain)?;
        let name = match self.source.as_str() {
            "agent" => manager.guest_hostname(&domain),
            "lease" => manager.leased_hostname(&domain),
            "any" => {
                let told = manager.guest_hostname(&domain);
                told.or_else(|error| manager.leased_hostname(&domain).map_err(|_| error))
            }
            other => {
                let message = format!("Unknown data source '{other}'");
                Err(Error::new(Kind::Usage, message).hint("use agent, lease or any"))
            }
        }?;
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        if context.ui.is_json() {
            return context.ui.json(&name);
        }
        context.ui.line(name)
    }
}
