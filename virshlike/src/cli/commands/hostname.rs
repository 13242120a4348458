//! `vm hostname`

use crate::cli::{Context, Group, Verb};
use crate::error::Result;

/// Print this host's name
#[derive(Debug, clap::Args)]
pub struct Hostname {}

impl Verb for Hostname {
    const NAME: &'static str = "hostname";
    const GROUP: Group = Group::Host;

    fn run(self, context: &Context) -> Result<()> {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        if context.ui.is_json() {
            return context.ui.json(&name);
        }
        context.ui.line(name)
    }
}
