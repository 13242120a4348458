//! `vm domhostname`

use crate::cli::{Context, Group, Verb};
use crate::error::{Error, Kind, Result};

/// Print what a guest calls itself, by its agent
#[derive(Debug, clap::Args)]
pub struct Domhostname {
    /// The domain: name, id or UUID
    domain: String,
    /// Who is asked: agent
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
        match self.source.as_str() {
            "agent" => {}
            "lease" => {
                let message = "names that guests told a network are not known yet";
                return Err(Error::new(Kind::Unsupported, message).hint("use --source agent"));
            }
            other => {
                let message = format!("Unknown data source '{other}'");
                return Err(Error::new(Kind::Usage, message).hint("use agent"));
            }
        }
        let name = manager.guest_hostname(&domain)?;
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        if context.ui.is_json() {
            return context.ui.json(&name);
        }
        context.ui.line(name)
    }
}
